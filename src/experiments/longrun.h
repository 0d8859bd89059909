// `dualmcmc longrun`: does the x-chain stay on images for thousands of steps: the energy of each chain by step,
// pictures at powers of two, and split-R̂ and effective sample size of the energy (statistics.h).
#pragma once
#include "experiments/common.h"

namespace dualmcmc {

class LongrunCommand : public Experiment {
public:
    explicit LongrunCommand(CLI::App& app);

protected:
    void check() const override;
    void measure() override;
    int64_t most() const override { return 65536; }

private:
    Tensor starts();
    double data_energy();
    void say_mixing(const std::vector<std::vector<double>>& energies, Csv& table);
    int64_t warmup_ = -1;  // steps left out of R̂ and the sample size; below 0: the first half
};

}  // namespace dualmcmc
