// See common.h.
#include "experiments/common.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <numeric>

#include "engine/graphed_function.h"
#include "experiments/report.h"
#include "machine/memory.h"
#include "ranks/ranks.h"
#include "training/checkpoint.h"

namespace dualmcmc {

namespace fs = std::filesystem;

namespace {
const ChainFlags chain_flags_x{"--steps-x", "--step-size-x", "--noise-x"},
    chain_flags_z{"--steps-z", "--step-size-z", "--noise-z"};
constexpr int64_t max_long_steps = 10'000'000;
}  // namespace

// ---- the command --------------------------------------------------------------------------------

void add_batch_norm_flags(CLI::App& command, BatchNormMode& mode) {
    command
        .add_option(
            "--batch-norm", mode.name,
            "statistics of the generator's batch norm: of each batch (batch, as in training), the running averages of "
            "training (running), or those of many samples from the model (recalibrated)")
        ->capture_default_str();
    command.add_option("--batch-norm-batches", mode.batches, "batches of samples for the recalibrated statistics")
        ->capture_default_str();
}

Experiment::Experiment(CLI::App& app, const std::string& name, const std::string& help, int64_t count,
                       const std::string& counts)
    : command_(app.add_subcommand(name, help)), name_(name), count_(count) {
    command_->add_option("--model", model_, "a checkpoint, .safetensors")->required();
    command_->add_option("--data", data_,
                         "as in train (default: the data the model was trained on); its test images are used");
    command_->add_option("--count", count_, counts)->capture_default_str();
    command_->add_option("--out", out_, "folder for pictures and tables (default: " + name + " in the run's folder)");
    command_->add_option("--seed", seed_, "seed of the noise")->capture_default_str();
    command_->add_option(
        "--batch", batch_,
        "images per batch, which batch norm normalises together (default: the model's sampler-batch, 100)");
    add_batch_norm_flags(*command_, batch_norm_);
    command_->add_option("--device", device_, "as in train")->capture_default_str();
    command_->add_option("--threads", threads_, "CPU threads, 0 for all")->capture_default_str();
}

void Experiment::use_chain_x(std::optional<int64_t> long_steps) {
    uses_x_ = true;
    long_steps_ = long_steps;
    if (long_steps) command_->add_option("--steps", *long_steps_, "x-chain: number of steps")->capture_default_str();
    else
        command_->add_option("--steps-x", flags_x_.steps,
                             "x-chain: number of steps (default: the model's sampler-steps, 70)");
    command_->add_option("--step-size-x", flags_x_.step_size,
                         "x-chain: step size (default: the model's sampler-step-size, 0.4)");
    command_->add_option("--noise-x", flags_x_.noise_std, "x-chain: noise (default: the model's sampler-noise, 0.001)");
}

void Experiment::use_chain_z() {
    uses_z_ = true;
    command_->add_option("--steps-z", flags_z_.steps, "z-chain: number of steps (default: the model's)");
    command_->add_option("--step-size-z", flags_z_.step_size, "z-chain: step size (default: the model's)");
    command_->add_option("--noise-z", flags_z_.noise_std, "z-chain: noise (default: the model's)");
    command_->add_option("--sigma", sigma_, "standard deviation of p(x|z) (default: the model's)");
}

bool Experiment::given(const std::string& flag) const {
    const CLI::Option* option = command_->get_option_no_throw(flag);
    return option && option->count() > 0;
}

void Experiment::check_flags() const {
    if (count_ < 1) fail("--count ", count_, ": must be at least 1");
    if (seed_ < 0) fail("--seed ", seed_, ": must be at least 0");
    if (given("--batch") && batch_ < 1) fail("--batch ", batch_, ": must be at least 1");
    if (given("--batch") && batch_ > max_batch) fail("--batch ", batch_, ": must be at most ", max_batch);
    // Wrong by themselves, whatever the model's settings are that they are combined with.
    for (const auto& [name, flags] : {std::pair("x", flags_x_), std::pair("z", flags_z_)}) {
        const ChainFlags names{text("--steps-", name), text("--step-size-", name), text("--noise-", name)};
        if (given(names.steps)) check_chain({flags.steps, 1, 0}, names);
        if (given(names.step_size) && !(flags.step_size > 0))
            fail(names.step_size, " ", flags.step_size, ": must be above 0");
        if (given(names.noise) && !(flags.noise_std >= 0))
            fail(names.noise, " ", flags.noise_std, ": must be at least 0");
    }
    if (long_steps_ && (*long_steps_ < 1 || *long_steps_ > max_long_steps))
        fail("--steps ", *long_steps_, ": must be from 1 to ", max_long_steps);
    if (given("--sigma")) check_sigma(sigma_, "--sigma");
}

void Experiment::check_host_memory(const std::string& flag, int64_t count, double bytes_each) const {
    const double gib = 1 << 30, needed = double(count) * bytes_each / gib, available = double(memory_limit()) / gib;
    if (needed > available)
        fail(flag, " ", count, ": needs at least ", needed, " GiB of memory, but there are ", available, "; lower it");
}

void Experiment::apply_overrides() {
    if (given("--steps-x")) config_.sampler.steps = flags_x_.steps;
    if (long_steps_) config_.sampler.steps = *long_steps_;
    if (given("--step-size-x")) config_.sampler.step_size = flags_x_.step_size;
    if (given("--noise-x")) config_.sampler.noise_std = flags_x_.noise_std;
    if (given("--steps-z")) config_.step.chain_z.steps = flags_z_.steps;
    if (given("--step-size-z")) config_.step.chain_z.step_size = flags_z_.step_size;
    if (given("--noise-z")) config_.step.chain_z.noise_std = flags_z_.noise_std;
    if (given("--sigma")) config_.step.sigma = sigma_;
    // A step size that carries the chain away by itself can be watched: longrun says where it stops.
    const bool carried_away = std::isinf(config_.sampler.step_size * config_.sampler.step_size);
    if (uses_x_ && !carried_away) check_chain(config_.sampler, chain_flags_x, max_long_steps);
    if (uses_z_) check_chain(config_.step.chain_z, chain_flags_z);
    if (!given("--batch")) batch_ = config_.sampler_batch;
    if (given("--data")) config_.data = data_;
    if (config_.data.empty())
        fail("--data: ", model_,
             " does not name the data it was trained on; give a folder with pictures or CIFAR-10, a .npy or the word "
             "shapes");
}

std::string chain_text(const ChainSettings& c) {
    return text(c.steps, " steps of ", c.step_size, ", noise ", c.noise_std,
                ", temperature (noise/step)^2 = ", c.temperature());
}

void Experiment::log_settings(int64_t iteration) {
    const ModelSettings& m = config_.model;
    log(text(name_, ": ", fs::path(model_).filename().string(), ", iteration ", iteration, "; ", m.architecture,
             ", widths ", m.width_generator, "/", m.width_ebm, "/", m.width_encoder,
             " (generator/EBM/encoder), latent ", m.latent));
    log(text("count ", count_, "; test images: ", test().name, ", ", test().count, " in all; batches of ", batch_, ", ",
             batch_norm_.text(batch_), "; seed ", seed_));
    if (const std::string note = untrained_note(config_); !note.empty()) log(note);
    if (uses_x_) log("x-chain: " + chain_text(chain_x()));
    if (uses_z_) log(text("z-chain: ", chain_text(chain_z()), ", sigma ", config_.step.sigma));
}

int Experiment::run() {
    check_flags();
    check();
    std::printf("device: %s\n", select_device(device_, threads_, "fp32").c_str());
    const LoadedCheckpoint checkpoint = read_checkpoint(model_);
    config_ = checkpoint.config;
    apply_overrides();
    check_memory(config_.model, batch_);
    test_ = load_held_out(config_.data, config_.model.image_size(), uint64_t(config_.seed), every_image);
    if (count_ > max_count() && (given("--count") || max_count() < 1))
        fail("--count ", count_, ": must be at most ", max_count(), ", with ", test().count, " test images (",
             test().name, ")");
    count_ = std::min(count_, max_count());
    models_.emplace(config_.model, 0);
    load_checkpoint(checkpoint.file, model_, *models_, false);
    set_batch_norm(*models_, batch_norm_, batch_, seed());

    // For a checkpoint in RUN/checkpoints the default is RUN/NAME.
    const fs::path folder = fs::absolute(model_).parent_path();
    const fs::path beside = fs::path(model_).parent_path() / ".." / name_;
    if (out_.empty()) out_ = folder.filename() == "checkpoints" ? beside.lexically_normal().string() : name_;
    make_folder(out_);

    log_settings(checkpoint.iteration);
    measure();
    if (first_rank()) write_summary(out_, summary_);
    return 0;
}

void Experiment::log(const std::string& line) {
    const std::string printed = escaped(line);  // names of data come from the checkpoint
    std::printf("%s\n", printed.c_str());
    std::fflush(stdout);
    summary_ += printed + "\n";
}

void write_summary(const std::string& out, const std::string& summary) {
    write_file(out + "/summary.txt", summary);
    std::printf("pictures and tables in %s\n", out.c_str());
    const std::string run = (fs::path(out) / "..").lexically_normal().string();
    std::error_code error;
    if (!fs::exists(run + "/config.txt", error)) return;
    write_report(run);
    std::printf("report: %s\n", (fs::path(run) / "report.html").string().c_str());
}

// ---- the networks -------------------------------------------------------------------------------

Tensor image_batch(const ImageSet& set, int64_t first, int64_t batch) {
    std::vector<int64_t> indices(static_cast<size_t>(batch));
    for (int64_t i = 0; i < batch; ++i) indices[size_t(i)] = (first + i) % set.count;
    const Shape shape{batch, set.size, set.size, 3};
    std::vector<real> pixels(size_t(element_count(shape)));
    gather_batch(set, indices, {}, pixels.data());
    return Tensor::from_host(shape, pixels);
}

Tensor Experiment::generate(const Tensor& z) {
    NoGrad no_grad;
    return models_->generator(Var(z)).value();
}

Tensor Experiment::encode(const Tensor& x, const Tensor& epsilon) {
    NoGrad no_grad;
    const auto [mu, logvar] = models_->encoder(Var(x));
    return reparametrise(mu, logvar, epsilon).value();
}

Tensor watch_chain_x(Models& models, const Tensor& x, const ChainSettings& chain, const NoiseFunction& noise,
                     const WatchX& watch) {
    const DisableGraphs watch_every_call;
    int64_t k = 0;
    auto energy = [&](const Tensor& y) {
        const EnergyGradient e = energy_gradient(models.ebm, y);
        watch(k++, y, e.energy);
        return e;
    };
    const Tensor end = langevin_x(x, energy, chain, noise).end;
    NoGrad no_grad;
    watch(k, end, models.ebm.forward(Var(end)).value());
    return end;
}

Tensor watch_chain_z(Models& models, const Tensor& z, const Tensor& x, real sigma, const ChainSettings& chain,
                     const NoiseFunction& noise, const WatchZ& watch) {
    const DisableGraphs watch_every_call;
    int64_t k = 0;
    auto generator = [&](const Var& latent) {
        const Var image = models.generator(latent);
        watch(k++, image.value());
        return image;
    };
    const Tensor end = langevin_z(z, x, generator, sigma, chain, noise).end;
    NoGrad no_grad;
    generator(Var(end));
    return end;
}

// ---- means --------------------------------------------------------------------------------------

MeanDeciles mean_and_deciles(std::vector<real> values) {
    CHECK(!values.empty());
    std::sort(values.begin(), values.end());
    const size_t tenth = (values.size() - 1) / 10;
    return {std::accumulate(values.begin(), values.end(), 0.0) / double(values.size()), double(values[tenth]),
            double(values[values.size() - 1 - tenth])};
}

// ---- pictures -----------------------------------------------------------------------------------

ImageSet strips(const std::vector<ImageSet>& columns, int64_t rows) {
    ImageSet out;
    out.size = columns.at(0).size;
    for (int64_t row = 0; row < rows; ++row)
        for (const ImageSet& column : columns) {
            CHECK_EQ(column.size, out.size);
            const uint8_t* image = image_at(column, row);
            out.pixels.insert(out.pixels.end(), image, image + out.size * out.size * 3);
            ++out.count;
        }
    return out;
}

std::vector<int64_t> spaced_steps(int64_t steps, int64_t max_count) {
    const int64_t stride = std::max<int64_t>(1, (steps + max_count - 2) / (max_count - 1));
    std::vector<int64_t> out;
    for (int64_t k = 0; k < steps; k += stride) out.push_back(k);
    out.push_back(steps);
    return out;
}

}  // namespace dualmcmc
