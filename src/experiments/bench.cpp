// Times training iterations. With --serve, one per request, so that a driver (reference/bench.py) can alternate between
// programs.
#include "experiments/bench.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>

namespace dualmcmc {

BenchCommand::BenchCommand(CLI::App& app)
    : command_(app.add_subcommand("bench", "time training iterations on random images")) {
    command_->add_option("--architecture", model_.architecture, "as in train")->capture_default_str();
    command_->add_option("--width-generator", model_.width_generator, "channels of the generator")
        ->capture_default_str();
    command_->add_option("--width-ebm", model_.width_ebm, "channels of the EBM")->capture_default_str();
    command_->add_option("--width-encoder", model_.width_encoder, "channels of the encoder")->capture_default_str();
    command_->add_option("--latent", model_.latent, "dimension of z")->capture_default_str();
    command_->add_option("--batch", batch_, "images per iteration")->capture_default_str();
    command_->add_option("--steps-x", step_.chain_x.steps, "steps of the x-chain")->capture_default_str();
    command_->add_option("--steps-z", step_.chain_z.steps, "steps of the z-chain")->capture_default_str();
    command_->add_flag(
        "--resample,!--no-resample", [this](int64_t on) { step_.negatives = on > 0 ? "resampled" : "chain"; },
        "a second x-chain for the EBM's update (on)");
    command_->add_option("--iterations", iterations_, "timed iterations, after one untimed")->capture_default_str();
    command_->add_option("--device", device_, "as in train")->capture_default_str();
    command_->add_option("--precision", precision_, "as in train")->capture_default_str();
    command_->add_option("--threads", threads_, "CPU threads, 0 for all")->capture_default_str();
    command_->add_flag("--synchronize,--wait", step_.synchronize,
                       "wait for the device after each part, so that the parts' times are GPU times");
    command_->add_flag("--serve", serve_, "run one iteration for each line of input and answer with one line of JSON");
}

BenchCommand::Iteration BenchCommand::iterate(Models& models, const Tensor& x) {
    const SharedBatch shared(batch_);
    const Traffic earlier = traffic();
    const StepNoise noise = philox_noise(1, uint64_t(done_), x.shape(), model_.latent, shared.own().first);
    StepResult result = dual_mcmc_step(models, x, noise, step_, ++done_);
    // Waits for pending GPU work and counts it towards the last part, so that the total is right.
    const auto before = std::chrono::steady_clock::now();
    if (!std::isfinite(result.energy_model.item()))
        fail("bench: the energy is not finite after ", done_, " iterations");
    result.seconds.ebm += std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
    const Traffic& now = traffic();
    return {result.seconds,
            {now.messages - earlier.messages, now.bytes - earlier.bytes, now.seconds - earlier.seconds}};
}

void BenchCommand::print(const Iteration& iteration) const {
    const StepTimings& s = iteration.seconds;
    const Traffic& t = iteration.traffic;
    const int64_t device_bytes = backend().peak_bytes ? backend().peak_bytes() : pool_bytes();
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    std::printf(
        "{\"total\": %.4f, \"x_chain\": %.4f, \"z_chain\": %.4f, \"generator\": %.4f, \"encoder\": %.4f, \"ebm\": "
        "%.4f, \"peak_mib\": %.0f, \"device_mib\": %.0f",
        s.total(), s.chain_x, s.chain_z, s.generator, s.encoder, s.ebm, double(usage.ru_maxrss) / 1024,
        double(device_bytes) / (1 << 20));
    if (ranks().count > 1)
        std::printf(", \"messages\": %lld, \"sent_bytes\": %lld, \"message_seconds\": %.4f, \"ideal_seconds\": %.4f",
                    (long long)t.messages, (long long)t.bytes, t.seconds,
                    double(t.messages) * latency_ + double(t.bytes) / bandwidth_);
    std::printf("}\n");
    std::fflush(stdout);
}

namespace {

// A sum of n values over ranks that all wait for it: the median of its time in messages, and the bytes this rank sends.
Traffic typical_sum(int64_t n, size_t times) {
    const Tensor values = Tensor::full({n}, 1);
    Traffic typical;
    std::vector<double> seconds;
    for (size_t i = 0; i < times; ++i) {
        const Traffic before = traffic();
        sum_over_ranks({values}, 1.0 / ranks().count);
        typical.bytes = traffic().bytes - before.bytes;
        seconds.push_back(traffic().seconds - before.seconds);
    }
    std::nth_element(seconds.begin(), seconds.begin() + int64_t(times / 2), seconds.end());
    typical.seconds = seconds[times / 2];
    return typical;
}

}  // namespace

int BenchCommand::run() {
    check_settings(model_);
    if (batch_ < 1) fail("--batch ", batch_, ": must be at least 1");
    if (batch_ > max_batch) fail("--batch ", batch_, ": must be at most ", max_batch);
    if (iterations_ < 1) fail("--iterations ", iterations_, ": must be at least 1");
    if (serve_ && ranks().count > 1) fail("--serve: start it without mpirun, as only one process can read the input");
    check_chain(step_.chain_x, {"--steps-x", "--step-size-x", "--noise-x"});
    check_chain(step_.chain_z, {"--steps-z", "--step-size-z", "--noise-z"});
    const std::string device = select_device(device_, threads_, precision_);
    check_memory(model_, batch_);
    Models models(model_, 1);
    const int64_t side = model_.image_size(), image = side * side * 3;
    const BatchShare own = SharedBatch(batch_).own();
    const Tensor x = Tensor::uniform({own.count, side, side, 3}, {1, 0, 0, uint64_t(own.first * image)}, -1, 1);
    if (serve_) {
        for (std::string line; std::getline(std::cin, line);) print(iterate(models, x));
        return 0;
    }
    std::printf("device: %s\n", device.c_str());
    if (ranks().count > 1) {
        const Traffic small = typical_sum(1, 201), large = typical_sum(int64_t(4) << 20, 5);
        latency_ = small.seconds;
        bandwidth_ = double(large.bytes) / (large.seconds - small.seconds);
        std::printf("messages: %.1f us, and %.2f GB/s for large ones\n", 1e6 * latency_, 1e-9 * bandwidth_);
    }
    iterate(models, x);
    for (int64_t i = 0; i < iterations_; ++i) print(iterate(models, x));
    return 0;
}

}  // namespace dualmcmc
