// Variants are named by their method, or by what an ablation leaves out of the paper's.
#include "experiments/compare.h"

#include <algorithm>
#include <map>

namespace dualmcmc {

namespace {

// The paper's results on CIFAR-10: FID (Table 1) and MSE (Table 3).
const std::map<std::string, std::pair<std::string, std::string>> paper{{"dual", {"9.26", "0.0072"}},
                                                                       {"cooperative", {"33.61", "0.0271"}},
                                                                       {"triangle", {"30.10", "0.0237"}},
                                                                       {"abp", {"–", "0.0183"}},
                                                                       {"vae", {"–", "0.0341"}}};

const std::pair<std::string, std::string> not_reported{"–", "–"};

// The method without one of the generator's two teachers (Eq. 10), which the paper does not report.
//
// - Without the EBM there are no revised samples: generator and encoder learn from the z-chain alone.
// - Without the data term the EBM alone teaches the generator. The z-chain still runs: its end is what the encoder
//   learns on the data (Eq. 15). As nothing that the encoder computes reaches the other two networks, these are those
//   of `cooperative`, iteration by iteration.
const std::vector<Variant> ablations{
    {"dual-no-ebm", "dual", {{"learn-ebm", "false"}, {"lambda-ebm", "0"}, {"lambda-generated", "0"}}},
    {"dual-no-data", "dual", {{"lambda-data", "0"}}}};

std::vector<std::string> names_of_variants() {
    std::vector<std::string> names = method_names;
    for (const Variant& ablation : ablations) names.push_back(ablation.name);
    return names;
}

// "dual, cooperative, …, abp or vae, or the ablations dual-no-ebm and dual-no-data"
std::string variant_list() {
    std::string list = method_list() + ", or the ablations ";
    for (const Variant& ablation : ablations) list += (&ablation == &ablations[0] ? "" : " and ") + ablation.name;
    return list;
}

Variant variant_of(const std::string& name) {
    for (const Variant& ablation : ablations)
        if (ablation.name == name) return ablation;
    if (std::find(method_names.begin(), method_names.end(), name) == method_names.end())
        fail("--method ", excerpt(name), ": unknown; give ", variant_list());
    StepSettings settings;
    apply_method(settings, name);
    Variant out{name, name, {}};
    // A short-run EBM is defined by its chain: sampling uses as many steps as training.
    if (!settings.learn_generator) out.settings = {{"sampler-steps", std::to_string(settings.chain_x.steps)}};
    return out;
}

}  // namespace

CompareCommand::CompareCommand(CLI::App& app)
    : GridCommand(app, "compare",
                  "the method, its baselines and two ablations, each trained with the same budget, over several seeds",
                  10, 0, {1, 2, 3}),
      names_(names_of_variants()) {
    command_
        ->add_option("--method", names_,
                     text(variant_list(), " (dual without the EBM; dual without the generator's data term); separate ",
                          "several by commas (default: all)"))
        ->delimiter(',');
}

std::vector<Variant> CompareCommand::variants() const {
    std::vector<Variant> out;
    for (const std::string& name : names_) {
        if (std::any_of(out.begin(), out.end(), [&](const Variant& known) { return known.name == name; }))
            fail("--method ", name, ": given twice");
        out.push_back(variant_of(name));
    }
    return out;
}

std::string CompareCommand::tables() const {
    std::string out = heading({"method", "FID (paper)", "MSE (paper)", "MSE", "distance generator", "distance revised",
                               "rollbacks", "gave up", "iterations", "cost", "s/iteration"});
    for (const std::string& name : names_) {
        const auto value = [&](std::optional<double> Result::*field, int decimals) {
            return over_seeds(name, field, decimals);
        };
        const auto found = paper.find(name);
        const auto& [fid, mse] = found == paper.end() ? not_reported : found->second;
        out += row({name, fid, mse, value(&Result::mse, 4), value(&Result::distance_generator, 3),
                    value(&Result::distance_revised, 3), value(&Result::rollbacks, 0), value(&Result::gave_up, 0),
                    value(&Result::iterations, 0), value(&Result::cpu_seconds, 3), value(&Result::wall_seconds, 3)});
    }
    return out;
}

}  // namespace dualmcmc
