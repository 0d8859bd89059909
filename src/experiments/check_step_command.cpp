// A line for each output, gradient and network.
#include "experiments/check_step_command.h"

#include <cstdio>
#include <type_traits>

#include "check.h"
#include "experiments/check_step.h"
#include "machine/device.h"

namespace dualmcmc {

CheckStepCommand::CheckStepCommand(CLI::App& app)
    : command_(app.add_subcommand("check-step",
                                  "compare another implementation's step file with this one; exit 0 if they agree")) {
    command_->add_option("file", file_, "a step file, dual-mcmc-step-1")->required();
    command_->add_option("--tolerance", tolerance_,
                         "largest relative L2 error of an output or gradient in double precision (default: 1e-9 where "
                         "the file's tensor is F64, 1e-6 where it is F32)");
    command_
        ->add_option("--device-tolerance", device_tolerance_,
                     "largest relative L2 distance of the device's own arithmetic to the double run")
        ->capture_default_str();
    command_->add_flag("--strict", strict_, "exit 0 only if the device's arithmetic agrees, too");
    command_->add_flag("--fast", fast_, "on the device, training's convolutions, which round a little more");
    command_->add_option("--device", device_, "as in train")->capture_default_str();
    command_->add_option("--precision", precision_, "as in train")->capture_default_str();
    command_->add_option("--threads", threads_, "CPU threads, 0 for all")->capture_default_str();
}

namespace {
int64_t failures(const step_check::Run& run) {
    int64_t count = 0;
    for (const step_check::Check& check : run.checks) count += !check.passes();
    return count;
}
// Where rounding took ReLUs across their kink, first where and when, then how far the chains carried it.
void print_crossings(const std::vector<step_check::Crossing>& crossings) {
    int64_t total = 0;
    for (const step_check::Crossing& crossing : crossings) total += crossing.count;
    std::printf("ReLUs that rounding took across their kink: %lld\n", static_cast<long long>(total));
    for (size_t i = 0; i < crossings.size(); ++i)
        std::printf("  %s%s: %lld\n", i == 0 ? "first in " : "", crossings[i].where.c_str(),
                    static_cast<long long>(crossings[i].count));
}

}  // namespace

int CheckStepCommand::run() {
    for (const auto& [flag, value] :
         {std::pair("--tolerance", tolerance_.value_or(1)), {"--device-tolerance", device_tolerance_}})
        if (!(value > 0)) fail(flag, " ", value, ": must be above 0");
    std::printf("device: %s\n", select_device(device_, threads_, precision_).c_str());
    const step_check::Run proof = step_check::in_double(file_, tolerance_);
    step_check::Run own;  // by the device; empty where that is the double run
    if constexpr (!std::is_same_v<real, double>) own = check_step(file_, device_tolerance_, fast_, &proof.results);

    std::printf("%-60s %12s %20s\n", "relative error", "double", own.checks.empty() ? "" : backend().name);
    for (size_t i = 0; i < proof.checks.size(); ++i) {
        const step_check::Check& check = proof.checks[i];
        std::printf("%-60s %12.3e", check.name.c_str(), check.error);
        if (!own.checks.empty()) std::printf(" %20.3e", own.checks[i].error);
        std::printf("%s\n", check.passes() ? "" : "  DIFFERS");
    }
    const int64_t wrong = failures(proof), rounded = failures(own);
    std::printf("%s: %zu compared in double precision, %lld beyond the tolerance\n", wrong ? "DIFFERS" : "agrees",
                proof.checks.size(), static_cast<long long>(wrong));
    if (!own.checks.empty()) {
        std::printf("%s: %lld beyond %g of the double run\n", backend().name, static_cast<long long>(rounded),
                    device_tolerance_);
        print_crossings(step_check::crossings(proof, own));
    }
    return wrong || (strict_ && rounded) ? 1 : 0;
}

}  // namespace dualmcmc
