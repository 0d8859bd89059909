// Pictures from trained networks: the generator's samples, the same revised by the EBM, and reconstructions.
#pragma once
#include "dual_mcmc.h"
#include "image.h"

namespace dualmcmc {

// Whoever looks at a network changes it a little: batch norm's running statistics and the spectral norm's vectors move with each
// pass. While a KeepState lives the networks may be looked at; it then puts everything back, so that training does not notice.
class KeepState {
public:
    explicit KeepState(Models& models);
    ~KeepState();
    KeepState(const KeepState&) = delete;
    KeepState& operator=(const KeepState&) = delete;

    // Until the end, parameters that have a moving average (average_parameters) hold it.
    void use_averages();

private:
    Models& models_;
    std::vector<std::pair<Tensor, Tensor>> saved_;  // (in use, copy)
};

struct Samples {
    ImageSet generated, revised;  // where the x-chain starts, and its end
};

// `count` samples, drawn in whole batches of `batch` (batch norm works on the batch's statistics); deterministic in the seed. The
// x-chain starts at `start`: generator or noise (StepSettings::start_x).
// `done`, where given, hears after each batch how many there are.
Samples draw_samples(Models& models, int64_t count, int64_t batch, const std::string& start, const ChainSettings& chain, uint64_t seed,
                     const std::function<void(int64_t)>& done = {});

struct Reconstructions {
    ImageSet data, encoder, revised;  // x; g(z) for z ~ q(z|x); g(z) after the z-chain
};

// Of the images `data`, in one batch.
Reconstructions reconstruct(Models& models, const ImageSet& data, const StepSettings& settings, uint64_t seed);

// The first `count` images of a set.
ImageSet first_images(const ImageSet& set, int64_t count);

}  // namespace dualmcmc
