// The loop round dual_mcmc_step.
#include "training/train.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "data/dataset.h"
#include "formats/files.h"
#include "training/checkpoint.h"
#include "training/evaluation.h"
#include "training/progress.h"

namespace dualmcmc {

namespace fs = std::filesystem;

namespace {

constexpr int64_t max_rollbacks =
    5;  // divergences in a row, without a new checkpoint between them, before a run gives up
constexpr int64_t distance_images =
    512;  // images on each side of a sliced Wasserstein distance; fewer for batches below 32, see evaluate()
constexpr int64_t picture_images = 64;  // in each panel of a grid
constexpr uint64_t first_latents =
    uint64_t(1) << 55;  // the random numbers of persistent chains' first starts; iterations count from 0

std::string numbered(const std::string& folder, int64_t iteration, const std::string& ending) {
    char name[64];
    std::snprintf(name, sizeof name, "iteration-%06lld", static_cast<long long>(iteration));
    return folder + "/" + name + ending;
}

std::vector<std::string> checkpoints_in(const std::string& out) {
    std::vector<std::string> found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(out + "/checkpoints", error)) {
        const std::string name = entry.path().filename().string();
        if (name.starts_with("iteration-") && name.ends_with(".safetensors")) found.push_back(entry.path().string());
    }
    std::sort(found.begin(), found.end(), [](const std::string& a, const std::string& b) {
        return a.size() != b.size() ? a.size() < b.size() : a < b;
    });
    return found;
}

// What one iteration reports, as numbers; what its method does not have is absent.
struct Metrics {
    std::optional<double> mse, energy_data, energy_model, gap, loss_revise, nll_posterior, nll_generated;
    StepTimings seconds;
    double wall = 0;
    // A loss that is not a number, or an energy gap beyond the guard [release].
    bool good(double guard) const {
        for (const auto& value : {mse, energy_data, energy_model, loss_revise, nll_posterior, nll_generated})
            if (value && !std::isfinite(*value)) return false;
        return !gap || std::abs(*gap) <= guard;
    }
};

Metrics read_metrics(const StepResult& r, const Shape& images) {
    const double pixels = double(images[1] * images[2] * images[3]);
    auto number = [](const Tensor& scalar) {
        return scalar.defined() ? std::optional(double(scalar.item())) : std::nullopt;
    };
    Metrics m;
    if (m.mse = number(r.loss_recon); m.mse) *m.mse /= pixels;
    m.energy_data = number(r.energy_data);
    m.energy_model = number(r.energy_model);
    if (m.energy_data && m.energy_model) m.gap = *m.energy_model - *m.energy_data;
    m.loss_revise = number(r.loss_revise);
    m.nll_posterior = number(r.kl.defined() ? r.kl : r.nll_posterior);
    m.nll_generated = number(r.nll_generated);
    m.seconds = r.seconds;
    return m;
}

// metrics.csv: one row an iteration; the distances only where they were measured.
class MetricsFile {
public:
    static constexpr const char* header =
        "iteration,epoch,mse,energy_data,energy_model,energy_gap,loss_revise,nll_posterior,nll_prior,seconds,seconds_"
        "chain_x,"
        "seconds_chain_z,seconds_generator,seconds_encoder,seconds_ebm,swd_generator,swd_revised";

    // Keeps the rows up to `iteration` of a file that is there, so that a resumed run has each row once.
    MetricsFile(const std::string& path, int64_t iteration) : path_(path) { rewind(iteration); }

    void rewind(int64_t iteration) {
        std::string kept = text(header, "\n");
        std::ifstream before(path_);
        for (std::string line; std::getline(before, line);)
            if (!line.empty() && std::isdigit(static_cast<unsigned char>(line[0])) &&
                std::atoll(line.c_str()) <= iteration)
                kept += line + "\n";
        before.close();
        write_file(path_, kept);
    }

