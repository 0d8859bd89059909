// `dualmcmc compare`: the method, its baselines and two ablations (`--method dual,vae`; default: all), each trained
// with the same budget, over several seeds.
#pragma once
#include "experiments/grid.h"

namespace dualmcmc {

class CompareCommand : public GridCommand {
public:
    explicit CompareCommand(CLI::App& app);

protected:
    std::vector<Variant> variants() const override;
    std::string tables() const override;

private:
    std::vector<std::string> names_;  // of methods and ablations
};

}  // namespace dualmcmc
