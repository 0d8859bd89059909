// Variants are named by their method.
#include "experiments/compare.h"

#include <algorithm>
#include <map>

namespace dualmcmc {

namespace {

// The paper's results on CIFAR-10: FID (Table 1) and MSE (Table 3).
const std::map<std::string, std::pair<std::string, std::string>> paper{
    {"dual", {"9.26", "0.0072"}},      {"cooperative", {"33.61", "0.0271"}},
    {"triangle", {"30.10", "0.0237"}}, {"shortrun", {"–", "–"}},
    {"abp", {"–", "0.0183"}},          {"vae", {"–", "0.0341"}}};

}  // namespace

CompareCommand::CompareCommand(CLI::App& app)
    : GridCommand(app, "compare", "the method and its baselines, each trained with the same budget, over several seeds",
                  10, 0, {1, 2, 3}) {
    command_->add_option("--method", methods_, method_list() + "; separate several by commas (default: all)")
        ->delimiter(',');
}

std::vector<Variant> CompareCommand::variants() const {
    std::vector<Variant> out;
    for (const std::string& method : methods_) {
        StepSettings settings;
        apply_method(settings, method);
        if (std::any_of(out.begin(), out.end(), [&](const Variant& known) { return known.name == method; }))
            fail("--method ", method, ": given twice");
        out.push_back({method, method, {}});
        // A short-run EBM is defined by its chain: sampling uses as many steps as training.
        if (!settings.learn_generator)
            out.back().settings = {{"sampler-steps", std::to_string(settings.chain_x.steps)}};
    }
    return out;
}

std::string CompareCommand::tables() const {
    std::string out = heading({"method", "FID (paper)", "MSE (paper)", "MSE", "distance generator", "distance revised",
                               "rollbacks", "gave up", "iterations", "cost", "s/iteration"});
    for (const std::string& method : methods_) {
        const auto value = [&](std::optional<double> Result::*field, int decimals) {
            return over_seeds(method, field, decimals);
        };
        const auto& [fid, mse] = paper.at(method);
        out += row({method, fid, mse, value(&Result::mse, 4), value(&Result::distance_generator, 3),
                    value(&Result::distance_revised, 3), value(&Result::rollbacks, 0), value(&Result::gave_up, 0),
                    value(&Result::iterations, 0), value(&Result::cpu_seconds, 3), value(&Result::wall_seconds, 3)});
    }
    return out;
}

}  // namespace dualmcmc
