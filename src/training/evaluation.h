// Pictures from trained networks: the generator's samples, the same revised by the EBM, and reconstructions.
#pragma once
#include "data/images.h"
#include "method/dual_mcmc.h"

namespace dualmcmc {

// Whoever looks at a network changes it a little: batch norm's running statistics and the spectral norm's vectors move
// with each pass. While a ScopedStateRestore lives the networks may be looked at; it then puts everything back, so that
// training does not notice.
class ScopedStateRestore {
public:
    explicit ScopedStateRestore(Models& models);
    ~ScopedStateRestore();
    ScopedStateRestore(const ScopedStateRestore&) = delete;
    ScopedStateRestore& operator=(const ScopedStateRestore&) = delete;

    // Until the end, parameters that have a moving average (update_ema) hold it.
    void use_averages();

private:
    Models& models_;
    std::vector<std::pair<Tensor, Tensor>> saved_;  // (in use, copy)
};

// How the generator's batch norm works when a trained network is looked at. Training always uses each batch's
// statistics.
//   batch         each batch's statistics, as in training [release]
//   running       the running averages of training, which lag behind the parameters (and belong to them, not to their
//   moving average) recalibrated  mean and variance over all images of `batches` batches of g(z), z ~ p(z), from the
//   parameters as they are now
// With the latter two what becomes of an image does not depend on the others of its batch.
struct BatchNormMode {
    std::string name = "batch";
    int64_t batches = 50;
    std::string text(int64_t batch) const;  // for people
};
// `batch`, `seed`: of the recalibration. Fails, listing them, where there is no policy of that name.
void set_batch_norm(Models& models, const BatchNormMode& policy, int64_t batch, uint64_t seed);

struct Samples {
    ImageSet generated, revised;  // where the x-chain starts, and its end
};

// Batch `index` of a seed's samples, of `batch` images; the same whatever was drawn before. The x-chain starts at
// `start`: generator or noise (StepSettings::start_x). Without `revise` no chain is run, and `revised` stays empty.
Samples draw_batch(Models& models, int64_t index, int64_t batch, const std::string& start, const ChainSettings& chain,
                   uint64_t seed, bool revise = true);

// The first `count` of a seed's samples, drawn in whole batches of `batch`.
Samples draw_samples(Models& models, int64_t count, int64_t batch, const std::string& start, const ChainSettings& chain,
                     uint64_t seed);

struct Reconstructions {
    ImageSet data, encoder, revised;  // x; g(z) for z ~ q(z|x); g(z) after the z-chain
};

// Of the images `data`, in one batch.
Reconstructions draw_reconstructions(Models& models, const ImageSet& data, const StepSettings& settings, uint64_t seed);

// x (B,S,S,3) as a set of pictures.
ImageSet pictures(const Tensor& x);

}  // namespace dualmcmc
