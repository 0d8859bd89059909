// The two Langevin chains of the method (Eq. 3 and Eq. 6; METHOD.md, section 2).
//
//   paper      y <- y + s ∇ log p(y) + sqrt(2 s) U,  U ~ N(0, I)
//   [authors]  y <- y - ½ s² ∇ potential(y) + n U    with separate s and n: temperature T = (n / s)²
//
// Only the gradient with respect to the chain's own variable is computed. On a GPU a step's gradient is captured as a
// CUDA graph: graphed_function.h says what that requires of the functions below.
#pragma once
#include <functional>
#include <variant>
#include <vector>

#include "method/models.h"
#include "method/settings.h"

namespace dualmcmc {

// U of one step: a tensor of the shape of the chain's variable, or a key from which the step draws N(0, I) itself.
using Noise = std::variant<Tensor, RandomKey>;
using NoiseFunction = std::function<Noise(int64_t step)>;  // step from 0

// A chain's end; before each step Σ E or Σ ‖x - g(z)‖² over the batch, on the device and without 1 / (2σ²).
struct Chain {
    Tensor end;
    std::vector<Tensor> trace;
};

// Energies (B) and the gradient of their sum, (B, …) like x: each image's gradient of its own energy.
struct EnergyGradient {
    Tensor energy, gradient;
};
using EnergyFunction = std::function<EnergyGradient(const Tensor& x)>;

// One power iteration on the EBM's weights (u and v advance), then E_α and ∇_x E_α.
EnergyGradient energy_gradient(EnergyModel& ebm, const Tensor& x);

// T_α^x, target π_α ∝ exp(-E / T) (Eq. 3): from `x`, steps of x <- x - ½ s² ∇_x E(x) + n U. The trace is Σ E.
Chain langevin_x(Tensor x, const EnergyFunction& energy, const ChainSettings& settings, const NoiseFunction& noise);

// T_θ^z, target p_θ(z|x) (Eq. 6): from `z`, steps of
//   z <- z - ½ s² ∇_z [ ‖x - g(z)‖² / (2σ²) + ½ ‖z‖² ] + n U.
// The trace is Σ ‖x - g(z)‖².
Chain langevin_z(Tensor z, const Tensor& x, const std::function<Var(const Var&)>& generator, real sigma,
                 const ChainSettings& settings, const NoiseFunction& noise);

}  // namespace dualmcmc
