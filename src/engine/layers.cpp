// Layers: their parameters and initial values.
#include "engine/layers.h"

#include <cmath>

namespace dualmcmc {

namespace {
real xavier(int64_t in, int64_t out, int64_t kernel) { return std::sqrt(2.0f / real((in + out) * kernel * kernel)); }
real inverse_root(int64_t fan_in) { return 1 / std::sqrt(real(fan_in)); }
}  // namespace

Conv::Conv(ParameterStore& state, const std::string& name, int64_t in, int64_t out, int64_t kernel, int64_t stride_,
           int64_t padding_, bool with_bias)
    : weight(state.normal(name + ".weight", Layout::conv(kernel, in, out), xavier(in, out, kernel))), stride(stride_),
      padding(padding_) {
    if (with_bias) bias = state.uniform(name + ".bias", Layout::plain({out}), inverse_root(in * kernel * kernel));
}

SpectralNormWeight spectral_conv(ParameterStore& state, const std::string& name, int64_t in, int64_t out,
                                 int64_t kernel) {
    SpectralNormWeight w;
    w.weight_orig = state.normal(name + ".weight_orig", Layout::conv(kernel, in, out), xavier(in, out, kernel));
    w.u = state.unit_vector(name + ".weight_u", Layout::plain({out}));
    w.v = state.unit_vector(name + ".weight_v", Layout::conv_inputs(kernel, in));
    return w;
}

SpectralNormWeight spectral_linear(ParameterStore& state, const std::string& name, int64_t in, int64_t out) {
    SpectralNormWeight w;
    w.weight_orig = state.uniform(name + ".weight_orig", Layout::linear(in, out), inverse_root(in));
    w.u = state.unit_vector(name + ".weight_u", Layout::plain({out}));
    w.v = state.unit_vector(name + ".weight_v", Layout::plain({in}));
    return w;
}

void power_iteration(const std::vector<SpectralNormWeight*>& weights) {
    std::vector<SpectralNormInput> inputs;
    for (const SpectralNormWeight* weight : weights) inputs.push_back(*weight);
    const std::vector<Var> results = spectral_norms(inputs);
    for (size_t i = 0; i < weights.size(); ++i) weights[i]->weight = results[i];
}

Linear::Linear(ParameterStore& state, const std::string& name, int64_t in, int64_t out)
    : weight(state.uniform(name + ".weight", Layout::linear(in, out), inverse_root(in))),
      bias(state.uniform(name + ".bias", Layout::plain({out}), inverse_root(in))) {}

LinearToImage::LinearToImage(ParameterStore& state, const std::string& name, int64_t in, int64_t channels_,
                             int64_t side_)
    : weight(state.uniform(name + ".weight", Layout::linear_to_image(in, channels_, side_), inverse_root(in))),
      bias(state.uniform(name + ".bias", Layout::bias_to_image(channels_, side_), inverse_root(in))),
      channels(channels_), side(side_) {}

Var LinearToImage::operator()(const Var& x) const {
    const int64_t in = x.dim(1), out = side * side * channels;
    return reshape(linear(x, reshape(weight, {in, out}), reshape(bias, {out})), {x.dim(0), side, side, channels});
}

BatchNorm::BatchNorm(ParameterStore& state, const std::string& name, int64_t channels)
    : weight(state.normal(name + ".weight", Layout::plain({channels}), 1)),
      bias(state.constant(name + ".bias", Layout::plain({channels}), 0)),
      running_mean(state.buffer(name + ".running_mean", Layout::plain({channels}), 0)),
      running_var(state.buffer(name + ".running_var", Layout::plain({channels}), 1)) {
    // In the authors' files; with a fixed momentum it is never read.
    state.buffer(name + ".num_batches_tracked", Layout::plain({1}), 0);
}

Var BatchNorm::relu(const Var& x) const {
    if (use_running_stats) return batch_norm_inference_relu(x, weight.value(), bias.value(), running_mean, running_var);
    return batch_norm_relu(x, weight, bias, running_mean, running_var, momentum);
}

Var norm_relu_conv(const BatchNorm& norm, const Conv& conv, const Var& x, NormReluConvOptions options) {
    CHECK_EQ(conv.stride, 1);
    if (norm.use_running_stats) {
        const Var h = norm.relu(x);
        return conv(options.upsample ? upsample2(h) : h,
                    options.upsample_residual ? upsample2(options.residual) : options.residual);
    }
    options.padding = conv.padding;
    return batch_norm_relu_conv2d(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum,
                                  conv.weight, conv.bias, options);
}

}  // namespace dualmcmc
