// `dualmcmc revise`: Fig. 2, the two chains at work. Strips of intermediate states, the energy along the x-chain and
// the MSE along the z-chain.
//
//   x_chain.png   two rows per sample: the states x_k, and below each x_k - x_0 times ten, where grey 128 is no change
//   z_chain.png   a row per test image: g(z_k), and the image itself
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

// Part of it, exposed for the tests: pictures of x - start times change_factor, both (N,S,S,3) in [-1, 1]. Grey 128 is
// no change, and change_factor levels from it are one of 256 grey levels; beyond 0 and 255 they are clamped.
inline constexpr int change_factor = 10;
ImageSet change_pictures(const Tensor& x, const Tensor& start);

}  // namespace dualmcmc
