// The differentiable operations, one line each. x, y, … are images (B, H, W, C), matrices (B, n) or scalars (1).
// Every op checks its shapes; its gradient stands directly beneath it in ops.cpp.
#pragma once
#include "engine/autograd.h"

namespace dualmcmc {

// ---- elementwise; a and b of one shape ----------------------------------------------------------
Var add(const Var& a, const Var& b);        // a + b
Var multiply(const Var& a, const Var& b);   // a b
Var scale(const Var& x, float factor);      // factor x
Var leaky_relu(const Var& x, float slope);  // x > 0 ? x : slope x; slope ≥ 0
Var relu(const Var& x);                     // max(x, 0)
Var tanh(const Var& x);
Var swish(const Var& x);  // x / (1 + e^-x)
Var exp(const Var& x);

// ---- shape --------------------------------------------------------------------------------------
Var reshape(const Var& x, const Shape& shape);  // the same numbers, NHWC order

// ---- reductions ---------------------------------------------------------------------------------
Var sum(const Var& x);                          // Σ x, a scalar
Var mean(const Var& x);                         // Σ x / n
Var squared_error(const Var& a, const Var& b);  // Σ (a - b)² / B: sum over pixels, mean over the batch (Eq. 10)
Var gaussian_nll(const Var& z, const Var& mu, const Var& logvar);
// ½ Σ [logvar + (z - mu)² / (1e-6 + e^logvar)] / B (Eq. 15); arguments (B, d)
Var reparametrise(const Var& mu, const Var& logvar, const Tensor& eps);  // mu + e^(logvar / 2) eps

// ---- images -------------------------------------------------------------------------------------
Var avg_pool2(const Var& x);        // (B, H, W, C) -> (B, H/2, W/2, C); even sides
Var global_avg_pool(const Var& x);  // (B, H, W, C) -> (B, C)
Var upsample2(const Var& x);        // bilinear, align_corners: (B, 2H, 2W, C)

// ---- layers -------------------------------------------------------------------------------------
// What goes with a convolution in one pass over memory.
struct ConvOptions {
    int64_t stride = 1, padding = 0;
    bool relu = false;  // of max(x, 0) in place of x, which is then not stored
    bool pool = false;  // then avg_pool2, with a quarter of the products or less; 3×3, stride 1, padding 1, even sides
    Var residual{};     // added to the result, of its shape; or undefined
};
// w (kernel, kernel, in, out); bias (out) or undefined.
Var conv2d(const Var& x, const Var& w, const Var& bias, const ConvOptions& options);
// x (B, in), w (in, out), bias (out) or undefined -> (B, out)
Var linear(const Var& x, const Var& w, const Var& bias);
// Normalises each channel over batch and pixels by the batch's statistics (always: paper.md, section 5), eps 1e-5; the
// running statistics (C) are updated in place with momentum 0.1, or another. Under NoGrad too. batch_norm_relu does a
// ReLU in the same pass over memory.
Var batch_norm(const Var& x, const Var& weight, const Var& bias, const Tensor& running_mean, const Tensor& running_var);
Var batch_norm_relu(const Var& x, const Var& weight, const Var& bias, const Tensor& running_mean,
                    const Tensor& running_var, float momentum = 0.1f);
// conv2d(up(batch_norm_relu(x, …)), w, bias, {.padding = …, .residual = up(residual)}), where up is upsample2 or
// nothing, as asked for. On the CPU a few images at a time go all the way, so that what lies between stays in the
// cache; only x and the result pass through memory.
struct NormedConvOptions {
    int64_t padding = 1;
    bool upsample = false;
    Var residual{};
    bool upsample_residual = false;
};
Var batch_norm_relu_conv2d(const Var& x, const Var& weight, const Var& shift, const Tensor& running_mean,
                           const Tensor& running_var, float momentum, const Var& w, const Var& bias,
                           const NormedConvOptions& options);
// max(0, (x - mean) / sqrt(var + 1e-5) weight + bias), each channel by the statistics given (C). For trained networks
// that are looked at: all but x is constant for the gradient.
Var batch_norm_inference_relu(const Var& x, const Tensor& weight, const Tensor& bias, const Tensor& mean,
                              const Tensor& var);
// One power iteration on (u, v), in place, then W / σ with σ = uᵀWv. W is any weight with `out` innermost, taken as the
// matrix (rest, out); u (out), v (rest). u and v are constants for the gradient, σ is not (Miyato et al. 2018, as
// torch.nn.utils).
struct SpectralNormInput {
    Var w;
    Tensor u, v;
};
Var spectral_norm(const Var& w, const Tensor& u, const Tensor& v);
std::vector<Var> spectral_norms(
    const std::vector<SpectralNormInput>& weights);  // of each; on a GPU in as many launches as for one

}  // namespace dualmcmc
