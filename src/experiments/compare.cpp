// A cell is named by its method.
#include "experiments/compare.h"

#include <algorithm>
#include <map>

namespace dualmcmc {

namespace {

// FID of Table 1 and MSE of Table 3, on CIFAR-10.
const std::map<std::string, std::pair<std::string, std::string>> paper{
    {"dual", {"9.26", "0.0072"}},      {"cooperative", {"33.61", "0.0271"}},
    {"triangle", {"30.10", "0.0237"}}, {"shortrun", {"–", "–"}},
    {"abp", {"–", "0.0183"}},          {"vae", {"–", "0.0341"}}};

}  // namespace

CompareCommand::CompareCommand(CLI::App& app)
    : GridCommand(app, "compare", "the method and its relatives, each trained for the same time, over several seeds",
                  10, 0, {1, 2, 3}) {
    command_
        ->add_option("--method", methods_,
                     "dual, cooperative, triangle, shortrun, abp, vae; several joined by commas (default: all)")
        ->delimiter(',');
}

std::vector<Cell> CompareCommand::cells() const {
    std::vector<Cell> out;
    for (const std::string& method : methods_) {
        StepSettings settings;
        apply_method(settings, method);
        if (std::any_of(out.begin(), out.end(), [&](const Cell& known) { return known.name == method; }))
            fail("--method ", method, ": given twice");
        out.push_back({method, method, {}});
        // A short-run EBM is its chain: samples are drawn by as many steps as it learned with.
        if (!settings.learn_generator)
            out.back().settings = {{"sampler-steps", std::to_string(settings.chain_x.steps)}};
    }
    return out;
}

std::string CompareCommand::tables() const {
    std::string out = heading({"method", "FID (paper)", "MSE (paper)", "MSE", "SWD generator", "SWD revised", "returns",
                               "gave up", "iterations", "cost", "s/iteration"});
    for (const std::string& method : methods_) {
        const auto value = [&](std::optional<double> Result::*field, int decimals) {
            return over_seeds(method, field, decimals);
        };
        const auto& [fid, mse] = paper.at(method);
        out += row({method, fid, mse, value(&Result::mse, 4), value(&Result::swd_generator, 1),
                    value(&Result::swd_revised, 1), value(&Result::returns, 0), value(&Result::gave_up, 0),
                    value(&Result::iterations, 0), value(&Result::processor, 3), value(&Result::seconds, 3)});
    }
    return out;
}

}  // namespace dualmcmc
