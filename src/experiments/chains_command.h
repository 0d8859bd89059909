// `dualmcmc revise`: Fig. 2, the two chains at work. Strips of intermediate states, the energy along the x-chain and
// the MSE along the z-chain.
#pragma once
#include "experiments/common.h"

namespace dualmcmc {

class ReviseCommand : public Experiment {
public:
    explicit ReviseCommand(CLI::App& app);

protected:
    void check() const override;
    void measure() override;

private:
    void measure_x();
    void measure_z();
    int64_t strips_ = 8;
};

}  // namespace dualmcmc
