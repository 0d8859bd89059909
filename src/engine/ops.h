// The differentiable operations: each with its formula. x, y, … are images (B, H, W, C), matrices (B, n) or scalars
// (1). Every op checks its shapes. In ops.cpp its gradient stands directly beneath its value.
#pragma once
#include "engine/autograd.h"

namespace dualmcmc {

// ---- elementwise; a and b of one shape ----------------------------------------------------------
Var add(const Var& a, const Var& b);       // a + b
Var multiply(const Var& a, const Var& b);  // a b
Var scale(const Var& x, real factor);      // factor x
Var leaky_relu(const Var& x, real slope);  // x > 0 ? x : slope x; slope ≥ 0
Var relu(const Var& x);                    // max(x, 0)
Var tanh(const Var& x);
Var swish(const Var& x);  // x / (1 + e^-x)
Var exp(const Var& x);

// ---- shape --------------------------------------------------------------------------------------
Var reshape(const Var& x, const Shape& shape);  // the same elements in NHWC order

// ---- reductions: n and B count the whole batch, of which a rank's value is its part (ranks/shared_batch.h) -------
Var sum(const Var& x);                              // Σ x, a scalar
Var mean(const Var& x);                             // Σ x / n
Var sum_squared_error(const Var& a, const Var& b);  // Σ (a - b)²
Var squared_error(const Var& a, const Var& b);      // Σ (a - b)² / B: sum over pixels, mean over the batch (Eq. 10)
// ½ Σ [logvar + (z - mu)² / (1e-6 + e^logvar)] / B (Eq. 15); arguments (B, d)
Var gaussian_nll(const Var& z, const Var& mu, const Var& logvar);
// mu + e^(logvar / 2) eps
Var reparametrise(const Var& mu, const Var& logvar, const Tensor& eps);

// ---- images -------------------------------------------------------------------------------------
Var avg_pool2(const Var& x);        // (B, H, W, C) -> (B, H/2, W/2, C); even sides
Var global_avg_pool(const Var& x);  // (B, H, W, C) -> (B, C)
Var upsample2(const Var& x);        // bilinear, align_corners: (B, 2H, 2W, C)

// ---- layers -------------------------------------------------------------------------------------
// What a convolution does in the same pass over memory.
struct ConvOptions {
    int64_t stride = 1, padding = 0;
    bool relu = false;  // convolves relu(x), which is not stored
    bool pool = false;  // avg_pool2 of the result; 3×3, stride 1, padding 1 and even sides only
    Var residual{};     // added to the result, of its shape; may be undefined
};
// w (kernel, kernel, in, out); bias (out), may be undefined.
Var conv2d(const Var& x, const Var& w, const Var& bias, const ConvOptions& options);
// x (B, in), w (in, out), bias (out), may be undefined -> (B, out)
Var linear(const Var& x, const Var& w, const Var& bias);
// Batch norm, always on the statistics of the batch, over batch and pixels of each channel (METHOD.md, section 5); eps
// 1e-5; the other arguments are (C). Updates the running statistics in place, also under NoGrad, the variance unbiased.
Var batch_norm(const Var& x, const Var& weight, const Var& bias, const Tensor& running_mean, const Tensor& running_var);
Var batch_norm_relu(const Var& x, const Var& weight, const Var& bias, const Tensor& running_mean,
                    const Tensor& running_var, real momentum = 0.1);
// conv2d(up(batch_norm_relu(x, …)), w, bias, {.padding = …, .residual = up(residual)}), where up is upsample2 or
// nothing, as the options say. A device may do it in one kernel (Backend::norm_relu_conv2d).
struct NormReluConvOptions {
    int64_t padding = 1;
    bool upsample = false;
    Var residual{};
    bool upsample_residual = false;
};
Var batch_norm_relu_conv2d(const Var& x, const Var& weight, const Var& shift, const Tensor& running_mean,
                           const Tensor& running_var, real momentum, const Var& w, const Var& bias,
                           const NormReluConvOptions& options);
// max(0, (x - mean) / sqrt(var + 1e-5) weight + bias), each channel by the given statistics (C). For evaluation: only x
// has a gradient.
Var batch_norm_inference_relu(const Var& x, const Tensor& weight, const Tensor& bias, const Tensor& mean,
                              const Tensor& var);
// Spectral normalisation (Miyato et al. 2018, as torch.nn.utils): one power iteration on u and v, in place, then W / σ
// with σ = vᵀWu. W is any weight with `out` innermost, seen as the matrix (rest, out); u (out), v (rest). For the
// gradient u and v are constants, σ is not.
struct SpectralNormInput {
    Var weight_orig;
    Tensor u, v;
};
Var spectral_norm(const Var& w, const Tensor& u, const Tensor& v);
// Of several weights; on a GPU in as many launches as for one.
std::vector<Var> spectral_norms(const std::vector<SpectralNormInput>& weights);

}  // namespace dualmcmc