    void row(int64_t iteration, int64_t epoch, const Metrics& m, const std::string& distances) {
        std::ofstream out(path_, std::ios::app);
        out << iteration << ',' << epoch << ',';
        for (const auto& value :
             {m.mse, m.energy_data, m.energy_model, m.gap, m.loss_revise, m.nll_posterior, m.nll_generated}) {
            if (value) out << *value;
            out << ',';
        }
        out << m.wall << ',' << m.seconds.chain_x << ',' << m.seconds.chain_z << ',' << m.seconds.generator << ','
            << m.seconds.encoder << ',' << m.seconds.ebm << ',' << distances << '\n';
        out.flush();
        if (!out) fail(path_, ": cannot be written; is the disk full? Free some space and go on with --resume");
    }

private:
    std::string path_;
};

// One line that is drawn anew on a terminal, or a line now and then elsewhere.
class Progress {
public:
    // `temperature`: of the x-chain, on whose scale the energies are.
    Progress(int64_t total, int64_t every, double minutes, double temperature)
        : terminal_(isatty(STDOUT_FILENO)), total_(total), every_(every),
          seconds_left_(minutes > 0 ? 60 * minutes : INFINITY), temperature_(temperature) {}

    void show(int64_t iteration, int64_t epoch, const Metrics& m) {
        average_ = average_ == 0 ? m.wall : 0.9 * average_ + 0.1 * m.wall;
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
        const double left = std::min(average_ * double(total_ - iteration), seconds_left_ - seconds);
        if (!terminal_ && iteration % every_ != 0 && iteration != total_) return;
        const double all = std::max(1e-9, m.seconds.total());
        char line[256], mse[32] = "", gap[64] = "";
        if (m.mse) std::snprintf(mse, sizeof mse, "  mse %.4f", *m.mse);
        if (m.gap) std::snprintf(gap, sizeof gap, "  energy gap %+.3g (T %.3g)", *m.gap, temperature_);
        std::snprintf(line, sizeof line,
                      "%lld/%lld  epoch %lld  %.2f s/it  ETA %s%s%s  x-chain %.0f%% z-chain %.0f%% updates %.0f%%",
                      static_cast<long long>(iteration), static_cast<long long>(total_), static_cast<long long>(epoch),
                      average_, duration(left).c_str(), mse, gap, 100 * m.seconds.chain_x / all,
                      100 * m.seconds.chain_z / all, 100 * (all - m.seconds.chain_x - m.seconds.chain_z) / all);
        std::printf(terminal_ ? "\r\033[K%s" : "%s\n", line);
        std::fflush(stdout);
        open_ = terminal_;
    }

    // A line that stays.
    void say(const std::string& line) {
        std::printf("%s%s\n", open_ ? "\n" : "", line.c_str());
        std::fflush(stdout);
        open_ = false;
    }

private:
    bool terminal_, open_ = false;
    int64_t total_, every_;
    double average_ = 0, seconds_left_, temperature_;
    std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

class Run {
public:
    Run(const Config& config, const std::optional<LoadedCheckpoint>& resume, const TrainingHooks& hooks);
    bool go();

private:
    Tensor batch(int64_t iteration);
    std::vector<int64_t> indices(int64_t iteration) const;
    Tensor gather_chain_states(const std::vector<int64_t>& images) const;
    void scatter_chain_states(const std::vector<int64_t>& images, const Tensor& z);
    StepSettings settings_at(int64_t epoch) const;
    bool parameters_finite();
    std::string evaluate(int64_t iteration);
    void checkpoint(int64_t iteration);
    int64_t roll_back(int64_t iteration, const Metrics& metrics);
    // Noise of a run that has returned n times: another Philox key.
    uint64_t noise_seed() const { return uint64_t(config_.seed) + uint64_t(rollbacks_) * 0x9E3779B97F4A7C15u; }

