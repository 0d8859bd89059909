// `dualmcmc interpolate`: Fig. 4, the generator along lines (or great circles) between latents: of samples, z ~ p(z),
// and of test images, inferred by the encoder and the z-chain.
#pragma once
#include "experiments/common.h"

namespace dualmcmc {

class InterpolateCommand : public Experiment {
public:
    explicit InterpolateCommand(CLI::App& app);

protected:
    void check() const override;
    void measure() override;
    int64_t max_count() const override { return test().count / 2; }

private:
    struct Path {
        std::vector<ImageSet> columns;  // by point
        std::vector<double> energy;     // mean energy by point
        std::vector<double> change;     // RMS change per pixel from the previous point; NaN at the first
    };
    std::vector<real> infer_latents(int64_t images);
    Path walk(const std::vector<real>& latents);
    void write_pictures(const Path& samples, const Path& inferred) const;
    int64_t points_ = 10;
    bool spherical_ = false;
};

// The point at t in [0, 1] between a and b: (1 - t) a + t b. Spherical: on the great circle (Shoemake 1985), with
// linearly interpolated length. A latent from N(0, I) in d dimensions lies near the sphere of radius √d, which the
// middle of a line does not.
std::vector<real> interpolate_latent(const std::vector<real>& a, const std::vector<real>& b, double t, bool spherical);

}  // namespace dualmcmc
