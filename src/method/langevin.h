// The two Langevin chains of the method (Eq. 3 and Eq. 6).
//
//   paper:    y <- y + s ∇ log p(y) + sqrt(2 s) U,  U ~ N(0, I)
//   release:  y <- y - ½ step² ∇ potential(y) + noise · U: step and noise are set apart, so that the chain's stationary
//   density is
//             (for small steps) exp(-potential / T) with the temperature T = (noise / step)².
//
// Only the gradient with respect to the chain's own variable is computed. On a GPU it is recorded as a graph: see
// repeated.h for what that asks of the functions below.
#pragma once
#include <functional>
#include <variant>
#include <vector>

#include "method/models.h"

namespace dualmcmc {

struct ChainSettings {
    int64_t steps;
    float step_size, noise_std;  // s and n above
    float temperature() const { return (noise_std / step_size) * (noise_std / step_size); }
};

// U of one step: numbers of the shape of the chain's variable, or a key, whose N(0, I) the step itself draws.
using Noise = std::variant<Tensor, RandomKey>;
using NoiseFunction = std::function<Noise(int64_t step)>;  // of step 0 … steps - 1

// A chain's end and, for each step, the potential's data term just before it, summed over the batch: scalars on the
// device.
struct Chain {
    Tensor end;
    std::vector<Tensor> trace;
};

// Energies (B) and the gradient of their sum with respect to x (the gradient of each image's own energy).
struct EnergyGradient {
    Tensor energy, gradient;
};
using EnergyFunction = std::function<EnergyGradient(const Tensor& x)>;

// One power iteration on the EBM's weights, then E_α and ∇_x E_α. The EBM has nothing that joins the images of a batch,
// so a few at a time go through the whole network, on one core each, while their activations stay in its cache.
EnergyGradient energy_gradient(EnergyModel& model, const Tensor& x);

// T_α^x, target π_α (Eq. 3): x <- x - ½ s² ∇_x E(x) + n U, from `x`. The profile holds Σ E.
Chain langevin_x(Tensor x, const EnergyFunction& energy, const ChainSettings& settings, const NoiseFunction& noise);

// T_θ^z, target p_θ(z|x) (Eq. 6): z <- z - ½ s² ∇_z [ ‖x - g(z)‖² / (2σ²) + ½ ‖z‖² ] + n U, from `z`. The profile holds
// Σ ‖x - g(z)‖².
Chain langevin_z(Tensor z, const Tensor& x, const std::function<Var(const Var&)>& generator, float sigma,
                 const ChainSettings& settings, const NoiseFunction& noise);

}  // namespace dualmcmc
