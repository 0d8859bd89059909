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
// Where rounding took ReLUs across their kink: a line for each chain, first where and when, then how far it carried
// that.
void print_crossings(const std::vector<step_check::Crossing>& crossings) {
    const auto sum = [&](size_t begin, size_t end) {
        int64_t total = 0;
        for (size_t i = begin; i < end; ++i) total += crossings[i].count;
        return total;
    };
    const auto chain_of = [&](size_t i) { return crossings[i].where.substr(0, crossings[i].where.find(',')); };
    std::string lines = text("ReLUs that rounding took across their kink: ", sum(0, crossings.size()), "\n");
    for (size_t begin = 0, end = 0; begin < crossings.size(); begin = end) {
        while (end < crossings.size() && chain_of(end) == chain_of(begin)) ++end;
        const step_check::Crossing &first = crossings[begin], &last = crossings[end - 1];
        lines += text(begin == 0 ? "  first in " : "  ", first.where, ": ", first.count);
        if (end - begin > 1)
            lines += text("; to", last.where.substr(last.where.find(',') + 1), ": ", last.count, "; in all ",
                          sum(begin, end));
        lines += "\n";
    }
    std::printf("%s", lines.c_str());
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
