// A function of tensors that is computed again and again, such as the gradient of a chain's potential: on a device that can record
// what it is sent (CUDA graphs), its hundreds of launches are recorded once and sent as one from then on.
//
//   first call    plain: whatever is loaded or allocated at first use is so
//   second call   recorded, in memory that nobody else gets while the object lives, and sent
//   from then on  sent again; the function itself is not called
//
// So on such a device the function must be made of kernels alone, the same ones each time: it may neither read a tensor back, nor load one
// from the host, nor do anything else that the host should see once a call. Where it does, NoGraphs makes every call a plain one.
#pragma once
#include <functional>
#include <vector>

#include "engine/tensor.h"

namespace dualmcmc {

class Repeated {
public:
    using Function = std::function<std::vector<Tensor>(const Tensor& x)>;
    explicit Repeated(Function function);
    ~Repeated();
    Repeated(const Repeated&) = delete;
    Repeated& operator=(const Repeated&) = delete;

    // function(x), for an x of the same shape each time. The results are good until the next call.
    std::vector<Tensor> operator()(const Tensor& x);

private:
    void record(const Tensor& x);
    Function function_;
    const Backend& device_;
    int64_t calls_ = 0;
    PrivateMemory memory_;
    void* graph_ = nullptr;
    Tensor input_;
    std::vector<Tensor> results_;
};

// While one lives, Repeated records nothing.
class NoGraphs {
public:
    NoGraphs();
    ~NoGraphs();
    NoGraphs(const NoGraphs&) = delete;
    NoGraphs& operator=(const NoGraphs&) = delete;

private:
    bool before_;
};

}  // namespace dualmcmc
