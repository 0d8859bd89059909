// Tensor: a shape and a shared, pooled buffer of float32 on the current device.
//
// Images are (B, H, W, C), convolution weights (kh, kw, in, out), linear weights (in, out), latents (B, d), scalars (1).
// Copying a Tensor copies the handle, not the numbers. No views: a reshape shares the whole buffer.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "check.h"

namespace dualmcmc {

using Shape = std::vector<int64_t>;

int64_t element_count(const Shape& shape);
std::string to_string(const Shape& shape);  // "(2, 3, 5)"

// The table of kernels in use. set_backend is called once at start (tests may exchange it between computations).
const Backend& backend();
void set_backend(const Backend& table);

// While one lives, convolutions are summed directly, whatever quicker way the device has: for comparisons, where a rounding error that
// takes a ReLU across its kink counts.
class DirectConvolutions {
public:
    DirectConvolutions();
    ~DirectConvolutions();
    DirectConvolutions(const DirectConvolutions&) = delete;
    DirectConvolutions& operator=(const DirectConvolutions&) = delete;

private:
    const Backend& before_;
};

// The quickest CPU backend that this processor can run: AMX, AVX-512, AVX2 or SSE2.
const Backend& best_cpu_backend();

// Picks the device named "auto", "cpu", "cuda", or one instruction set: "cpu-amx", "cpu-avx512", "cpu-avx2", "cpu-sse2"; sets the number of
// CPU threads (0: as many as there are) and the precision of the GPU's matrix products: "fp32", "tf32", "bf16", or "auto", which is tf32
// there and fp32 on the CPU. Returns one line that says what was chosen and why; fails where it cannot be had.
std::string select_device(const std::string& name, int threads, const std::string& precision = "auto");

// Calls task(0) … task(count - 1), which must not depend on each other: at once on several threads where the device allows that,
// else one after the other. The first exception thrown is thrown again at the end.
void parallel_tasks(int64_t count, const std::function<void(int64_t)>& task);

// What the pool has asked of the device since start: grows until every size has been seen once, then no more.
int64_t pool_allocations();
int64_t pool_bytes();

// Memory that is not the pool's while one lives: what tensors that were made under Use leave free goes to tensors made there alone.
class PrivateMemory {
public:
    PrivateMemory();
    ~PrivateMemory();  // gives it back to the pool
    PrivateMemory(const PrivateMemory&) = delete;
    PrivateMemory& operator=(const PrivateMemory&) = delete;

    class Use {
    public:
        explicit Use(const PrivateMemory& memory);
        ~Use();
        Use(const Use&) = delete;
        Use& operator=(const Use&) = delete;
    };

private:
    std::shared_ptr<struct FreeBlocks> free_;
};

class Tensor {
public:
    Tensor() = default;                  // holds nothing
    explicit Tensor(const Shape& shape); // uninitialised
    static Tensor full(const Shape& shape, float value);
    static Tensor from_host(const Shape& shape, const float* values);
    static Tensor from_host(const Shape& shape, const std::vector<float>& values);
    static Tensor normal(const Shape& shape, RandomKey key);                          // N(0, 1)
    static Tensor uniform(const Shape& shape, RandomKey key, float low, float high);  // (low, high]

    bool defined() const { return buffer_ != nullptr; }
    const Shape& shape() const { return shape_; }
    int64_t dim(int64_t axis) const { return shape_.at(size_t(axis)); }
    int64_t size() const { return size_; }
    float* data() const { return buffer_.get(); }
    bool unique() const { return buffer_.use_count() == 1; }

    std::vector<float> to_host() const;
    float item() const;                                 // the one element of a scalar
    Tensor reshaped(const Shape& shape) const;          // shares the buffer
    Tensor clone() const;
    void copy_from(const Tensor& other) const;          // same number of elements, in place
    void copy_from_host(const std::vector<float>& values) const;
    // Rows [first, first + count) along the first axis: copied, or sharing the buffer.
    Tensor rows(int64_t first, int64_t count) const;
    Tensor view(int64_t first, int64_t count) const;

private:
    Shape shape_;
    int64_t size_ = 0;
    std::shared_ptr<float> buffer_;
};

}  // namespace dualmcmc
