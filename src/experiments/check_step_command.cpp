// A line for each output, gradient and network.
#include "experiments/check_step_command.h"

#include <cstdio>

#include "experiments/check_step.h"

namespace dualmcmc {

CheckStepCommand::CheckStepCommand(CLI::App& app)
    : command_(app.add_subcommand("check-step",
                                  "compare another implementation's step file with this one; exit 0 if they agree")) {
    command_->add_option("file", file_, "a step file, dual-mcmc-step-1")->required();
    command_->add_option("--tolerance", tolerance_, "largest relative L2 error of an output or gradient")
        ->capture_default_str();
    command_->add_flag("--fast", fast_, "use training's convolutions, which round a little more than the exact ones");
    command_->add_option("--device", device_, "as in train")->capture_default_str();
    command_->add_option("--precision", precision_, "as in train")->capture_default_str();
    command_->add_option("--threads", threads_, "CPU threads, 0 for all")->capture_default_str();
}

int CheckStepCommand::run() {
    if (!(tolerance_ > 0)) fail("--tolerance ", tolerance_, ": must be above 0");
    std::printf("device: %s\n", select_device(device_, threads_, precision_).c_str());
    int failures = 0;
    const std::vector<StepCheck> lines = check_step(file_, tolerance_, fast_);
    for (const StepCheck& line : lines) {
        std::printf("%-60s %.3e%s\n", line.name.c_str(), line.error, line.passes() ? "" : "  FAILS");
        failures += !line.passes();
    }
    std::printf("%s: %zu compared, %d beyond the tolerance of %g\n", failures ? "DIFFERS" : "agrees", lines.size(),
                failures, tolerance_);
    return failures ? 1 : 0;
}

}  // namespace dualmcmc
