// N ranks (ranks/ranks.h) compute what one computes. Each has its share of the images of every batch, and all
// parameters. Images meet in sums over the batch only, and each of these is completed by a sum over ranks:
//
//   batch norm's statistics and their gradients       ops.cpp, one message for each pass, forward and backward
//   the gradients of each network's parameters        sum_gradients (adam.h), before Adam's step
//   the losses and energies that are reported         method/dual_mcmc.cpp, once per iteration
//
// What is divided by the batch is divided by whole_batch(). A sum has the same bits on all ranks, and so, then, have
// the parameters, u and v, and Adam's moments.
#pragma once
#include "ranks/ranks.h"

namespace dualmcmc {

// A rank's images in a batch of `whole`: first … first + count - 1. Shares differ by one image at most.
struct BatchShare {
    int64_t first, count, whole;
};
BatchShare batch_share(int64_t whole, int rank);

// While one lives, tensors (B, …) hold this rank's images of a batch of `whole`.
class SharedBatch {
public:
    // Fails if there are fewer images than ranks.
    explicit SharedBatch(int64_t whole);
    ~SharedBatch();
    SharedBatch(const SharedBatch&) = delete;
    SharedBatch& operator=(const SharedBatch&) = delete;
    const BatchShare& own() const { return own_; }

private:
    BatchShare own_;
};

// Whether sums over the batch need other ranks.
bool batch_is_shared();
// The images of the whole batch, of which this rank has `own`.
int64_t whole_batch(int64_t own);

// Of each channel over the whole batch, all in one vector: the means, 1 / sqrt(variance + epsilon), and the unbiased
// variances; from `own`, the means and unbiased variances of this rank's images of `pixels` each. One message; pooled
// in the order of ranks.
std::vector<real> whole_batch_statistics(const std::vector<real>& own, int64_t whole, int64_t pixels, real epsilon);

}  // namespace dualmcmc
