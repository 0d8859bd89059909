// Replays a step file (dual-mcmc-step-1): one training iteration of another implementation, held against this one.
//
// The file holds the networks before the step, the batch, all noise, and what came of it: the outputs of the iteration,
// each parameter's gradient, and the parameters after the optimisers' first step.
#pragma once
#include <string>
#include <vector>

#include "method/dual_mcmc.h"

namespace dualmcmc {

// One line of the comparison. Passes if error <= limit (a NaN fails).
struct ReplayLine {
    std::string name;
    double error, limit;
    bool passes() const { return error <= limit; }
};

// Runs the iteration in the file and compares. Lines:
//   out.*, grad.*, after.netE.*.weight_u and _v   relative L2 error, limit `tolerance`; a gradient whose norm is below
//   1e-5 of its
//                                                 network's largest is measured against that largest
//   after.netX                                    share of the network's parameters further than 2 % of one learning
//   rate from
//                                                 the file's, limit 1 %
// Convolutions are summed directly unless `fast` asks for the ones that training uses, which round a little more: in a
// small network a single ReLU that falls on the other side of its kink changes a gradient by more than all rounding.
// Fails, naming the file and the tensor, where it is no step file or lacks a tensor.
std::vector<ReplayLine> replay_step(const std::string& path, double tolerance, bool fast = false);

}  // namespace dualmcmc
