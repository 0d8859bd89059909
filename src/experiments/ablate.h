// `dualmcmc ablate`: the paper's Tables 4 and 5 as a grid of short trainings: where the z-chain starts and how long it
// is, and how long the x-chain is. The third row of Table 4's is also the k_x = 30 of Table 5, and is trained once.
#pragma once
#include "experiments/grid.h"

namespace dualmcmc {

class AblateCommand : public GridCommand {
public:
    explicit AblateCommand(CLI::App& app);

protected:
    std::vector<Cell> cells() const override;
    std::string tables() const override;
};

}  // namespace dualmcmc
