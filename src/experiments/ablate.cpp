// Variants are named by their chains: x30-encoder10 has k_x = 30 and a z-chain of 10 steps from the encoder.
#include "experiments/ablate.h"

#include <algorithm>

namespace dualmcmc {

namespace {

struct Row {
    int64_t steps_x;
    std::string start_z;
    int64_t steps_z;
    std::string fid, mse, seconds;  // from the paper
    std::string variant() const { return text("x", steps_x, "-", start_z, steps_z); }
};

const std::vector<Row> table_4{{30, "noise", 10, "17.32", "0.0214", "1.576"},
                               {30, "noise", 30, "14.51", "0.0164", "2.034"},
                               {30, "encoder", 10, "9.26", "0.0072", "1.594"},
                               {30, "encoder", 30, "9.18", "0.0068", "2.112"}};
const std::vector<Row> table_5{{10, "encoder", 10, "14.78", "–", "0.861"},
                               {20, "encoder", 10, "11.51", "–", "1.241"},
                               {30, "encoder", 10, "9.26", "0.0072", "1.594"},
                               {50, "encoder", 10, "9.07", "–", "2.454"}};

}  // namespace

AblateCommand::AblateCommand(CLI::App& app)
    : GridCommand(app, "ablate",
                  "Tables 4 and 5 as short trainings: start and length of the z-chain, length of the x-chain", 0, 1000,
                  {1}) {}

std::vector<Variant> AblateCommand::variants() const {
    std::vector<Variant> out;
    for (const auto* table : {&table_4, &table_5})
        for (const Row& r : *table)
            if (std::none_of(out.begin(), out.end(), [&](const Variant& known) { return known.name == r.variant(); }))
                out.push_back({r.variant(),
                               "dual",
                               {{"steps-x", text(r.steps_x)},
                                {"long-steps", "0"},  // else each k_x would also learn from the preset's long chains
                                {"start-z", r.start_z},
                                {"steps-z", text(r.steps_z)}}});
    return out;
}

std::string AblateCommand::tables() const {
    std::string out;
    for (const auto* table : {&table_4, &table_5}) {
        const bool fourth = table == &table_4;
        out += fourth ? "Table 4: the z-chain (k_x = 30)\n\n"
                      : "\nTable 5: the x-chain (z-chain of 10 steps from the encoder)\n\n";
        out += heading({fourth ? "z starts at, k_z" : "k_x", "FID (paper)", "MSE (paper)", "s/iteration (paper)", "MSE",
                        "distance generator", "distance revised", "cost", "s/iteration", "x-chain", "z-chain",
                        "generator", "encoder", "EBM", "iterations", "rollbacks"});
        for (const Row& r : *table) {
            const auto value = [&](std::optional<double> Result::*field, int decimals) {
                return over_seeds(r.variant(), field, decimals);
            };
            out +=
                row({fourth ? text(r.start_z, ", ", r.steps_z) : text(r.steps_x), r.fid, r.mse, r.seconds,
                     value(&Result::mse, 4), value(&Result::distance_generator, 3), value(&Result::distance_revised, 3),
                     value(&Result::cpu_seconds, 3), value(&Result::wall_seconds, 3), value(&Result::chain_x, 3),
                     value(&Result::chain_z, 3), value(&Result::generator, 3), value(&Result::encoder, 3),
                     value(&Result::ebm, 3), value(&Result::iterations, 0), value(&Result::rollbacks, 0)});
        }
    }
    return out;
}

}  // namespace dualmcmc
