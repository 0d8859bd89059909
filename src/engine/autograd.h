// Reverse-mode differentiation on a tape.
//
// Each op (ops.h) computes its value and records, in order of creation, how its inputs' gradients follow from its own.
// backward() walks the tape once, from the end. Only what is wanted is computed: a gradient flows along a path only if
// the path leads to a variable in `wanted`, so a Langevin step, which wants ∂/∂x alone, runs no weight-gradient kernel.
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
    float item() const { return value().item(); }

    const Tensor& grad() const;  // undefined before backward, or where it was not wanted
    void clear_grad() const;

    // For the backward functions of ops: is this input's gradient asked for; and add to it.
    bool requires_grad() const;
    void accumulate(Tensor gradient) const;
    // In place of the gradient so far: for kernels that add to it themselves.
    void set_grad(Tensor gradient) const;

    const std::shared_ptr<Node>& node() const { return node_; }

private:
    friend Var record(Tensor, std::vector<Var>, std::function<void(const Tensor&)>);
    std::shared_ptr<Node> node_;
};

// Puts an op's result on this thread's tape. `backward` gets the gradient of the result and accumulates those of the
// inputs that are wanted; it is not called if none is. Under NoGrad nothing is recorded.
Var record(Tensor value, std::vector<Var> inputs, std::function<void(const Tensor& gradient)> backward);
// Adds d loss / d v to v.grad() for each v in `wanted` (leaves), then empties this thread's tape.
// `grad_output` is the gradient of the loss; 1 for every element where it is not given.
void backward(const Var& loss, const std::vector<Var>& wanted, Tensor grad_output = {});

// Whether this thread records; for ops whose gradient would keep copies.
bool grad_enabled();

// While one lives, this thread records nothing: for passes that are not differentiated.
class NoGrad {
public:
    NoGrad();
    ~NoGrad();
    NoGrad(const NoGrad&) = delete;
    NoGrad& operator=(const NoGrad&) = delete;

private:
    bool before_;
};

// Ops on this thread's tape; 0 after backward. For tests.
int64_t tape_size();

}  // namespace dualmcmc
