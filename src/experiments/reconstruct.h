// `dualmcmc reconstruct`: Table 3 and Fig. 3, how well test images are reconstructed by the encoder, by the encoder and
// the z-chain, and by z-chains that start from noise (Table 4); over all steps, in MSE, PSNR and SSIM (statistics.h).
#pragma once
#include "experiments/common.h"

namespace dualmcmc {

// Mean squared error per pixel and channel of `count` images of the set, reconstructed by the settings' z-chain from
// `start`:
//   mean     μ(x)                          as the row "encoder mean"
//   encoder  z ~ q(z|x)                    as the rows "encoder"
//   noise    z ~ p(z)                      as the rows "noise"
// of `dualmcmc reconstruct` with the same seed and batch.
double reconstruction_mse(Models& models, const ImageSet& set, int64_t count, int64_t batch, const std::string& start,
                          const StepSettings& settings, uint64_t seed);

class ReconstructCommand : public Experiment {
public:
    explicit ReconstructCommand(CLI::App& app);

protected:
    void measure() override;
};

}  // namespace dualmcmc
