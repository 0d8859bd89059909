// Tensors: every kernel call that a Tensor makes itself.
#include "engine/tensor.h"

#include <algorithm>
#include <utility>

#include "machine/device_sum.h"
#include "ranks/ranks.h"

namespace dualmcmc {

int64_t element_count(const Shape& shape) {
    constexpr int64_t largest = int64_t(1) << 56;  // elements; their bytes fit into an int64_t
    int64_t count = 1;
    for (const int64_t side : shape)
        if (__builtin_mul_overflow(count, side, &count) || count > largest)
            fail("a tensor of shape ", to_string(shape), " fits no memory; lower --batch or the widths");
    return count;
}

std::string to_string(const Shape& shape) {
    std::string out = "(";
    for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + ")";
}

Tensor::Tensor(const Shape& shape) : shape_(shape), size_(element_count(shape)), buffer_(pool_allocate(size_)) {}

Tensor Tensor::full(const Shape& shape, real value) {
    Tensor out(shape);
    backend().fill(out.data(), value, out.size());
    return out;
}

Tensor Tensor::from_host(const Shape& shape, const real* values) {
    Tensor out(shape);
    backend().upload(out.data(), values, out.size());
    return out;
}

Tensor Tensor::from_host(const Shape& shape, const std::vector<real>& values) {
    CHECK_EQ(element_count(shape), int64_t(values.size()));
    return from_host(shape, values.data());
}

Tensor Tensor::normal(const Shape& shape, RandomKey key) {
    Tensor out(shape);
    backend().normal(out.data(), key, out.size());
    return out;
}

Tensor Tensor::uniform(const Shape& shape, RandomKey key, real low, real high) {
    Tensor out(shape);
    backend().uniform(out.data(), key, low, high, out.size());
    return out;
}

std::vector<real> Tensor::to_host() const {
    std::vector<real> out(static_cast<size_t>(size_));
    if (size_ > 0) backend().download(out.data(), data(), size_);
    return out;
}

real Tensor::item() const {
    CHECK_EQ(size_, 1);
    return to_host()[0];
}

Tensor Tensor::reshaped(const Shape& shape) const {
    CHECK_EQ(element_count(shape), size_);
    Tensor out = *this;
    out.shape_ = shape;
    return out;
}

Tensor Tensor::clone() const {
    Tensor out(shape_);
    out.copy_from(*this);
    return out;
}

void Tensor::copy_from(const Tensor& other) const {
    CHECK_EQ(size_, other.size_);
    backend().copy(data(), other.data(), size_);
}

void Tensor::copy_from_host(const std::vector<real>& values) const {
    CHECK_EQ(size_, int64_t(values.size()));
    backend().upload(data(), values.data(), size_);
}

Tensor Tensor::slice_copy(int64_t first, int64_t count) const { return slice_view(first, count).clone(); }

Tensor Tensor::slice_view(int64_t first, int64_t count) const {
    CHECK_GE(first, 0);
    CHECK_LE(first + count, dim(0));
    Tensor y = *this;
    y.shape_.at(0) = count;
    y.size_ = element_count(y.shape_);
    y.buffer_ = std::shared_ptr<real>(buffer_, buffer_.get() + (dim(0) > 0 ? size_ / dim(0) * first : 0));
    return y;
}

void sum_over_ranks(const std::vector<Tensor>& tensors, double factor) {
    if (ranks().count == 1) return;
    int64_t size = 0, next = 0;
    for (const Tensor& tensor : tensors) size += tensor.size();
    const Tensor all({size});
    for (const Tensor& tensor : tensors)
        backend().copy(all.data() + std::exchange(next, next + tensor.size()), tensor.data(), tensor.size());
    sum_over_ranks(all.data(), size, factor);
    next = 0;
    for (const Tensor& tensor : tensors)
        backend().copy(tensor.data(), all.data() + std::exchange(next, next + tensor.size()), tensor.size());
}

// ---- map_images ---------------------------------------------------------------------------------

std::vector<Tensor> map_images(const Tensor& x, const std::function<std::vector<Tensor>(const Tensor&)>& f) {
    // At most 5 CIFAR-10 images a task, in tasks of nearly equal size: enough to fill register tiles, few enough for
    // one core's cache.
    const int64_t batch = x.dim(0), most = std::max<int64_t>(1, 5 * 32 * 32 * 3 * batch / x.size()),
                  count = (batch + most - 1) / most, group = (batch + count - 1) / count;
    if (!backend().callable_from_many_threads || count == 1) return f(x);
    std::vector<std::vector<Tensor>> parts(static_cast<size_t>(count));
    const uint64_t id = ConstantWeights::next();
    for_each_task(count, [&](int64_t task) {
        const ConstantWeights constant(id);
        parts[size_t(task)] = f(x.slice_view(task * group, std::min(group, batch - task * group)));
    });
    std::vector<Tensor> whole;
    for (size_t k = 0; k < parts[0].size(); ++k) {
        Shape shape = parts[0][k].shape();
        shape.at(0) = batch;
        whole.emplace_back(shape);
        for (int64_t task = 0; task < count; ++task) {
            const Tensor& part = parts[size_t(task)][k];
            backend().copy(whole[k].slice_view(task * group, part.dim(0)).data(), part.data(), part.size());
        }
    }
    return whole;
}

}  // namespace dualmcmc
