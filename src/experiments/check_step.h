// Checks one training iteration against another implementation's, stored in a step file (dual-mcmc-step-1).
//
// The file holds the networks before the step, the batch, all noise, and the results: the outputs of the iteration, the
// gradient of each parameter, and the parameters after Adam's first step. METHOD.md, section 8, describes the format,
// and section 4 has the paper's and the authors' names of the same settings.
//
//   metadata of the file                            setting here (StepSettings unless noted)
//   method                                          argument of apply_method(); dual if absent
//   width; inference_width; latent                  ModelSettings: width_generator = width_ebm; width_encoder; latent
//   steps_x, e_l_step_size, e_n_step_size           chain_x: steps, step_size, noise_std
//   steps_z, l_step_size, n_step_size               chain_z: steps, step_size, noise_std
//   sig                                             sigma = sig / √2
//   Gfactor, Sfactor, Ifactor                       lambda_data, lambda_ebm, lambda_generated
//   lrG, wdG; lrE; lrI, wdI                         adam_generator; adam_ebm (no weight decay); adam_encoder
//   architecture, batch, resample                   the same
#pragma once
#include <string>
#include <vector>

#include "method/dual_mcmc.h"

namespace dualmcmc {

// One compared quantity. Passes if error <= limit (a NaN fails).
struct StepCheck {
    std::string name;
    double error, limit;
    bool passes() const { return error <= limit; }
};

// Runs the iteration in the file and compares the results:
//   out.*, grad.*, after.netE.*.weight_u and .weight_v
//       relative L2 error, limit `tolerance`. A gradient whose norm is below 1e-5 of the largest in its network is
//       compared relative to that largest norm.
//   after.netX.*
//       share of the network's parameters that are more than 2 % of one learning rate away from the file's, limit 1 %
// Uses the exact convolutions unless `fast` selects those of training, which round a little more: in a small network a
// single ReLU on the other side of its kink changes a gradient by more than all rounding.
// Fails, naming the file and the tensor or metadata key, if the file is not a step file or lacks something.
std::vector<StepCheck> check_step(const std::string& path, double tolerance, bool fast = false);

}  // namespace dualmcmc
