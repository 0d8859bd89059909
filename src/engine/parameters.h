// The parameters and buffers of a network: their names, their layout in files, their initial values.
//
// In memory they lie as the kernels want them (channels innermost), in files as PyTorch has them (NCHW, OIHW). A Layout
// is the permutation between the two; it is applied at the file's edge only.
#pragma once
#include <deque>
#include <optional>
#include <string>

#include "engine/autograd.h"
#include "engine/rng.h"

namespace dualmcmc {

// How a tensor is stored in a file: with shape file_shape, seen as `view`, whose axes in the order `axes` give the
// shape in memory.
struct Layout {
    Shape file_shape, view;
    std::vector<int> axes;

    static Layout plain(const Shape& shape);                      // the same in both
    static Layout image(const Shape& nhwc);                       // (B,C,H,W) -> (B,H,W,C)
    static Layout conv(int64_t kernel, int64_t in, int64_t out);  // (O,I,kh,kw) -> (kh,kw,I,O)
    static Layout conv_inputs(int64_t kernel, int64_t in);        // (I·kh·kw) -> (kh·kw·I): v of a convolution
    static Layout linear(int64_t in, int64_t out);                // (O,I) -> (I,O)
    // Weight and bias of a linear layer whose output is viewed as an image: (channels, side, side) in the file,
    // (side, side, channels) in memory.
    static Layout linear_to_image(int64_t in, int64_t channels, int64_t side);
    static Layout bias_to_image(int64_t channels, int64_t side);

    Shape memory_shape() const;
    std::vector<real> to_memory(const std::vector<real>& file) const;
    std::vector<real> to_file(const std::vector<real>& memory) const;
};

// A tensor of a network: a parameter (trainable) or a buffer (running statistics, u and v).
struct NamedTensor {
    std::string name;  // as in the authors' state_dict
    Layout layout;
    Var value;
    bool trainable;
    Tensor moment1, moment2;  // Adam's; undefined for buffers
    Tensor ema;               // moving average of the parameter (update_ema); undefined where none is kept
};

// All tensors of one network, in order of creation. Initial values: Philox purpose `init`, step = network << 16 |
// index. Without a seed the tensors have names and layouts but no memory, so that a network's shapes can be compared
// with a file's before anything is built.
class ParameterStore {
public:
    ParameterStore(std::optional<uint64_t> seed, uint64_t network) : seed_(seed), network_(network) {}

    // Parameters: N(0, deviation²); uniform in (-bound, bound]; a constant.
    Var normal(const std::string& name, const Layout& layout, real deviation);
    Var uniform(const std::string& name, const Layout& layout, real bound);
    Var constant(const std::string& name, const Layout& layout, real value);
    // Buffers: a constant; a vector N(0, I) divided by its norm.
    Tensor buffer(const std::string& name, const Layout& layout, real value);
    Tensor unit_vector(const std::string& name, const Layout& layout);

    std::deque<NamedTensor>& entries() { return entries_; }
    const std::deque<NamedTensor>& entries() const { return entries_; }
    std::vector<Var> parameters() const;

private:
    // `value` of the shape in memory, and the next key; it is not called without a seed.
    template <class Value>
    NamedTensor& add(const std::string& name, const Layout& layout, bool trainable, const Value& value);
    std::optional<uint64_t> seed_;
    uint64_t network_;
    std::deque<NamedTensor> entries_;
};

}  // namespace dualmcmc
