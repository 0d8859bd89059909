// `dualmcmc longrun`: does the x-chain still produce images after thousands of steps? The energy of each chain at every
// step, pictures at powers of two, and split-R̂ and effective sample size of the energy (statistics.h).
#pragma once
#include "experiments/common.h"

namespace dualmcmc {

class LongrunCommand : public Experiment {
public:
    explicit LongrunCommand(CLI::App& app);

protected:
    void check() const override;
    void measure() override;
    int64_t max_count() const override { return 65536; }

private:
    Tensor starts();
    double data_energy();
    void log_mixing(const std::vector<std::vector<double>>& energies, Csv& table);
    int64_t warmup_ = -1;  // steps left out of R̂ and the sample size; negative: the first half
};

}  // namespace dualmcmc
