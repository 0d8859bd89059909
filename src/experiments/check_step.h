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
//   architecture, batch                             the same
//   resample, negatives                             negatives; if that is absent, resampled where resample is 1, else
//                                                   chain
// The program holds this file's code twice: in float, on the chosen device, and in double (check_step_double.cpp), so
// that the verdict is about the algorithm and not about rounding.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

// What the two have in common.
namespace step_check {

// One compared quantity. Passes if error <= limit (a NaN fails).
struct Check {
    std::string name;
    double error, limit;
    bool passes() const { return error <= limit; }
};

// All that a run computed, by its name in the file; in the layout of memory.
using Results = std::map<std::string, std::vector<double>>;

struct Run {
    std::vector<Check> checks;
    Results results;
    // On which side of its kink each input of each ReLU lay, call by call, and how many calls had been made when each
    // step of a chain ended.
    std::vector<std::vector<bool>> relus;
    struct ChainStep {
        std::string name;  // "x-chain, step 1"
        size_t calls;
    };
    std::vector<ChainStep> chain_steps;
};

// ReLUs whose inputs had different signs in two runs.
struct Crossing {
    std::string where;  // the chain's step, or "the updates"
    int64_t count;
};
// Of all places, in order; those without a crossing are left out. Fails unless both runs made the same calls.
std::vector<Crossing> crossings(const Run& a, const Run& b);

// check_step below in double precision, compared with the file.
Run in_double(const std::string& path, std::optional<double> tolerance);

}  // namespace step_check

namespace dualmcmc {

// Runs the iteration in the file on the current device and compares its results with the file's or, where `reference`
// is given, with those:
//   out.*, grad.*, after.netE.*.weight_u and .weight_v
//       relative L2 error, limit `tolerance`; by default what the tensor's storage allows, 1e-9 for F64 and 1e-6 for
//       F32. A gradient whose norm is below 1e-5 of the largest in its network is compared relative to that largest
//       norm.
//   after.netX.*
//       share of the network's parameters that are more than 2 % of one learning rate away, limit 1 %
// Uses the exact convolutions unless `fast` selects those of training, which round a little more.
// Fails, naming the file and the tensor or metadata key, if the file is not a step file or lacks something.
step_check::Run check_step(const std::string& path, std::optional<double> tolerance, bool fast = false,
                           const step_check::Results* reference = nullptr);

}  // namespace dualmcmc
