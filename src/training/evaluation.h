// Images from trained networks: the generator's samples, the same revised by the EBM, and reconstructions.
#pragma once
#include "data/images.h"
#include "method/dual_mcmc.h"

namespace dualmcmc {

// Every forward pass changes buffers: batch norm's running statistics and the spectral norm's vectors.
// ScopedStateRestore restores them when it goes out of scope, so that evaluation does not affect training. If the
// device fails then, the destructor throws, unless another exception is on its way, which is the error to report.
class ScopedStateRestore {
public:
    explicit ScopedStateRestore(Models& models);
    ~ScopedStateRestore() noexcept(false);
    ScopedStateRestore(const ScopedStateRestore&) = delete;
    ScopedStateRestore& operator=(const ScopedStateRestore&) = delete;

    // Replaces each parameter that has a moving average (update_ema) by it, until the scope ends.
    void use_averages();

private:
    Models& models_;
    int exceptions_;                                // on their way at the scope's begin
    std::vector<std::pair<Tensor, Tensor>> saved_;  // (the network's tensor, a copy)
};

// Which statistics the generator's batch norm uses in evaluation. Training always uses each batch's.
//   batch         each batch's, as in training [authors]
//   running       training's running averages. They lag behind the parameters, and belong to the parameters rather
//                 than to their EMA.
//   recalibrated  mean and variance over all pixels of `batches` batches of g(z), z ~ p(z), from the current parameters
// With the latter two an image does not depend on the rest of its batch.
struct BatchNormMode {
    std::string name = "batch";
    int64_t batches = 50;
    // A description for summaries.
    std::string text(int64_t batch) const;
};
// `batch` and `seed` are for the recalibration. Fails, listing the modes, if there is none of that name,
// and unless `batches` is from 1 to 10⁶.
void set_batch_norm(Models& models, const BatchNormMode& mode, int64_t batch, uint64_t seed);

struct Samples {
    ImageSet generated, revised;  // start and end of the x-chain
};

// Batch `index`, of `batch` images, of a seed's samples; it does not depend on what was drawn before. `start` of the
// x-chain: generator or noise (StepSettings::start_x). Without `revise` no chain runs, and `revised` stays empty.
Samples draw_batch(Models& models, int64_t index, int64_t batch, const std::string& start, const ChainSettings& chain,
                   uint64_t seed, bool revise = true);

// Samples as bytes and back, for share_out (ranks/ranks.h).
std::string to_bytes(const Samples& samples);
Samples samples_from_bytes(const std::string& bytes, int64_t count, int64_t size);

// The first `count` of a seed's samples, drawn in full batches of `batch`. Ranks share the batches out; the first gets
// the samples, the others none.
Samples draw_samples(Models& models, int64_t count, int64_t batch, const std::string& start, const ChainSettings& chain,
                     uint64_t seed);

struct Reconstructions {
    ImageSet data, encoder, revised;  // x; g(z) for z ~ q(z|x); g(z) after the z-chain
};

// Reconstructs the images `data`, in one batch.
Reconstructions draw_reconstructions(Models& models, const ImageSet& data, const StepSettings& settings, uint64_t seed);

// x (B,S,S,3) in [-1, 1] as 8-bit images.
ImageSet pictures(const Tensor& x);

}  // namespace dualmcmc
