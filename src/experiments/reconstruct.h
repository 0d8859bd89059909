// `dualmcmc reconstruct`: Table 3 and Fig. 3. MSE, PSNR and SSIM (statistics.h) of test images reconstructed by the
// encoder, by the encoder and the z-chain, and by z-chains that start from noise (Table 4), at every step.
#pragma once
#include "experiments/common.h"

namespace dualmcmc {

// Mean squared error per pixel and channel of the first `count` images of the set, reconstructed by the z-chain of
// `settings` from `start`:
//   mean     μ(x)                          row "encoder mean"
//   encoder  z ~ q(z|x)                    rows "encoder"
//   noise    z ~ p(z)                      rows "noise"
// The rows are those of `dualmcmc reconstruct` with the same seed and batch.
double reconstruction_mse(Models& models, const ImageSet& set, int64_t count, int64_t batch, const std::string& start,
                          const StepSettings& settings, uint64_t seed);

class ReconstructCommand : public Experiment {
public:
    explicit ReconstructCommand(CLI::App& app);

protected:
    void measure() override;

private:
    struct Curves;
    struct Picture;
    // Ranks share the batches out.
    std::string reconstruct_batch(int64_t index, const ChainSettings& chain);
    void add_batch(int64_t index, const std::string& bytes, Curves& curves, Picture& picture) const;
    // Of a batch's images: those that count, those that are shown.
    int64_t wanted_in(int64_t index) const;
    int64_t shown_in(int64_t index) const;
    void write_tables(const Curves& curves);
};

}  // namespace dualmcmc
