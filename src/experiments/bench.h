// `dualmcmc bench`: the time of one training iteration and of its parts, on random images. On several ranks also what
// each sends in it, the time that takes, and the time that as much takes at best.
#pragma once
#include <CLI/CLI.hpp>

#include "method/dual_mcmc.h"
#include "ranks/shared_batch.h"

namespace dualmcmc {

class BenchCommand {
public:
    explicit BenchCommand(CLI::App& app);
    bool chosen() const { return command_->parsed(); }
    int run();

private:
    // An iteration, and what went between the ranks in it.
    struct Iteration {
        StepTimings seconds;
        Traffic traffic;
    };
    Iteration iterate(Models& models, const Tensor& x);
    void print(const Iteration& iteration) const;
    CLI::App* command_;
    ModelSettings model_{"cifar10", 64, 64, 32, 128};
    StepSettings step_;
    int64_t batch_ = 100, iterations_ = 3, done_ = 0;
    std::string device_ = "auto", precision_ = "auto";
    int64_t threads_ = 0;
    bool serve_ = false;
    // Of messages between the ranks: the time of a small one, and the bytes a second of a large one.
    double latency_ = 0, bandwidth_ = 0;
};

}  // namespace dualmcmc
