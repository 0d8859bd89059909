// The tape and its walk.
#include "engine/autograd.h"

#include <algorithm>
#include <atomic>

namespace dualmcmc {

struct Node {
    Tensor value;
    Gradient grad;
    bool wanted = false, by_images = false;
    uint64_t number = 0;
    std::vector<Var> inputs;
    std::function<void(Gradient&)> backward;
};

namespace {
thread_local std::vector<std::shared_ptr<Node>> tape;
thread_local bool recording = true;
std::atomic<uint64_t> results = 0;
}  // namespace

Tensor& Gradient::whole() {
    if (!whole_.defined() && rows_) {
        whole_ = rows_(0, count_);
        rows_ = nullptr;
    }
    return whole_;
}

Var::Var(Tensor value) : node_(std::make_shared<Node>()) { node_->value = std::move(value); }

const Tensor& Var::value() const { return node_->value; }
const Tensor& Var::grad() const { return node_->grad.whole(); }
uint64_t Var::number() const { return node_->number; }
void Var::clear_grad() const { node_->grad = {}; }
bool Var::wanted() const { return node_ && node_->wanted; }

void Var::accumulate(Tensor gradient) const {
    Tensor& total = node_->grad.whole();
    CHECK_EQ(gradient.size(), node_->value.size());
    if (!total.defined()) {
        total = gradient.reshaped(node_->value.shape());
        return;
    }
    // The first gradient may be shared with another input of the same op: write in place only what is ours alone.
    Tensor sum = total.unique() ? total : Tensor(total.shape());
    backend().add(sum.data(), total.data(), gradient.data(), total.size());
    total = sum;
}

void Var::set_grad(Tensor gradient) const {
    CHECK_EQ(gradient.size(), node_->value.size());
    node_->grad = Gradient(gradient.reshaped(node_->value.shape()));
}

void Var::accumulate_later(Gradient::Rows rows) const {
    if (node_->by_images && !node_->grad.defined()) node_->grad = Gradient(std::move(rows), node_->value.dim(0));
    else accumulate(rows(0, node_->value.dim(0)));
}

uint64_t fresh_number() { return ++results; }

Var record_by_images(Tensor value, std::vector<Var> inputs, std::function<void(Gradient&)> backward) {
    Var out(std::move(value));
    out.node_->number = fresh_number();
    out.node_->by_images = true;
    if (recording) {
        out.node_->inputs = std::move(inputs);
        out.node_->backward = std::move(backward);
        tape.push_back(out.node_);
    }
    return out;
}

Var record(Tensor value, std::vector<Var> inputs, std::function<void(const Tensor&)> backward) {
    std::function<void(Gradient&)> of_whole;
    if (recording) of_whole = [backward = std::move(backward)](Gradient& gradient) { backward(gradient.whole()); };
    const Var out = record_by_images(std::move(value), std::move(inputs), std::move(of_whole));
    out.node_->by_images = false;
    return out;
}

namespace {
// Leaves no tape and no wanted leaf behind, also where an op throws.
struct EndOfWalk {
    const std::vector<Var>& wanted;
    ~EndOfWalk() {
        for (const auto& node : tape) {
            node->grad = {};
            node->wanted = false;
        }
        tape.clear();
        for (const Var& leaf : wanted) leaf.node()->wanted = false;
    }
};
}  // namespace

void backward(const Var& loss, const std::vector<Var>& wanted, Tensor seed) {
    CHECK(recording);
    const EndOfWalk end{wanted};
    for (const Var& leaf : wanted) leaf.node()->wanted = true;
    for (const auto& node : tape)
        node->wanted = std::any_of(node->inputs.begin(), node->inputs.end(), [](const Var& input) { return input.wanted(); });
    if (!seed.defined()) seed = Tensor::full(loss.shape(), 1);
    if (loss.wanted()) loss.accumulate(seed);
    // From the end; what a node holds for its backward is freed as soon as it has been used.
    while (!tape.empty()) {
        const std::shared_ptr<Node> node = std::move(tape.back());
        tape.pop_back();
        if (node->wanted && node->grad.defined()) node->backward(node->grad);
        node->grad = {};
        node->backward = nullptr;
        node->inputs.clear();
        node->wanted = false;
    }
}

bool taping() { return recording; }

NoTape::NoTape() : before_(recording) { recording = false; }
NoTape::~NoTape() { recording = before_; }

int64_t tape_size() { return int64_t(tape.size()); }

}  // namespace dualmcmc
