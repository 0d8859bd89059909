// Layers with parameters, their names and initial values, and the optimiser.
//
// Parameters live in memory as the kernels want them (channels innermost) and in files as PyTorch has them (NCHW,
// OIHW); a Layout is the permutation between the two, applied at the file's edge alone.
#pragma once
#include <deque>
#include <string>

#include "engine/ops.h"

namespace dualmcmc {

// The streams of random numbers (RandomKey::stream). Their numbers are part of the format: reference/philox.py has them
// too.
enum class RngPurpose : uint32_t {
    prior,
    reparametrise,
    langevin_x,
    langevin_z,
    langevin_x_resample,
    shuffle,
    init,
    sample_prior,
    sample_langevin,
    flip,
    start_x
};
inline RandomKey random_key(uint64_t seed, RngPurpose purpose, uint64_t step) {
    return {seed, uint32_t(purpose), step};
}

// How a tensor stands in a file: seen there as `view`, whose axes in the order `axes` give the shape in memory.
struct Layout {
    Shape file_shape, view;
    std::vector<int> axes;

    static Layout plain(const Shape& shape);                      // the same in both
    static Layout image(const Shape& nhwc);                       // (B,C,H,W) -> (B,H,W,C)
    static Layout conv(int64_t kernel, int64_t in, int64_t out);  // (O,I,kh,kw) -> (kh,kw,I,O)
    static Layout conv_rows(int64_t kernel,
                            int64_t in);            // (I·kh·kw) -> (kh·kw·I): a vector over a convolution's inputs
    static Layout linear(int64_t in, int64_t out);  // (O,I) -> (I,O)
    // A linear layer whose output is viewed as an image (channels, side, side) in the file, (side, side, channels) in
    // memory.
    static Layout linear_to_image(int64_t in, int64_t channels, int64_t side);
    static Layout bias_to_image(int64_t channels, int64_t side);

    Shape memory_shape() const;
    std::vector<float> to_memory(const std::vector<float>& file) const;
    std::vector<float> to_file(const std::vector<float>& memory) const;
};

// A named tensor of a network: trained (parameter) or kept beside it (buffer: running statistics, u and v).
struct NamedTensor {
    std::string name;  // as in the release's state_dict
    Layout layout;
    Var value;
    bool trainable;
    Tensor moment1, moment2;  // Adam's, for trained ones
    Tensor ema;               // over iterations, where it is kept (update_ema); undefined otherwise
};

// All tensors of one network, in order of creation. Initial values: Philox stream `init`, step = `network` << 16 |
// index.
class ParameterStore {
public:
    ParameterStore(uint64_t seed, uint64_t network) : seed_(seed), network_(network) {}

    Var normal(const std::string& name, const Layout& layout, float deviation);
    Var uniform(const std::string& name, const Layout& layout, float bound);
    Var constant(const std::string& name, const Layout& layout, float value);
    // Not trained.
    Tensor buffer(const std::string& name, const Layout& layout, float value);
    Tensor unit_vector(const std::string& name, const Layout& layout);  // normalised N(0, 1)

    std::deque<NamedTensor>& entries() { return entries_; }
    const std::deque<NamedTensor>& entries() const { return entries_; }
    std::vector<Var> parameters() const;

private:
    NamedTensor& add(const std::string& name, const Layout& layout, bool trainable, Tensor value);
    RandomKey next_key() const;
    uint64_t seed_, network_;
    std::deque<NamedTensor> entries_;
};

// ---- layers: constructed into a State under `name`; initialised as paper.md, section 5 ----------

// Weights Xavier normal, std = sqrt(2 / (fan_in + fan_out)); biases uniform ±1/sqrt(fan_in).
struct Conv {
    Conv(ParameterStore& state, const std::string& name, int64_t in, int64_t out, int64_t kernel, int64_t stride,
         int64_t padding, bool with_bias);
    // `residual`, where given, is added to the result.
    Var operator()(const Var& x, const Var& residual = {}) const {
        return conv2d(x, weight, bias, {.stride = stride, .padding = padding, .residual = residual});
    }
    Var weight, bias;
    int64_t stride, padding;
};

// A weight under spectral normalisation: W, and W / σ of the last normalise().
struct SpectralNormWeight : SpectralNormInput {
    Var weight;
};
SpectralNormWeight spectral_conv(ParameterStore& state, const std::string& name, int64_t in, int64_t out,
                                 int64_t kernel);  // Xavier normal
SpectralNormWeight spectral_linear(ParameterStore& state, const std::string& name, int64_t in,
                                   int64_t out);  // ±1/sqrt(in)
// One power iteration of each; sets the weights for all passes until the next call.
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
    // Of x, normalised by the batch's statistics, or by the running ones where they are `fixed`.
    Var relu(const Var& x) const;
    Var weight, bias;
    Tensor running_mean, running_var;
    float momentum = 0.1f;
    bool use_running_stats = false;
};

// conv(up(norm.relu(x)), up(residual)) in one: batch_norm_relu_conv2d (ops.h); the padding is conv's.
Var norm_relu_conv(const BatchNorm& norm, const Conv& conv, const Var& x, NormedConvOptions options);

// ---- optimiser ----------------------------------------------------------------------------------

// Adam (Kingma and Ba 2015), bias-corrected, eps 1e-8, with L2 decay added to the gradient, as torch.optim.Adam.
struct AdamSettings {
    float learning_rate, weight_decay;
    double beta1 = 0, beta2 = 0.9;
    float epsilon = 1e-8f;
};
// One step on every parameter of `state` from its gradient (none is left out); `step` counts from 1. The gradients
// stay.
void adam_step(ParameterStore& state, const AdamSettings& settings, int64_t step);
void clear_gradients(ParameterStore& state);
// Moves the exponential moving average of every parameter on: average <- keep average + (1 - keep) parameter. The first
// call starts it.
void update_ema(ParameterStore& state, double keep);

}  // namespace dualmcmc
