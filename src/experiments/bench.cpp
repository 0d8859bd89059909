// Times training iterations. With --serve, one per request, so that a driver (reference/bench.py) can alternate between
// programs.
#include "experiments/bench.h"

#include <sys/resource.h>

#include <chrono>
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

StepTimings BenchCommand::iterate(Models& models, const Tensor& x) {
    const StepNoise noise = philox_noise(1, uint64_t(done_), x.shape(), model_.latent);
    StepResult result = dual_mcmc_step(models, x, noise, step_, ++done_);
    // Waits for pending GPU work and counts it towards the last part, so that the total is right.
    const auto before = std::chrono::steady_clock::now();
    if (!std::isfinite(result.energy_model.item()))
        fail("bench: the energy is not finite after ", done_, " iterations");
    result.seconds.ebm += std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
    return result.seconds;
}

int BenchCommand::run() {
    check_settings(model_);
    if (batch_ < 1) fail("--batch ", batch_, ": must be at least 1");
    if (batch_ > max_batch) fail("--batch ", batch_, ": must be at most ", max_batch);
    if (iterations_ < 1) fail("--iterations ", iterations_, ": must be at least 1");
    check_chain(step_.chain_x, {"--steps-x", "--step-size-x", "--noise-x"});
    check_chain(step_.chain_z, {"--steps-z", "--step-size-z", "--noise-z"});
    const std::string device = select_device(device_, threads_, precision_);
    check_memory(model_, batch_);
    Models models(model_, 1);
    const int64_t side = model_.image_size();
    const Tensor x = Tensor::uniform({batch_, side, side, 3}, {1, 0, 0}, -1, 1);
    auto print = [](const StepTimings& s) {
        rusage usage{};
        const int64_t device_bytes = backend().peak_bytes ? backend().peak_bytes() : pool_bytes();
        getrusage(RUSAGE_SELF, &usage);
        std::printf(
            "{\"total\": %.4f, \"x_chain\": %.4f, \"z_chain\": %.4f, \"generator\": %.4f, \"encoder\": %.4f, \"ebm\": "
            "%.4f, \"peak_mib\": %.0f, \"device_mib\": %.0f}\n",
            s.total(), s.chain_x, s.chain_z, s.generator, s.encoder, s.ebm, double(usage.ru_maxrss) / 1024,
            double(device_bytes) / (1 << 20));
        std::fflush(stdout);
    };
    if (serve_) {
        for (std::string line; std::getline(std::cin, line);) print(iterate(models, x));
        return 0;
    }
    std::printf("device: %s\n", device.c_str());
    iterate(models, x);
    for (int64_t i = 0; i < iterations_; ++i) print(iterate(models, x));
    return 0;
}

}  // namespace dualmcmc
