// `dualmcmc reconstruct`: Table 3 and Fig. 3, how well test images are reconstructed by the encoder, by the encoder and the z-chain, and
// by z-chains that start from noise (Table 4); over all steps, in MSE, PSNR and SSIM (statistics.h).
#pragma once
#include "experiments/common.h"

namespace dualmcmc {

class ReconstructCommand : public Experiment {
public:
    explicit ReconstructCommand(CLI::App& app);

protected:
    void measure() override;
};

}  // namespace dualmcmc
