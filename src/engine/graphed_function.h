// A function of tensors that is called again and again, such as the gradient of a chain's potential. On a device with
// CUDA graphs its hundreds of launches become one.
//
//   first call    eager: does all first-use loading and allocation
//   second call   captured, in a private pool, and launched
//   later calls   launched; the function itself is not called
//
// On such a device the function must therefore run the same kernels each time: it may neither read a tensor back, nor
// load one from the host, nor have any host side effect per call. If it does, use DisableGraphs.
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

    // function(x), for an x of the same shape each time. The results are valid until the next call.
    std::vector<Tensor> operator()(const Tensor& x);

private:
    void capture(const Tensor& x);
    void try_to_capture();
    Function function_;
    const Backend& device_;
    int64_t calls_ = 0;
    PrivatePool pool_;
    void* graph_ = nullptr;
    Tensor input_;
    std::vector<Tensor> results_;
};

// While one lives, every GraphedFunction is eager.
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
