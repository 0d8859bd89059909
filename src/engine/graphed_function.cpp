// Capture and replay.
#include "engine/graphed_function.h"

#include "engine/autograd.h"

namespace dualmcmc {

namespace {
bool graphs = true;
}  // namespace

DisableGraphs::DisableGraphs() : before_(graphs) { graphs = false; }
DisableGraphs::~DisableGraphs() { graphs = before_; }

GraphedFunction::GraphedFunction(Function function) : function_(std::move(function)), device_(backend()) {}
GraphedFunction::~GraphedFunction() {
    if (graph_) device_.destroy_graph(graph_);
}

std::vector<Tensor> GraphedFunction::operator()(const Tensor& x) {
    if (!graphs || !device_.begin_capture || calls_++ == 0) return function_(x);
    if (!graph_) capture(x);
    input_.copy_from(x);
    device_.launch_graph(graph_);
    return results_;
}

void GraphedFunction::capture(const Tensor& x) {
    input_ = Tensor(x.shape());
    const int64_t tape = tape_size();
    try {
        try_to_capture();
    } catch (const OutOfMemory&) {
        // A capture cannot free memory: what the pool gave up meanwhile was freed when it ended. Now it is there.
        truncate_tape(tape);
        results_.clear();
        empty_cache();
        try_to_capture();
    }
    if (!graph_) fail(device_.name, ": a chain's step could not be captured as a graph");
}

void GraphedFunction::try_to_capture() {
    device_.begin_capture();
    try {
        const PrivatePool::Use use(pool_);
        results_ = function_(input_);
    } catch (...) {
        if (void* const partial = device_.end_capture()) device_.destroy_graph(partial);
        throw;
    }
    graph_ = device_.end_capture();
}

}  // namespace dualmcmc
