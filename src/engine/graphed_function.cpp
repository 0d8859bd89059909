// Capture and replay.
#include "engine/graphed_function.h"

#include <algorithm>

#include "engine/autograd.h"

namespace dualmcmc {

namespace {
bool graphs = true;
GraphedFunction* captured = nullptr;  // the one whose function is being captured
}  // namespace

DisableGraphs::DisableGraphs() : before_(graphs) { graphs = false; }
DisableGraphs::~DisableGraphs() { graphs = before_; }

GraphedFunction::GraphedFunction(Function function) : function_(std::move(function)), device_(backend()) {}
GraphedFunction::~GraphedFunction() { destroy_parts(); }

void GraphedFunction::destroy_parts() {
    for (const Part& part : parts_)
        if (part.graph) device_.destroy_graph(part.graph);
    parts_.clear();
}

std::vector<Tensor> GraphedFunction::operator()(const Tensor& x) {
    if (!graphs || !device_.begin_capture || calls_++ == 0) return function_(x);
    if (parts_.empty()) capture(x);
    input_.copy_from(x);
    for (const Part& part : parts_) {
        device_.launch_graph(part.graph);
        if (part.then) part.then();
    }
    return results_;
}

void between_graphs(const std::function<void()>& work) {
    if (!captured) return work();
    captured->end_part(work);
    captured->device_.begin_capture();
}

void GraphedFunction::end_part(const std::function<void()>& then) { parts_.push_back({device_.end_capture(), then}); }

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
    const auto failed = [](const Part& part) { return !part.graph; };
    if (std::any_of(parts_.begin(), parts_.end(), failed)) {
        destroy_parts();
        fail(device_.name, ": a chain's step could not be captured as a graph");
    }
}

void GraphedFunction::try_to_capture() {
    device_.begin_capture();
    captured = this;
    try {
        const PrivatePool::Use use(pool_);
        results_ = function_(input_);
    } catch (...) {
        captured = nullptr;
        end_part(nullptr);
        destroy_parts();
        throw;
    }
    captured = nullptr;
    end_part(nullptr);
}

}  // namespace dualmcmc
