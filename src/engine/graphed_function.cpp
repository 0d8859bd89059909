// Recording and sending again.
#include "engine/graphed_function.h"

namespace dualmcmc {

namespace {
bool graphs = true;
}  // namespace

NoGraphs::NoGraphs() : before_(graphs) { graphs = false; }
NoGraphs::~NoGraphs() { graphs = before_; }

Repeated::Repeated(Function function) : function_(std::move(function)), device_(backend()) {}
Repeated::~Repeated() {
    if (graph_) device_.release_graph(graph_);
}

std::vector<Tensor> Repeated::operator()(const Tensor& x) {
    if (!graphs || !device_.begin_graph || calls_++ == 0) return function_(x);
    if (!graph_) record(x);
    input_.copy_from(x);
    device_.launch_graph(graph_);
    return results_;
}

void Repeated::record(const Tensor& x) {
    input_ = Tensor(x.shape());
    device_.begin_graph();
    try {
        const PrivateMemory::Use use(memory_);
        results_ = function_(input_);
    } catch (...) {
        if (void* const partial = device_.end_graph()) device_.release_graph(partial);
        throw;
    }
    graph_ = device_.end_graph();
    if (!graph_) fail(device_.name, ": a chain's step could not be recorded as a graph");
}

}  // namespace dualmcmc
