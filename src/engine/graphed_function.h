// A function of tensors that is called again and again, such as the gradient of a chain's potential. On a device with
// CUDA graphs its hundreds of launches become one.
//
//   first call    eager: does all first-use loading and allocation
//   second call   captured, in a private pool, and launched
//   later calls   launched; the function itself is not called
//
// On such a device the function must therefore run the same kernels each time: it may neither read a tensor back, nor
// load one from the host, nor have any other side effect on the host, except inside between_graphs(). If it does, use
// DisableGraphs.
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
    friend void between_graphs(const std::function<void()>& work);
    // Kernels, then work of the host's.
    struct Part {
        void* graph;
        std::function<void()> then;
    };
    void capture(const Tensor& x);
    void try_to_capture();
    void end_part(const std::function<void()>& then);
    void destroy_parts();
    Function function_;
    const Backend& device_;
    int64_t calls_ = 0;
    PrivatePool pool_;
    std::vector<Part> parts_;
    Tensor input_;
    std::vector<Tensor> results_;
};

// Work of the host's inside such a function, such as a message to other processes: called now, or, when the function is
// captured, at each launch between the graph of the kernels before it and that of those after it. `work` may read
// tensors that it holds, and writes its results into tensors that were made before.
void between_graphs(const std::function<void()>& work);

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
