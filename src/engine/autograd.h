// Reverse-mode differentiation on a tape.
//
// Each op (ops.h) computes its value and records, in order of creation, how its inputs' gradients follow from its own. backward()
// walks the tape once, from the end. Only what is wanted is computed: a gradient flows along a path only if the path leads to a
// variable in `wanted`, so a Langevin step, which wants ∂/∂x alone, runs no weight-gradient kernel.
#pragma once
#include <functional>
#include <vector>

#include "engine/tensor.h"

namespace dualmcmc {

struct Node;

// The gradient of a value, which may be made only when it is asked for, and only of some images (the first dimension).
class Gradient {
public:
    using Rows = std::function<Tensor(int64_t first, int64_t count)>;
    Gradient() = default;
    explicit Gradient(Tensor whole) : whole_(std::move(whole)) {}
    Gradient(Rows rows, int64_t count) : rows_(std::move(rows)), count_(count) {}

    bool defined() const { return whole_.defined() || rows_; }
    Tensor rows(int64_t first, int64_t count) const { return whole_.defined() ? whole_.view(first, count) : rows_(first, count); }
    Tensor& whole();  // made now, if it was not

private:
    Tensor whole_;
    Rows rows_;
    int64_t count_ = 0;
};

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

    // A number that no other value has, for the result of an op, which never changes; 0 for a leaf, which may.
    uint64_t number() const;

    // For the backward functions of ops: is this input's gradient asked for; and add to it.
    bool wanted() const;
    void accumulate(Tensor gradient) const;
    // In place of the gradient so far: for kernels that add to it themselves.
    void set_grad(Tensor gradient) const;
    // As accumulate, of what `rows` will make; later, where the op behind this value takes its gradient by images.
    void accumulate_later(Gradient::Rows rows) const;

    const std::shared_ptr<Node>& node() const { return node_; }

private:
    friend Var record_by_images(Tensor, std::vector<Var>, std::function<void(Gradient&)>);
    friend Var record(Tensor, std::vector<Var>, std::function<void(const Tensor&)>);
    std::shared_ptr<Node> node_;
};

// A number for Var::number that nothing else has.
uint64_t fresh_number();

// Puts an op's result on this thread's tape. `backward` gets the gradient of the result and accumulates those of the inputs that
// are wanted; it is not called if none is. Under NoTape nothing is recorded.
Var record(Tensor value, std::vector<Var> inputs, std::function<void(const Tensor& gradient)> backward);
// The same for an op that can take its gradient some images at a time.
Var record_by_images(Tensor value, std::vector<Var> inputs, std::function<void(Gradient& gradient)> backward);

// Adds d loss / d v to v.grad() for each v in `wanted` (leaves), then empties this thread's tape.
// `seed` is the gradient of the loss; 1 for every element where it is not given.
void backward(const Var& loss, const std::vector<Var>& wanted, Tensor seed = {});

// Whether this thread records; for ops whose gradient would keep copies.
bool taping();

// While one lives, this thread records nothing: for passes that are not differentiated.
class NoTape {
public:
    NoTape();
    ~NoTape();
    NoTape(const NoTape&) = delete;
    NoTape& operator=(const NoTape&) = delete;

private:
    bool before_;
};

// Ops on this thread's tape; 0 after backward. For tests.
int64_t tape_size();

}  // namespace dualmcmc
