// Reverse-mode differentiation on a tape.
//
// Each op (ops.h) computes its value and records, in order of creation, how its inputs' gradients follow from its own.
// backward() walks the tape once, from the end. A gradient flows only along paths that lead to a variable in `inputs`:
// a Langevin step, which needs ∂/∂x alone, runs no weight-gradient kernel.
#pragma once
#include <functional>
#include <vector>

#include "engine/tensor.h"

namespace dualmcmc {

struct Node;

// A value on the tape, or a leaf: a parameter, an input. Copies share the value and the gradient.
class Var {
public:
    Var() = default;
    explicit Var(Tensor value);  // a leaf

    bool defined() const { return node_ != nullptr; }
    const Tensor& value() const;
    const Shape& shape() const { return value().shape(); }
    int64_t dim(int64_t axis) const { return value().dim(axis); }
    real item() const { return value().item(); }

    const Tensor& grad() const;  // undefined before backward, or if it was not required
    void clear_grad() const;

    // For the backward functions of ops. During backward(): whether this value's gradient is needed.
    bool requires_grad() const;
    // Adds to the gradient.
    void accumulate(Tensor gradient) const;
    // Replaces the gradient, for kernels that have added the old one themselves.
    void set_grad(Tensor gradient) const;

    const std::shared_ptr<Node>& node() const { return node_; }

private:
    friend Var record(Tensor, std::vector<Var>, std::function<void(const Tensor&)>);
    std::shared_ptr<Node> node_;
};

// Puts an op's result on this thread's tape. `backward` takes the gradient of the result and accumulates those of the
// inputs that require one; it is not called if none does. Under NoGrad nothing is recorded.
Var record(Tensor value, std::vector<Var> inputs, std::function<void(const Tensor& grad_output)> backward);

// Adds d loss / d v to v.grad() for each leaf v in `inputs`, then empties this thread's tape. `grad_output` is the
// gradient of the loss, by default 1 for every element.
void backward(const Var& loss, const std::vector<Var>& inputs, Tensor grad_output = {});

// Whether this thread records: an op need not keep copies for a gradient that nobody can ask for.
bool grad_enabled();

// While one lives, this thread records nothing.
class NoGrad {
public:
    NoGrad();
    ~NoGrad();
    NoGrad(const NoGrad&) = delete;
    NoGrad& operator=(const NoGrad&) = delete;

private:
    bool before_;
};

// The number of ops on this thread's tape; 0 after backward.
int64_t tape_size();
// Forgets the ops after the first `size`, of a computation that threw.
void truncate_tape(int64_t size);

}  // namespace dualmcmc
