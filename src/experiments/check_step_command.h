// `dualmcmc check-step`: compares a training step of another implementation with this program's (check_step.h).
#pragma once
#include <CLI/CLI.hpp>

#include <optional>
#include <string>

namespace dualmcmc {

class CheckStepCommand {
public:
    explicit CheckStepCommand(CLI::App& app);
    bool chosen() const { return command_->parsed(); }
    // Prints each comparison: in double precision against the file, and of the device's own arithmetic against the
    // double run. Returns the program's exit code: 1 if one of the former fails; with --strict, of either.
    int run();

private:
    CLI::App* command_;
    std::string file_, device_ = "auto", precision_ = "fp32";
    std::optional<double> tolerance_;
    double device_tolerance_ = 1e-3;
    int64_t threads_ = 0;
    bool fast_ = false, strict_ = false;
};

}  // namespace dualmcmc
