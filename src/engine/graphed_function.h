// A function of tensors that is computed again and again, such as the gradient of a chain's potential: on a device that
// can record what it is sent (CUDA graphs), its hundreds of launches are recorded once and sent as one from then on.
//
//   first call    plain: whatever is loaded or allocated at first use is so
//   second call   recorded, in memory that nobody else gets while the object lives, and sent
//   from then on  sent again; the function itself is not called
//
// So on such a device the function must be made of kernels alone, the same ones each time: it may neither read a tensor
// back, nor load one from the host, nor do anything else that the host should see once a call. Where it does,
// DisableGraphs makes every call a plain one.
#pragma once
#include <functional>
#include <vector>

#include "engine/tensor.h"

namespace dualmcmc {

class GraphedFunction {
public:
    using Function = std::function<std::vector<Tensor>(const Tensor& x)>;
    explicit GraphedFunction(Function function);
    ~GraphedFunction();
    GraphedFunction(const GraphedFunction&) = delete;
    GraphedFunction& operator=(const GraphedFunction&) = delete;

    // function(x), for an x of the same shape each time. The results are good until the next call.
    std::vector<Tensor> operator()(const Tensor& x);

private:
    void record(const Tensor& x);
    Function function_;
    const Backend& device_;
    int64_t calls_ = 0;
    PrivatePool memory_;
    void* graph_ = nullptr;
    Tensor input_;
    std::vector<Tensor> results_;
};

// While one lives, GraphedFunction records nothing.
class DisableGraphs {
public:
    DisableGraphs();
    ~DisableGraphs();
    DisableGraphs(const DisableGraphs&) = delete;
    DisableGraphs& operator=(const DisableGraphs&) = delete;

private:
    bool before_;
};

}  // namespace dualmcmc
