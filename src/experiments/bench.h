// `dualmcmc bench`: the time of one training iteration and of its parts, on random images.
#pragma once
#include <CLI/CLI.hpp>

#include "method/dual_mcmc.h"

namespace dualmcmc {

class BenchCommand {
public:
    explicit BenchCommand(CLI::App& app);
    bool chosen() const { return command_->parsed(); }
    int run();

private:
    StepTimings iterate(Models& models, const Tensor& x);
    CLI::App* command_;
    ModelSettings model_{"cifar10", 64, 64, 32, 128};
    StepSettings step_;
    int64_t batch_ = 100, iterations_ = 3, done_ = 0;
    std::string device_ = "auto", precision_ = "auto";
    int64_t threads_ = 0;
    bool serve_ = false;
};

}  // namespace dualmcmc
