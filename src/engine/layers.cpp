// Layouts, initial values and the optimiser.
#include "engine/layers.h"

#include <cmath>

namespace dualmcmc {

// ---- layout -------------------------------------------------------------------------------------

Layout Layout::plain(const Shape& shape) {
    Layout out{shape, shape, {}};
    for (size_t i = 0; i < shape.size(); ++i) out.axes.push_back(int(i));
    return out;
}
Layout Layout::image(const Shape& s) {
    const Shape nchw{s.at(0), s.at(3), s.at(1), s.at(2)};
    return {nchw, nchw, {0, 2, 3, 1}};
}
Layout Layout::conv(int64_t kernel, int64_t in, int64_t out) {
    return {{out, in, kernel, kernel}, {out, in, kernel, kernel}, {2, 3, 1, 0}};
}
Layout Layout::conv_rows(int64_t kernel, int64_t in) {
    return {{in * kernel * kernel}, {in, kernel, kernel}, {1, 2, 0}};
}
Layout Layout::linear(int64_t in, int64_t out) { return {{out, in}, {out, in}, {1, 0}}; }
Layout Layout::linear_to_image(int64_t in, int64_t channels, int64_t side) {
    return {{channels * side * side, in}, {channels, side, side, in}, {3, 1, 2, 0}};
}
Layout Layout::bias_to_image(int64_t channels, int64_t side) {
    return {{channels * side * side}, {channels, side, side}, {1, 2, 0}};
}

Shape Layout::memory_shape() const {
    Shape out;
    for (const int axis : axes) out.push_back(view[size_t(axis)]);
    return out;
}

namespace {

// Calls visit(place in memory, place in the file) for every element.
template <class Visit>
void walk(const Layout& layout, Visit visit) {
    const Shape memory = layout.memory_shape();
    Shape stride(memory.size());  // of each memory axis, in the file
    for (size_t i = 0; i < memory.size(); ++i) {
        stride[i] = 1;
        for (size_t j = size_t(layout.axes[i]) + 1; j < layout.view.size(); ++j) stride[i] *= layout.view[j];
    }
    Shape index(memory.size(), 0);
    for (int64_t place = 0, count = element_count(memory), source = 0; place < count; ++place) {
        visit(size_t(place), size_t(source));
        for (size_t axis = memory.size(); axis-- > 0;) {
            source += stride[axis];
            if (++index[axis] < memory[axis]) break;
            source -= stride[axis] * memory[axis];
            index[axis] = 0;
        }
    }
}

}  // namespace

std::vector<float> Layout::to_memory(const std::vector<float>& file) const {
    CHECK_EQ(int64_t(file.size()), element_count(view));
    std::vector<float> out(file.size());
    walk(*this, [&](size_t memory, size_t source) { out[memory] = file[source]; });
    return out;
}

std::vector<float> Layout::to_file(const std::vector<float>& memory) const {
    CHECK_EQ(int64_t(memory.size()), element_count(view));
    std::vector<float> out(memory.size());
    walk(*this, [&](size_t source, size_t file) { out[file] = memory[source]; });
    return out;
}

// ---- state --------------------------------------------------------------------------------------

RandomKey ParameterStore::next_key() const {
    return random_key(seed_, RngPurpose::init, network_ << 16 | entries_.size());
}

NamedTensor& ParameterStore::add(const std::string& name, const Layout& layout, bool trainable, Tensor value) {
    NamedTensor entry{name, layout, Var(value), trainable, {}, {}, {}};
    if (trainable) {
        entry.moment1 = Tensor::full(value.shape(), 0);
        entry.moment2 = Tensor::full(value.shape(), 0);
    }
    entries_.push_back(entry);
    return entries_.back();
}

Var ParameterStore::normal(const std::string& name, const Layout& layout, float deviation) {
    const Tensor value = Tensor::normal(layout.memory_shape(), next_key());
    backend().scale(value.data(), value.data(), deviation, value.size());
    return add(name, layout, true, value).value;
}
Var ParameterStore::uniform(const std::string& name, const Layout& layout, float bound) {
    return add(name, layout, true, Tensor::uniform(layout.memory_shape(), next_key(), -bound, bound)).value;
}
Var ParameterStore::constant(const std::string& name, const Layout& layout, float value) {
    return add(name, layout, true, Tensor::full(layout.memory_shape(), value)).value;
}
Tensor ParameterStore::buffer(const std::string& name, const Layout& layout, float value) {
    return add(name, layout, false, Tensor::full(layout.memory_shape(), value)).value.value();
}
Tensor ParameterStore::unit_vector(const std::string& name, const Layout& layout) {
    const Tensor value = Tensor::normal(layout.memory_shape(), next_key());
    backend().normalize_l2(value.data(), 1e-12f, value.size());
    return add(name, layout, false, value).value.value();
}

std::vector<Var> ParameterStore::parameters() const {
    std::vector<Var> out;
    for (const NamedTensor& entry : entries_)
        if (entry.trainable) out.push_back(entry.value);
    return out;
}

// ---- layers -------------------------------------------------------------------------------------

namespace {
float xavier(int64_t in, int64_t out, int64_t kernel) { return std::sqrt(2.0f / float((in + out) * kernel * kernel)); }
float inverse_root(int64_t fan_in) { return 1 / std::sqrt(float(fan_in)); }
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
    w.w = state.normal(name + ".weight_orig", Layout::conv(kernel, in, out), xavier(in, out, kernel));
    w.u = state.unit_vector(name + ".weight_u", Layout::plain({out}));
    w.v = state.unit_vector(name + ".weight_v", Layout::conv_rows(kernel, in));
    return w;
}

SpectralNormWeight spectral_linear(ParameterStore& state, const std::string& name, int64_t in, int64_t out) {
    SpectralNormWeight w;
    w.w = state.uniform(name + ".weight_orig", Layout::linear(in, out), inverse_root(in));
    w.u = state.unit_vector(name + ".weight_u", Layout::plain({out}));
    w.v = state.unit_vector(name + ".weight_v", Layout::plain({in}));
    return w;
}

void power_iteration(const std::vector<SpectralNormWeight*>& weights) {
    const std::vector<Var> results = spectral_norms([&] {
        std::vector<SpectralNormInput> all;
        for (const SpectralNormWeight* weight : weights) all.push_back(*weight);
        return all;
    }());
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
    state.buffer(name + ".num_batches_tracked", Layout::plain({1}),
                 0);  // in the release's files; with a fixed momentum nobody reads it
}

Var BatchNorm::relu(const Var& x) const {
    if (use_running_stats) return batch_norm_inference_relu(x, weight.value(), bias.value(), running_mean, running_var);
    return batch_norm_relu(x, weight, bias, running_mean, running_var, momentum);
}

Var norm_relu_conv(const BatchNorm& norm, const Conv& conv, const Var& x, NormedConvOptions options) {
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

// ---- optimiser ----------------------------------------------------------------------------------

void adam_step(ParameterStore& state, const AdamSettings& s, int64_t step) {
    const double correction1 = 1 - std::pow(s.beta1, double(step)), correction2 = 1 - std::pow(s.beta2, double(step));
    for (NamedTensor& entry : state.entries()) {
        if (!entry.trainable) continue;
        const Tensor& weight = entry.value.value();
        if (!entry.value.grad().defined()) fail("adam_step: parameter ", entry.name, " has no gradient");
        backend().adam_update(weight.data(), entry.moment1.data(), entry.moment2.data(), entry.value.grad().data(),
                              float(s.learning_rate / correction1), s.beta1, s.beta2, float(1 / std::sqrt(correction2)),
                              s.epsilon, s.weight_decay, weight.size());
    }
}

void update_ema(ParameterStore& state, double keep) {
    for (NamedTensor& entry : state.entries()) {
        if (!entry.trainable) continue;
        const Tensor& value = entry.value.value();
        if (!entry.ema.defined()) entry.ema = value.clone();
        else backend().ema_update(entry.ema.data(), value.data(), float(keep), value.size());
    }
}

void clear_gradients(ParameterStore& state) {
    for (NamedTensor& entry : state.entries()) entry.value.clear_grad();
}

}  // namespace dualmcmc
