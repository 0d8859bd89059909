// The training loop around dual_mcmc_step.
#include "training/train.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <numeric>

#include "data/dataset.h"
#include "formats/crc32.h"
#include "formats/files.h"
#include "formats/progress_line.h"
#include "ranks/shared_batch.h"
#include "training/checkpoint.h"
#include "training/evaluation.h"
#include "training/metrics.h"
#include "training/signals.h"

namespace dualmcmc {

namespace {

constexpr int64_t max_rollbacks = 5;      // without a new checkpoint between them, before a run gives up
constexpr int64_t distance_images = 512;  // samples of each kind in a distance; see evaluate()
constexpr int64_t picture_images = 64;    // in each panel of a grid
// RNG step of the initial states of persistent chains, beyond that of any iteration.
constexpr uint64_t initial_states_step = uint64_t(1) << 55;

// A line of progress: after each iteration on a terminal, elsewhere every so many iterations.
class Progress {
public:
    // `temperature` of the x-chain: the scale of the energies.
    Progress(int64_t total, int64_t every, double minutes, double temperature)
        : line_(stdout, process_count() == 1),  // mpirun's terminals may lead to a file
          total_(total), every_(every), seconds_left_(minutes > 0 ? 60 * minutes : INFINITY),
          temperature_(temperature) {}

    void show(int64_t iteration, int64_t epoch, const Metrics& m) {
        average_ = average_ == 0 ? m.wall_seconds : 0.9 * average_ + 0.1 * m.wall_seconds;
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
        const double left = std::min(average_ * double(total_ - iteration), seconds_left_ - seconds);
        if (!line_.redraws() && iteration % every_ != 0 && iteration != total_) return;
        std::vector<ProgressPart> parts{{0, text(iteration, "/", total_)},
                                        {5, text("  epoch ", epoch)},
                                        {4, formatted("  %.2f s/it", average_)},
                                        {1, "  ETA " + duration(left)}};
        if (m.mse) parts.push_back({2, formatted("  mse %.4f", *m.mse)});
        if (m.gap) {
            parts.push_back({3, formatted("  energy gap %+.3g", *m.gap)});
            parts.push_back({6, formatted(" (T %.3g)", temperature_)});
        }
        const double all = std::max(1e-9, m.seconds.total()), x = m.seconds.chain_x, z = m.seconds.chain_z;
        parts.push_back({7, formatted("  x-chain %.0f%%", 100 * x / all) + formatted(" z-chain %.0f%%", 100 * z / all) +
                                formatted(" updates %.0f%%", 100 * (all - x - z) / all)});
        line_.show(parts);
    }

    // Later output, here or on stderr, begins on a new line.
    void end() { line_.end(); }
    // A line of its own, which is not redrawn.
    void print_line(const std::string& line) {
        end();
        std::printf("%s\n", line.c_str());
        std::fflush(stdout);
    }

private:
    ProgressLine line_;
    int64_t total_, every_;
    double average_ = 0, seconds_left_, temperature_;
    std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

class Run {
public:
    Run(const Config& config, const std::optional<LoadedCheckpoint>& resume, const TrainingHooks& hooks);
    // False if the user interrupted it.
    bool train();

private:
    // Iterations count from 0 in train_iteration and batch; elsewhere an iteration is the number done.
    Metrics train_iteration(int64_t iteration);
    Tensor batch(int64_t iteration, const BatchShare& own);
    void shuffle(int64_t epoch);
    std::vector<int64_t> batch_indices() const;
    void restore(const LoadedCheckpoint& checkpoint);
    void say_changes(const LoadedCheckpoint& checkpoint);
    int64_t iterations_left() const;
    void warn_of_short_epochs() const;
    void evaluate_untrained();
    Tensor gather_chain_states(const std::vector<int64_t>& images) const;
    void scatter_chain_states(const std::vector<int64_t>& images, const Tensor& own_z);
    StepSettings settings_at(int64_t epoch) const;
    bool state_finite();
    std::string evaluate(int64_t iteration);
    std::string measure(int64_t iteration, const Samples& samples);
    void write_checkpoint(int64_t iteration);
    int64_t roll_back(int64_t iteration, const Metrics& metrics);
    // Each rollback changes the Philox key, so that the run sees fresh noise.
    uint64_t noise_seed() const { return uint64_t(config_.seed) + uint64_t(rollbacks_) * 0x9E3779B97F4A7C15u; }

