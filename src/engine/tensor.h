// Tensor: a shape and a shared, pooled buffer of `real` on the current device.
//
// Images are (B, H, W, C), convolution weights (kh, kw, in, out), linear weights (in, out), latents (B, d), scalars
// (1). Copying a Tensor copies the handle, not the elements. reshaped() and slice_view() share the buffer.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "machine/device.h"
#include "machine/pool.h"

namespace dualmcmc {

using Shape = std::vector<int64_t>;

int64_t element_count(const Shape& shape);  // fails if it is beyond any memory
std::string to_string(const Shape& shape);  // "(2, 3, 5)"

class Tensor {
public:
    Tensor() = default;                   // holds nothing
    explicit Tensor(const Shape& shape);  // uninitialised
    static Tensor full(const Shape& shape, real value);
    static Tensor from_host(const Shape& shape, const real* values);
    static Tensor from_host(const Shape& shape, const std::vector<real>& values);
    static Tensor normal(const Shape& shape, RandomKey key);                        // N(0, 1)
    static Tensor uniform(const Shape& shape, RandomKey key, real low, real high);  // (low, high]

    bool defined() const { return buffer_ != nullptr; }
    const Shape& shape() const { return shape_; }
    int64_t dim(int64_t axis) const { return shape_.at(size_t(axis)); }
    int64_t size() const { return size_; }
    real* data() const { return buffer_.get(); }
    bool unique() const { return buffer_.use_count() == 1; }

    std::vector<real> to_host() const;
    real item() const;                          // the one element of a scalar
    Tensor reshaped(const Shape& shape) const;  // shares the buffer
    Tensor clone() const;
    void copy_from(const Tensor& other) const;  // same number of elements, in place
    void copy_from_host(const std::vector<real>& values) const;
    // [first, first + count) along the first axis: copied, or sharing the buffer.
    Tensor slice_copy(int64_t first, int64_t count) const;
    Tensor slice_view(int64_t first, int64_t count) const;

private:
    Shape shape_;
    int64_t size_ = 0;
    std::shared_ptr<real> buffer_;
};

// f(x) for a function in which no image meets another, x (B, …) to tensors (B, …). Where many threads can call
// kernels, each takes a few images through all of f, with their intermediates in its cache. f may change no weights.
std::vector<Tensor> map_images(const Tensor& x, const std::function<std::vector<Tensor>(const Tensor&)>& f);

// In place: each becomes factor Σ over ranks, in one message (machine/device_sum.h). Nothing happens with one rank.
void sum_over_ranks(const std::vector<Tensor>& tensors, double factor = 1);

}  // namespace dualmcmc