    Config config_;
    TrainingHooks hooks_;
    Dataset data_;
    Models models_;
    int64_t batches_per_epoch_, total_, start_ = 0;
    int64_t rollbacks_ = 0, rollbacks_in_a_row_ = 0, last_checkpoint_ = -1;
    std::vector<int64_t> order_;
    int64_t order_epoch_ = -1;
    ChainStates latents_;  // of persistent z-chains
    std::optional<FolderLock> lock_;
    std::optional<MetricsFile> metrics_;
    Progress progress_;
};

int64_t batches(const Config& config, const Dataset& data) {
    if (config.batch > data.train.count)
        fail("--batch ", config.batch, ": larger than the data set of ", data.train.count, " images (", data.train.name,
             ")");
    return data.train.count / config.batch;  // the last partial batch is dropped [release]
}

Run::Run(const Config& config, const std::optional<LoadedCheckpoint>& resume, const TrainingHooks& hooks)
    : config_(config), hooks_(hooks),
      data_(load_dataset(config.data, config.model.image_size(), uint64_t(config.seed))),
      models_(config.model, uint64_t(config.seed)), batches_per_epoch_(batches(config, data_)),
      total_(config.iterations > 0 ? config.iterations : config.epochs * batches_per_epoch_),
      progress_(total_, config.log_every, config.minutes, double(config.step.chain_x.temperature())) {
    const Shape latents{data_.train.count, config.model.latent};
    const bool persistent = config.step.start_z == "persistent";
    if (persistent)
        latents_ =
            Tensor::normal(latents, random_key(uint64_t(config.seed), RngPurpose::prior, first_latents)).to_host();
    if (resume) {
        load_checkpoint(resume->file, resume->path, models_, true);
        if (persistent) latents_ = load_chain_states(resume->file, resume->path, latents[0], latents[1]);
        start_ = last_checkpoint_ = resume->iteration;
        rollbacks_ = resume->rollbacks;
    }
    make_folder(config_.out);
    lock_.emplace(config_.out, "another program trains");
    make_folder(config_.out + "/samples");
    make_folder(config_.out + "/checkpoints");
    write_file(config_.out + "/config.txt", config_to_text(config_));
    metrics_.emplace(config_.out + "/metrics.csv", start_);
}

// The images of one iteration: each epoch goes through a permutation of its own, drawn from (seed, epoch).
Tensor Run::batch(int64_t iteration) {
    const int64_t epoch = iteration / batches_per_epoch_, count = data_.train.count;
    const uint64_t seed = uint64_t(config_.seed);
    if (epoch != order_epoch_) {
        const auto keys =
            Tensor::uniform({count}, random_key(seed, RngPurpose::shuffle, uint64_t(epoch)), 0, 1).to_host();
        order_.resize(size_t(count));
        std::iota(order_.begin(), order_.end(), 0);
        std::stable_sort(order_.begin(), order_.end(),
                         [&](int64_t a, int64_t b) { return keys[size_t(a)] < keys[size_t(b)]; });
        order_epoch_ = epoch;
    }
    std::vector<bool> flip;
    if (config_.flip)
        for (const float u :
             Tensor::uniform({config_.batch}, random_key(seed, RngPurpose::flip, uint64_t(iteration)), 0, 1).to_host())
            flip.push_back(u > 0.5f);
    const Shape shape{config_.batch, data_.train.size, data_.train.size, 3};
    std::vector<float> pixels(size_t(element_count(shape)));
    gather_batch(data_.train, indices(iteration), flip, pixels.data());
    return Tensor::from_host(shape, pixels);
}

// Which images these are.
std::vector<int64_t> Run::indices(int64_t iteration) const {
    const auto first = order_.begin() + iteration % batches_per_epoch_ * config_.batch;
    return {first, first + config_.batch};
}

// Where the z-chains of these images ended last time (ABP's persistent chains, Han et al. 2017): (B, d).
Tensor Run::gather_chain_states(const std::vector<int64_t>& images) const {
    const int64_t d = config_.model.latent;
    std::vector<float> values;
    for (const int64_t i : images)
        values.insert(values.end(), latents_.begin() + i * d, latents_.begin() + (i + 1) * d);
    return Tensor::from_host({int64_t(images.size()), d}, values);
}

void Run::scatter_chain_states(const std::vector<int64_t>& images, const Tensor& z) {
    const int64_t d = config_.model.latent;
    const std::vector<float> values = z.to_host();
    for (size_t row = 0; row < images.size(); ++row)
        std::copy_n(values.begin() + int64_t(row) * d, d, latents_.begin() + images[row] * d);
}

StepSettings Run::settings_at(int64_t epoch) const {
    StepSettings s = config_.step;
    const float decay =
        float(std::pow(config_.lr_decay, double(epoch)) * std::pow(config_.rollback_lr_factor, double(rollbacks_)));
    for (AdamSettings* adam : {&s.adam_generator, &s.adam_ebm, &s.adam_encoder}) adam->learning_rate *= decay;
    return s;
}

bool Run::parameters_finite() {
    for (const auto& [prefix, state] : models_.networks())
        for (const Var& parameter : state->parameters())
            for (const float value : parameter.value().to_host())
                if (!std::isfinite(value)) return false;
    return true;
}

// Pictures, and the sliced Wasserstein distances to held-out data (as two cells of metrics.csv).
std::string Run::evaluate(int64_t iteration) {
    ScopedStateRestore keep(models_);
    keep.use_averages();
    // A small batch is a sign of networks that are large for the machine: a look should cost no more than a few
    // iterations.
    const int64_t batch = config_.batch,
                  count = std::min({distance_images, std::max(batch, batch * batch / 2), data_.held_out.count});
    const uint64_t seed = uint64_t(config_.seed);
    const ImageSet real = first_images(data_.held_out, count);
    const Samples samples = draw_samples(models_, count, std::min(count, config_.sampler_batch), config_.step.start_x,
                                         config_.sampler, seed);
    const int64_t shown = std::min(picture_images, count), columns = 8, scale = 64 / data_.train.size;
    const ImageSet data = first_images(real, shown), generator = first_images(samples.generated, shown),
                   ebm = first_images(samples.revised, shown);
    write_grid(numbered(config_.out + "/samples", iteration, "-samples.png"), {&data, &generator, &ebm}, columns,
               scale);
    const Reconstructions r = draw_reconstructions(models_, data, config_.step, seed);
    write_grid(numbered(config_.out + "/samples", iteration, "-reconstructions.png"), {&r.data, &r.encoder, &r.revised},
               columns, scale);

    if (!hooks_.sliced_wasserstein) return ",";
    const double generated = hooks_.sliced_wasserstein(samples.generated, real, seed),
                 revised = hooks_.sliced_wasserstein(samples.revised, real, seed);
    char line[160];
    std::snprintf(
        line, sizeof line,
        "iteration %lld: sliced Wasserstein distance (x 1e3, %lld held-out images): generator %.1f, EBM-revised %.1f",
        static_cast<long long>(iteration), static_cast<long long>(count), generated, revised);
    progress_.say(line);
    return text(generated, ",", revised);
}

void Run::checkpoint(int64_t iteration) {
    std::map<std::string, std::string> metadata = config_to_map(config_);
    metadata["iteration"] = std::to_string(iteration);
    metadata["returns"] = std::to_string(rollbacks_);
    save_checkpoint(numbered(config_.out + "/checkpoints", iteration, ".safetensors"), models_, metadata, latents_);
    last_checkpoint_ = iteration;
    std::vector<std::string> all = checkpoints_in(config_.out);
    for (size_t i = 0; i + size_t(config_.keep_checkpoints) < all.size(); ++i) fs::remove(all[i]);
    if (hooks_.after_checkpoint) hooks_.after_checkpoint(config_.out);
}

// From a divergence to the last good checkpoint and a fresh noise stream. Returns the iteration to go on from.
int64_t Run::roll_back(int64_t iteration, const Metrics& m) {
    const std::string reason =
        text("iteration ", iteration, ": diverged (energy gap ", m.gap.value_or(0), " at temperature ",
             config_.step.chain_x.temperature(), ", mse ", m.mse.value_or(0), ", guard ", config_.max_energy_gap, ")");
    if (++rollbacks_in_a_row_ > max_rollbacks)
        throw Diverged(
            text(reason, " for the ", rollbacks_in_a_row_,
                 "th time since the last good checkpoint; lower the learning rates or --step-size-x, then --resume"));
    const std::string path = numbered(config_.out + "/checkpoints", last_checkpoint_, ".safetensors");
    const LoadedCheckpoint good = read_checkpoint(path);
    load_checkpoint(good.file, path, models_, true);
    if (!latents_.empty()) latents_ = load_chain_states(good.file, path, data_.train.count, config_.model.latent);
    ++rollbacks_;
    metrics_->rewind(last_checkpoint_);
    const double factor = std::pow(config_.rollback_lr_factor, double(rollbacks_));
    progress_.say(text(reason, "; back to ", path, " with fresh noise",
                       factor < 1 ? text(" and ", factor, " of the learning rates") : "", " (return ",
                       rollbacks_in_a_row_, " of ", max_rollbacks, ")"));
    return last_checkpoint_;
}

bool Run::go() {
    const SignalGuard signals;
    const auto began = std::chrono::steady_clock::now();
    auto minutes = [began] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() / 60;
    };
    if (start_ >= total_) {
        progress_.say(text("nothing to do: the checkpoint is at iteration ", start_, " of ", total_,
                           "; give a larger --iterations"));
        return true;
    }
    if (start_ == 0) {
        evaluate(0);
        checkpoint(0);
    }
    for (int64_t iteration = start_; iteration < total_;) {
        const auto before = std::chrono::steady_clock::now();
        const int64_t epoch = iteration / batches_per_epoch_;
        const Tensor x = batch(iteration);
        StepNoise noise = philox_noise(noise_seed(), uint64_t(iteration), x.shape(), config_.model.latent);
        if (!latents_.empty()) noise.start_z = gather_chain_states(indices(iteration));
        const StepResult result = dual_mcmc_step(models_, x, noise, settings_at(epoch), iteration + 1);
        if (!latents_.empty() && result.z_revised.defined()) scatter_chain_states(indices(iteration), result.z_revised);
        Metrics metrics = read_metrics(result, x.shape());  // a GPU is done only now
        metrics.wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
        ++iteration;
        // A young average forgets faster, so that it is not held back by the first iterations.
        if (config_.ema > 0)
            update_ema(models_.generator.state, std::min(config_.ema, double(iteration) / double(iteration + 9)));

        const bool timed_out = config_.minutes > 0 && minutes() >= config_.minutes;
        const bool last = iteration == total_ || timed_out;
        // Asked once: a signal that comes later stops the next iteration, which is then saved.
        const bool stopping = signals.interrupted() && !last;
        const bool due = last || stopping || iteration % config_.checkpoint_every == 0;
        if (!metrics.good(config_.max_energy_gap) || (due && !parameters_finite())) {
            iteration = roll_back(iteration, metrics);
            if (stopping) {
                progress_.say(text("interrupted; go on with: dualmcmc train --resume --out ", config_.out));
                return false;
            }
            continue;
        }
        progress_.show(iteration, epoch, metrics);
        const bool evaluating = iteration % config_.eval_every == 0 || last;
        metrics_->row(iteration, epoch, metrics, evaluating ? evaluate(iteration) : ",");
        if (due) {
            checkpoint(iteration);
            rollbacks_in_a_row_ = 0;
        }
        if (stopping) {
            progress_.say(text("interrupted; go on with: dualmcmc train --resume --out ", config_.out));
            return false;
        }
        if (last) break;
    }
    progress_.say(text("done: pictures in ", config_.out, "/samples, the networks in ",
                       numbered(config_.out + "/checkpoints", last_checkpoint_, ".safetensors")));
    return true;
}

}  // namespace

