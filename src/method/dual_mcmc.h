// One training iteration of dual-MCMC teaching: the two chains and the three updates (Eq. 7, 10, 15), in the release's
// order; and, as switches of the same iteration, of the methods that the paper compares with (paper.md, section 7).
#pragma once
#include <string>
#include <vector>

#include "method/langevin.h"

namespace dualmcmc {

// What the iteration needs to know (paper.md, section 4). Defaults: the release's CIFAR-10 settings.
struct StepSettings {
    ChainSettings chain_x{30, 0.5f, 0.001f}, chain_z{10, 0.1f, 0.1f};
    float sigma =
        0.3f /
        1.41421356f;  // of p_θ(x|z). The release leaves out the ½ of ‖x - g‖² / (2σ²): its σ = 0.3 is this exact one.
    float lambda_data = 1, lambda_ebm = 50, lambda_generated = 0.1f;
    bool resample = true;  // the EBM's update gets a second chain, from the updated generator; false: that of Eq. 10
    AdamSettings adam_generator{3e-4f, 5e-4f}, adam_ebm{1e-4f, 0}, adam_encoder{1e-4f, 5e-4f};

    std::string start_x = "generator";  // where the x-chain starts: generator, g(z); noise, uniform in [-1, 1]
    // Where the z-chain starts: encoder, q_φ(z|x); noise, N(0, I); persistent, where the chain of the same image ended
    // last time.
    std::string start_z = "encoder";
    bool learn_ebm = true, learn_generator = true, learn_encoder = true;
    bool joint_elbo = false;  // generator and encoder learn together from what needs no chain, instead of Eq. 10 and 15
    bool synchronize =
        false;  // at the end of each part for what a GPU still has to do, so that StepTimings are its times
};

// Makes `s` the settings of a named method; whatever does not distinguish the methods stays as it is.
//   dual         this paper
//   cooperative  the EBM teaches the generator by revising its samples; no encoder, no term of the data (Xie et al.
//   2018) triangle     no chains: the divergence triangle (Han et al. 2019) shortrun     an EBM alone, chains of 100
//   steps from noise (Nijkamp et al. 2019) abp          a generator alone, z-chains from N(0, I) drawn afresh:
//   alternating back-propagation (Han et al. 2017) vae          generator and encoder on the evidence lower bound
//   (Kingma and Welling 2014)
// Fails, listing them, for any other name.
void apply_method(StepSettings& s, const std::string& method);
inline const std::vector<std::string> method_names{"dual", "cooperative", "triangle", "shortrun", "abp", "vae"};

// All the noise of one iteration.
struct StepNoise {
    Tensor prior, reparametrise;  // (B, d); the latter is also where z-chains from noise start
    NoiseFunction langevin_x, langevin_z, langevin_x_resample;
    std::function<Tensor()> start_x;  // uniform in [-1, 1], where x-chains from noise start
    Tensor start_z;  // (B, d): where persistent z-chains start; no noise but the caller's, undefined otherwise
};
// That of iteration `iteration` (from 0): Philox streams at step = iteration << 16 | k.
StepNoise philox_noise(uint64_t seed, uint64_t iteration, const Shape& images, int64_t latent);

// The host's times. A GPU works on while the host sends it the next part: there they are the times of sending, but for
// StepSettings::wait.
struct StepTimings {
    double chain_x = 0, chain_z = 0, generator = 0, encoder = 0, ebm = 0;
    double total() const { return chain_x + chain_z + generator + encoder + ebm; }
};

// Everything worth looking at; named as in the step file. Scalars are tensors (1) on the device until somebody reads
// them. What a method has no use for stays undefined.
struct StepResult {
    Tensor x_init, x_revised,
        x_resampled;  // the x-chain's start and end, the second chain's end (without resample undefined)
    Tensor mu, logvar, z_init, z_revised, reconstruction;
    std::vector<Tensor> energy_trace, sse_trace;
    Tensor loss_recon, loss_revise;  // squared errors: sum over pixels, mean over the batch, without λ
    Tensor nll_posterior,
        nll_generated;  // Eq. 15's two terms, without λ; for joint_elbo methods the first is KL(q(z|x) ‖ p(z))
    Tensor energy_data, energy_model;  // batch means in the EBM's update
    StepTimings seconds;
};

// Runs one iteration on the batch x (B, …) and updates the networks that learn. `update` counts optimiser steps from 1
// (Adam's bias correction). Afterwards each parameter's grad() is the gradient of its network's loss.
StepResult dual_mcmc_step(Models& models, const Tensor& x, const StepNoise& noise, const StepSettings& settings,
                          int64_t update);

}  // namespace dualmcmc
