// The tape and its walk.
#include "engine/autograd.h"

#include <algorithm>

namespace dualmcmc {

struct Node {
    Tensor value;
    Tensor grad;
    bool requires_grad = false;
    std::vector<Var> inputs;
    std::function<void(const Tensor&)> backward;
};

namespace {
thread_local std::vector<std::shared_ptr<Node>> tape;
thread_local bool recording = true;
}  // namespace

Var::Var(Tensor value) : node_(std::make_shared<Node>()) { node_->value = std::move(value); }

const Tensor& Var::value() const { return node_->value; }
const Tensor& Var::grad() const { return node_->grad; }
void Var::clear_grad() const { node_->grad = {}; }
bool Var::requires_grad() const { return node_ && node_->requires_grad; }

void Var::accumulate(Tensor gradient) const {
    Tensor& total = node_->grad;
    CHECK_EQ(gradient.size(), node_->value.size());
    if (!total.defined()) {
        total = gradient.reshaped(node_->value.shape());
        return;
    }
    // The first gradient may be shared with another input of the same op: write in place only if nobody else holds it.
    Tensor sum = total.unique() ? total : Tensor(total.shape());
    backend().add(sum.data(), total.data(), gradient.data(), total.size());
    total = sum;
}

void Var::set_grad(Tensor gradient) const {
    CHECK_EQ(gradient.size(), node_->value.size());
    node_->grad = gradient.reshaped(node_->value.shape());
}

Var record(Tensor value, std::vector<Var> inputs, std::function<void(const Tensor&)> backward) {
    Var out(std::move(value));
    if (recording) {
        out.node_->inputs = std::move(inputs);
        out.node_->backward = std::move(backward);
        tape.push_back(out.node_);
    }
    return out;
}

namespace {
// Leaves no tape and no required gradient behind, also when an op throws.
struct EndOfWalk {
    const std::vector<Var>& inputs;
    ~EndOfWalk() {
        for (const auto& node : tape) {
            node->grad = {};
            node->requires_grad = false;
        }
        tape.clear();
        for (const Var& leaf : inputs) leaf.node()->requires_grad = false;
    }
};
}  // namespace

void backward(const Var& loss, const std::vector<Var>& inputs, Tensor grad_output) {
    CHECK(recording);
    const EndOfWalk end{inputs};
    for (const Var& leaf : inputs) leaf.node()->requires_grad = true;
    for (const auto& node : tape)
        node->requires_grad = std::any_of(node->inputs.begin(), node->inputs.end(),
                                          [](const Var& input) { return input.requires_grad(); });
    if (!grad_output.defined()) grad_output = Tensor::full(loss.shape(), 1);
    if (loss.requires_grad()) loss.accumulate(grad_output);
    // From the end. What a node keeps for its backward is freed as soon as it has been used.
    while (!tape.empty()) {
        const std::shared_ptr<Node> node = std::move(tape.back());
        tape.pop_back();
        if (node->requires_grad && node->grad.defined()) node->backward(node->grad);
        node->grad = {};
        node->backward = nullptr;
        node->inputs.clear();
        node->requires_grad = false;
    }
}

bool grad_enabled() { return recording; }

NoGrad::NoGrad() : before_(recording) { recording = false; }
NoGrad::~NoGrad() { recording = before_; }

int64_t tape_size() { return int64_t(tape.size()); }

void truncate_tape(int64_t size) {
    if (size < tape_size()) tape.resize(size_t(size));
}

}  // namespace dualmcmc