    Config config_;
    TrainingHooks hooks_;
    Dataset data_;
    Models models_;
    DataPosition position_;  // after the last iteration
    int64_t total_ = 0, start_ = 0;
    int64_t rollbacks_ = 0, rollbacks_in_a_row_ = 0, last_checkpoint_ = -1;
    std::vector<int64_t> order_;  // of the images in the epoch order_epoch_
    int64_t order_epoch_ = -1;
    ChainStates chain_states_;
    std::optional<FolderLock> lock_;
    std::optional<MetricsFile> metrics_;  // the first rank's
    std::optional<Progress> progress_;
    std::function<double(const ImageSet& images)> distance_;  // to the training set; set by the first evaluation
    std::string distance_text_;                               // what it is between, for the lines that print it
};

// ---- the place in the data ----------------------------------------------------------------------

// The beginning of the first pass.
DataPosition beginning(const ImageSet& images) {
    return {0, 0, images.count, crc32_text(crc32(images.pixels.data(), images.pixels.size()))};
}

// Where the run of a checkpoint stands in a set of `images` images: as many epochs as it has done, and the same part of
// the present one. Learning rates, which depend on the epoch, go on from there with any batch size and any data.
DataPosition continued(const LoadedCheckpoint& checkpoint, DataPosition now) {
    const int64_t batch = checkpoint.config.batch, batches = std::max<int64_t>(1, now.images / batch);
    const DataPosition before = checkpoint.position.value_or(
        DataPosition{checkpoint.iteration / batches, checkpoint.iteration % batches * batch, now.images, now.checksum});
    now.epoch = before.epoch;
    now.images_seen = before.images_seen;
    if (before.images != now.images)
        now.images_seen =
            int64_t(double(now.images) * double(before.images_seen) / double(std::max<int64_t>(1, before.images)));
    now.images_seen = std::min(now.images_seen, now.images);
    return now;
}

// What must be the same on all ranks: the images, and all settings but where a rank finds them and what it computes on.
std::string shared_by_ranks(Config config, const DataPosition& images) {
    config.data = config.device = "";
    config.threads = 0;
    return config_to_text(config) + images.checksum;
}

Run::Run(const Config& config, const std::optional<LoadedCheckpoint>& resume, const TrainingHooks& hooks)
    : config_(config), hooks_(hooks),
      data_(load_dataset(config.data, config.model.image_size(), uint64_t(config.seed))),
      models_(config.model, uint64_t(config.seed)), position_(beginning(data_.train)) {
    config_.step.synchronize = true;  // progress and metrics.csv show how long each part takes
    if (config.batch > data_.train.count)
        fail("--batch ", config.batch, ": larger than the data set of ", data_.train.count, " images (",
             data_.train.name, ")");
    if (const std::string own = shared_by_ranks(config, position_); of_first_rank(own) != own)
        fail("the settings or the images are not those of rank 0; start all processes with the same ones");
    const SharedBatch fails_without_an_image_for_each_rank(config.batch);
    if (config.step.start_z == "persistent")
        chain_states_ = Tensor::normal({data_.train.count, config.model.latent},
                                       random_key(uint64_t(config.seed), RngPurpose::prior, initial_states_step))
                            .to_host();
    if (resume) {
        say_changes(*resume);
        restore(*resume);
        start_ = last_checkpoint_ = resume->iteration;
        rollbacks_ = resume->rollbacks;
    }
    if (!resume && !config.init.empty()) {
        const LoadedCheckpoint init = read_checkpoint(config.init);
        load_checkpoint(init.file, init.path, models_, false);
    }
    total_ = config.iterations > 0 ? config.iterations : start_ + iterations_left();
    progress_.emplace(total_, config.log_every, config.minutes, double(config.step.chain_x.temperature()));
    if (!first_rank()) return;  // which alone writes
    make_folder(config_.out);
    lock_.emplace(config_.out, "another program trains");
    make_folder(config_.out + "/samples");
    make_folder(config_.out + "/checkpoints");
    write_file(config_.out + "/config.txt", config_to_text(config_));
    metrics_.emplace(config_.out + "/metrics.csv", start_);
    warn_of_short_epochs();
}

// Sets everything that a checkpoint holds, but for the number of iterations and rollbacks.
void Run::restore(const LoadedCheckpoint& checkpoint) {
    load_checkpoint(checkpoint.file, checkpoint.path, models_, true);
    // An average that is no longer kept would stay as it is, and be taken for the parameters.
    const std::pair<ParameterStore*, double> averages[] = {{&models_.generator.state, config_.ema},
                                                           {&models_.ebm.state, config_.ema_ebm}};
    for (const auto& [state, decay] : averages)
        for (NamedTensor& entry : state->entries())
            if (decay == 0) entry.ema = {};
    if (!chain_states_.empty())
        chain_states_ = load_chain_states(checkpoint.file, checkpoint.path, data_.train.count, config_.model.latent);
    position_ = continued(checkpoint, position_);
}

// Says how a resumed run goes on if its images or its batch size are others.
void Run::say_changes(const LoadedCheckpoint& checkpoint) {
    const auto& before = checkpoint.position;
    const DataPosition now = continued(checkpoint, position_);
    const bool other_images = before && before->checksum != now.checksum;
    if (other_images && !chain_states_.empty())
        fail("--resume: the images of ", config_.data, " are not those of ", checkpoint.path,
             ", whose persistent chains belong to them; give the --data that the run was started with");
    if (!other_images && checkpoint.config.batch == config_.batch) return;
    std::printf("--resume: %sepoch %lld goes on after %lld of %lld images\n",
                other_images ? text("other images, of ", data_.train.name, "; ").c_str() : "", (long long)now.epoch,
                (long long)now.images_seen, (long long)now.images);
    std::fflush(stdout);
}

// Until --epochs; the last partial batch of an epoch is dropped [authors].
int64_t Run::iterations_left() const {
    const int64_t per_epoch = position_.images / config_.batch;
    return std::max<int64_t>(0, (config_.epochs - position_.epoch - 1) * per_epoch +
                                    (position_.images - position_.images_seen) / config_.batch);
}

// Learning rates decay once an epoch, and the presets' decay is for epochs of CIFAR-10's length.
void Run::warn_of_short_epochs() const {
    constexpr double vanished = 0.01, soon = 10'000, images_of_cifar10 = 50'000;
    const int64_t per_epoch = position_.images / config_.batch;
    const double decay = config_.lr_decay, epochs = std::ceil(std::log(vanished) / std::log(decay));
    if (decay >= 1 || epochs * double(per_epoch) > std::min(soon, double(total_ - 1))) return;
    std::printf(
        "warning: by --lr-decay %g in each epoch of %lld iterations the learning rates fall to 1 %% in %.0f; "
        "--lr-decay %.4g lets them fall as in epochs of 50,000 images\n",
        decay, (long long)per_epoch, epochs * double(per_epoch),
        std::pow(decay, double(position_.images) / images_of_cifar10));
    std::fflush(stdout);
}

// ---- data ---------------------------------------------------------------------------------------

// Each epoch visits the images in a permutation of its own, drawn from (seed, epoch).
void Run::shuffle(int64_t epoch) {
    const int64_t count = data_.train.count;
    const RandomKey key = random_key(uint64_t(config_.seed), RngPurpose::shuffle, uint64_t(epoch));
    const std::vector<real> sort_keys = Tensor::uniform({count}, key, 0, 1).to_host();
    order_.resize(size_t(count));
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int64_t a, int64_t b) { return sort_keys[size_t(a)] < sort_keys[size_t(b)]; });
    order_epoch_ = epoch;
}

// Of a batch's images those that are this rank's.
template <class T>
std::vector<T> own_of(const std::vector<T>& all, const BatchShare& own) {
    return {all.begin() + own.first, all.begin() + own.first + own.count};
}

// This rank's images of an iteration, (B,S,S,3).
Tensor Run::batch(int64_t iteration, const BatchShare& own) {
    if (position_.epoch != order_epoch_) shuffle(position_.epoch);
    std::vector<bool> flip;
    if (config_.flip) {
        const RandomKey key = random_key(uint64_t(config_.seed), RngPurpose::flip, uint64_t(iteration));
        for (const real u : Tensor::uniform({config_.batch}, key, 0, 1).to_host()) flip.push_back(u > 0.5f);
    }
    if (!flip.empty()) flip = own_of(flip, own);
    const Shape shape{own.count, data_.train.size, data_.train.size, 3};
    std::vector<real> pixels(size_t(element_count(shape)));
    gather_batch(data_.train, own_of(batch_indices(), own), flip, pixels.data());
    return Tensor::from_host(shape, pixels);
}

// The indices in the training set of the next iteration's images, those of all ranks.
std::vector<int64_t> Run::batch_indices() const {
    const auto first = order_.begin() + position_.images_seen;
    return {first, first + config_.batch};
}

// The states of these images' persistent chains (ABP, Han et al. 2017): (B, d).
Tensor Run::gather_chain_states(const std::vector<int64_t>& images) const {
    const int64_t d = config_.model.latent;
    std::vector<real> values;
    for (const int64_t i : images)
        values.insert(values.end(), chain_states_.begin() + i * d, chain_states_.begin() + (i + 1) * d);
    return Tensor::from_host({int64_t(images.size()), d}, values);
}

// Every rank keeps all states: an image may be another rank's in the next epoch.
void Run::scatter_chain_states(const std::vector<int64_t>& images, const Tensor& own_z) {
    const int64_t d = config_.model.latent;
    const std::vector<real> values = joined_of_all_ranks(own_z.to_host());
    for (size_t row = 0; row < images.size(); ++row)
        std::copy_n(values.begin() + int64_t(row) * d, d, chain_states_.begin() + images[row] * d);
}

// ---- an iteration -------------------------------------------------------------------------------

StepSettings Run::settings_at(int64_t epoch) const {
    StepSettings s = config_.step;
    const real factor =
        real(std::pow(config_.lr_decay, double(epoch)) * std::pow(config_.rollback_lr_factor, double(rollbacks_)));
    for (AdamSettings* adam : {&s.adam_generator, &s.adam_ebm, &s.adam_encoder}) adam->learning_rate *= factor;
    return s;
}

std::array<double, 3> learning_rates(const StepSettings& s) {
    return {double(s.adam_generator.learning_rate), double(s.adam_ebm.learning_rate),
            double(s.adam_encoder.learning_rate)};
}

Metrics Run::train_iteration(int64_t iteration) {
    const auto start = std::chrono::steady_clock::now();
    if (position_.images_seen + config_.batch > position_.images) ++position_.epoch, position_.images_seen = 0;
    const SharedBatch shared(config_.batch);
    const BatchShare& own = shared.own();
    const Tensor x = batch(iteration, own);
    StepNoise noise = philox_noise(noise_seed(), uint64_t(iteration), x.shape(), config_.model.latent, own.first);
    if (!chain_states_.empty()) noise.start_z = gather_chain_states(own_of(batch_indices(), own));
    const StepSettings settings = settings_at(position_.epoch);
    const StepResult result = dual_mcmc_step(models_, x, noise, settings, iteration + 1);
    if (!chain_states_.empty() && result.z_revised.defined()) scatter_chain_states(batch_indices(), result.z_revised);
    position_.images_seen += config_.batch;
    Metrics metrics = read_metrics(result, x.shape());  // waits for a GPU
    metrics.learning_rates = learning_rates(settings);
    metrics.wall_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    // EMA warm-up: a lower decay at first, so that early parameters fade quickly.
    const double warm_up = double(iteration + 1) / double(iteration + 10);
    if (config_.ema > 0) update_ema(models_.generator.state, std::min(config_.ema, warm_up));
    if (config_.ema_ebm > 0) update_ema(models_.ebm.state, std::min(config_.ema_ebm, warm_up));
    return metrics;
}

// Of all that a checkpoint holds: one that is not finite could not be read back.
bool Run::state_finite() {
    for (const auto& [prefix, state] : models_.networks())
        for (const NamedTensor& entry : state->entries())
            for (const Tensor& tensor : {entry.value.value(), entry.moment1, entry.moment2, entry.ema})
                if (tensor.defined())
                    for (const real value : tensor.to_host())
                        if (!std::isfinite(value)) return false;
    return true;
}

// ---- evaluations, checkpoints, rollbacks --------------------------------------------------------

// Writes pictures; returns the distances of samples to the data as two cells of metrics.csv.
std::string Run::evaluate(int64_t iteration) {
    ScopedStateRestore restore(models_);
    restore.use_averages();
    // A small batch suggests networks large for the machine: keep evaluation at a few iterations' cost.
    const int64_t batch = config_.batch,
                  count = std::min({distance_images, std::max(batch, 2 * batch * batch), data_.held_out.count});
    const uint64_t seed = uint64_t(config_.seed);
    const Samples samples = draw_samples(models_, count, std::min(count, config_.sampler_batch), config_.step.start_x,
                                         config_.sampler, seed);
    if (!first_rank()) return ",";
    const int64_t shown = std::min(picture_images, count), columns = 8, scale = 64 / data_.train.size;
    const ImageSet data = first_images(data_.held_out, shown);
    const ImageSet generator = first_images(samples.generated, shown), ebm = first_images(samples.revised, shown);
    const std::string stem = config_.out + "/samples/" + iteration_name(iteration);
    write_grid(stem + "-samples.png", {&data, &generator, &ebm}, columns, scale);
    const Reconstructions r = draw_reconstructions(models_, data, config_.step, seed);
    write_grid(stem + "-reconstructions.png", {&r.data, &r.encoder, &r.revised}, columns, scale);

    return measure(iteration, samples);
}

// The distances of the generator's samples and of the revised ones, as evaluate() returns them.
std::string Run::measure(int64_t iteration, const Samples& samples) {
    const int64_t count = samples.generated.count;
    if (!hooks_.distance_to || count < 2 || data_.train.count < 2) return ",";
    if (!distance_) {
        distance_ = hooks_.distance_to(data_.train);
        distance_text_ = text("statistics distance of ", count, " samples");
        if (!data_.none_held_out)
            distance_text_ += formatted(" (held-out images %.3g)", distance_(first_images(data_.held_out, count)));
    }
    const double generated = distance_(samples.generated), revised = distance_(samples.revised);
    progress_->print_line(text("iteration ", iteration, ": ", distance_text_, ": generator ",
                               formatted("%.3g", generated), ", EBM-revised ", formatted("%.3g", revised)));
    return text(generated, ",", revised);
}

void Run::write_checkpoint(int64_t iteration) {
    last_checkpoint_ = iteration;
    if (!first_rank()) return;
    save_checkpoint(checkpoint_path(config_.out, iteration), models_, config_, iteration, rollbacks_, chain_states_,
                    position_);
    remove_old_checkpoints(config_.out, config_.keep_checkpoints);
    if (!hooks_.after_checkpoint) return;
    if (const std::string error = hooks_.after_checkpoint(config_.out); !error.empty()) {
        progress_->end();
        std::cerr << error << std::endl;
    }
}

// Restores the last checkpoint after a divergence, and switches to fresh noise. Returns the checkpoint's iteration.
int64_t Run::roll_back(int64_t iteration, const Metrics& m) {
    const std::string reason = text("iteration ", iteration, ": diverged (energy gap ", m.gap.value_or(0),
                                    " at temperature ", config_.step.chain_x.temperature(), ", mse ", m.mse.value_or(0),
                                    ", --max-energy-gap ", config_.max_energy_gap, ")");
    if (++rollbacks_in_a_row_ > max_rollbacks)
        throw Diverged(
            text(reason, " for the ", rollbacks_in_a_row_,
                 "th time since the last good checkpoint; lower the learning rates or --step-size-x, then --resume"),
            rollbacks_);
    const std::string path = checkpoint_path(config_.out, last_checkpoint_);
    restore(read_checkpoint(path));
    ++rollbacks_;
    if (metrics_) metrics_->rewind(last_checkpoint_);
    const double factor = std::pow(config_.rollback_lr_factor, double(rollbacks_));
    progress_->print_line(text(reason, "; back to ", path, " with fresh noise",
                               factor < 1 ? text(" and ", factor, " of the learning rates") : "", " (rollback ",
                               rollbacks_in_a_row_, " of ", max_rollbacks, ")"));
    return last_checkpoint_;
}

// ---- the loop -----------------------------------------------------------------------------------

// Evaluates and saves the untrained networks, for comparison and for a rollback.
void Run::evaluate_untrained() {
    Metrics metrics;
    metrics.learning_rates = learning_rates(settings_at(0));
    const std::string distances = evaluate(0);
    if (metrics_) metrics_->rewind(-1), metrics_->row(0, 0, metrics, distances);
    write_checkpoint(0);
}

bool Run::train() {
    progress_->print_line(describe(data_));
    const auto start = std::chrono::steady_clock::now();
    auto minutes = [start] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 60;
    };
    if (start_ >= total_) {
        progress_->print_line(text("nothing to do: the checkpoint is at iteration ", start_, " of ", total_,
                                   "; give a larger --iterations"));
        return true;
    }
    if (start_ == 0) evaluate_untrained();
    const SignalGuard signals;
    RankWatch watch;
    bool last = false;
    for (int64_t iteration = start_; !last;) {
        watch.at(text("iteration ", iteration + 1));
        const Metrics metrics = train_iteration(iteration);
        ++iteration;
        last = iteration == total_ || (config_.minutes > 0 && on_any_rank(minutes() >= config_.minutes));
        // Read once: a later signal stops the next iteration, after which a checkpoint is then due.
        const bool interrupted = on_any_rank(signals.interrupted()) && !last;
        const bool checkpoint_due = last || interrupted || iteration % config_.checkpoint_every == 0;
        if (metrics.diverged(config_.max_energy_gap) || (checkpoint_due && !state_finite())) {
            iteration = roll_back(iteration, metrics);
            last = false;
        } else {
            progress_->show(iteration, position_.epoch, metrics);
            const bool evaluation_due = last || iteration % config_.eval_every == 0;
            const std::string distances = evaluation_due ? evaluate(iteration) : ",";
            if (metrics_) metrics_->row(iteration, position_.epoch, metrics, distances);
            if (checkpoint_due) {
                write_checkpoint(iteration);
                rollbacks_in_a_row_ = 0;
            }
        }
        if (interrupted) {
            progress_->print_line(text("interrupted; continue with: dualmcmc train --resume --out ", config_.out));
            return false;
        }
    }
    progress_->print_line(text("done: pictures in ", config_.out, "/samples, the networks in ",
                               checkpoint_path(config_.out, last_checkpoint_)));
    return true;
}

// Whether training has begun there: also without checkpoints, which somebody may have moved.
bool holds_run(const std::string& folder) {
    const std::string metrics = folder + "/metrics.csv";
    return !newest_checkpoint(folder).empty() ||
           (std::filesystem::exists(metrics) && parse_metrics(read_file(metrics)).rows.size() > 1);
}

}  // namespace

bool train(const Config& config, std::optional<LoadedCheckpoint> resume, const TrainingHooks& hooks) {
    if (!resume && first_rank() && holds_run(config.out))
        fail("--out ", config.out,
             ": already holds a run; continue it with --resume, delete it, or give another --out");
    Run run(config, resume, hooks);
    resume.reset();  // its tensors, as large as the networks and their moments
    return run.train();
}

}  // namespace dualmcmc
