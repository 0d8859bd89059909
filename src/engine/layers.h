// Layers with parameters. Each is constructed into a ParameterStore under `name`; initial values as in METHOD.md,
// section 5.
#pragma once
#include "engine/ops.h"
#include "engine/parameters.h"

namespace dualmcmc {

// Weights Xavier normal, std = sqrt(2 / (fan_in + fan_out)); biases uniform ±1/sqrt(fan_in).
struct Conv {
    Conv(ParameterStore& state, const std::string& name, int64_t in, int64_t out, int64_t kernel, int64_t stride,
         int64_t padding, bool with_bias);
    // (B, H, W, in) -> (B, H', W', out); adds `residual` where it is given.
    Var operator()(const Var& x, const Var& residual = {}) const {
        return conv2d(x, weight, bias, {.stride = stride, .padding = padding, .residual = residual});
    }
    Var weight, bias;
    int64_t stride, padding;
};

// A weight under spectral normalisation, in PyTorch's names; `weight` is W / σ as of the last power_iteration().
struct SpectralNormWeight : SpectralNormInput {
    Var weight;
};
SpectralNormWeight spectral_conv(ParameterStore& state, const std::string& name, int64_t in, int64_t out,
                                 int64_t kernel);  // Xavier normal
SpectralNormWeight spectral_linear(ParameterStore& state, const std::string& name, int64_t in,
                                   int64_t out);  // uniform ±1/sqrt(in)
// Advances u and v of each weight by one power iteration and sets W / σ, which passes use until the next call.
void power_iteration(const std::vector<SpectralNormWeight*>& weights);

// (B, in) -> (B, out); weights and biases uniform ±1/sqrt(in).
struct Linear {
    Linear(ParameterStore& state, const std::string& name, int64_t in, int64_t out);
    Var operator()(const Var& x) const { return linear(x, weight, bias); }
    Var weight, bias;
};

// (B, in) -> (B, side, side, channels); weights and biases uniform ±1/sqrt(in).
struct LinearToImage {
    LinearToImage(ParameterStore& state, const std::string& name, int64_t in, int64_t channels, int64_t side);
    Var operator()(const Var& x) const;
    Var weight, bias;
    int64_t channels, side;
};

// Weight N(0, 1), bias 0.
struct BatchNorm {
    BatchNorm(ParameterStore& state, const std::string& name, int64_t channels);
    // max(0, batch norm of x), on the batch's statistics, or on the running ones where use_running_stats is set.
    Var relu(const Var& x) const;
    Var weight, bias;
    Tensor running_mean, running_var;
    real momentum = 0.1;
    bool use_running_stats = false;
};

// conv(up(norm.relu(x)), up(residual)): batch_norm_relu_conv2d (ops.h), with conv's padding.
Var norm_relu_conv(const BatchNorm& norm, const Conv& conv, const Var& x, NormReluConvOptions options);

}  // namespace dualmcmc