LoadedCheckpoint read_checkpoint(const std::string& path) {
    LoadedCheckpoint out;
    out.path = path;
    out.file = read_safetensors(path);
    auto& metadata = out.file.metadata;
    if (metadata["format"] != checkpoint_format)
        fail(path, ": no checkpoint of this program: its format is '", metadata["format"], "', not ",
             checkpoint_format);
    try {
        for_each_setting(out.config, [&](const char* name, auto&, const char*) {
            if (metadata.count(name)) set_setting(out.config, name, metadata.at(name));
        });
        check_config(out.config);
    } catch (const std::exception& error) {
        fail(path, ": in its metadata: ", error.what());
    }
    auto counter = [&](const char* name) -> int64_t {
        const std::string value = metadata.count(name) ? metadata.at(name) : "0";
        if (value.empty() || value.size() > 15 || value.find_first_not_of("0123456789") != std::string::npos)
            fail(path, ": metadata '", name, "' is '", value, "', not a count");
        return std::stoll(value);
    };
    out.iteration = counter("iteration");
    out.rollbacks = counter("returns");
    return out;
}

std::string newest_checkpoint(const std::string& out) {
    const std::vector<std::string> all = checkpoints_in(out);
    return all.empty() ? "" : all.back();
}

bool train(const Config& config, const std::optional<LoadedCheckpoint>& resume, const TrainingHooks& hooks) {
    if (!resume && !newest_checkpoint(config.out).empty())
        fail("--out ", config.out, ": holds a run already; go on with --resume, or give another --out");
    return Run(config, resume, hooks).go();
}

}  // namespace dualmcmc
