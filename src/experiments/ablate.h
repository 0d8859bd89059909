// `dualmcmc ablate`: the paper's Tables 4 and 5 as a grid of short trainings that vary the start and length of the
// z-chain and the length of the x-chain. The variant that both tables share (encoder, k_z = 10, k_x = 30) is trained
// once.
#pragma once
#include "experiments/grid.h"

namespace dualmcmc {

class AblateCommand : public GridCommand {
public:
    explicit AblateCommand(CLI::App& app);

protected:
    std::vector<Variant> variants() const override;
    std::string tables() const override;
};

}  // namespace dualmcmc
