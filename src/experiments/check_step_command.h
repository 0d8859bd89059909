// `dualmcmc check-step`: compares a training step of another implementation with this program's (check_step.h).
#pragma once
#include <CLI/CLI.hpp>

#include <string>

namespace dualmcmc {

class CheckStepCommand {
public:
    explicit CheckStepCommand(CLI::App& app);
    bool chosen() const { return command_->parsed(); }
    // Prints each comparison. Returns the program's exit code: 1 if one fails.
    int run();

private:
    CLI::App* command_;
    std::string file_, device_ = "auto", precision_ = "fp32";
    double tolerance_ = 1e-3;
    int threads_ = 0;
    bool fast_ = false;
};

}  // namespace dualmcmc
