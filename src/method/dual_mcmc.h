// One training iteration of dual-MCMC teaching: the two chains and the three updates (Eq. 7, 10, 15), in the authors'
// order; and, as switches of the same iteration, of the baselines (METHOD.md, sections 3 and 7).
#pragma once
#include "method/langevin.h"

namespace dualmcmc {

// All the noise of one iteration.
struct StepNoise {
    Tensor prior, reparametrise;  // (B, d); z-chains from noise start at reparametrise
    NoiseFunction langevin_x, langevin_z, langevin_x_resample;
    std::function<Tensor()> start_x;  // uniform in [-1, 1]: where x-chains from noise start
    Tensor start_z;                   // (B, d): where persistent z-chains start; else undefined
};
// The noise of iteration `iteration` (from 0): Philox, each purpose at step = iteration << 16 | k. `images` is the
// shape of this rank's images, and `first` the index of their first one in the whole batch (ranks/shared_batch.h).
StepNoise philox_noise(uint64_t seed, uint64_t iteration, const Shape& images, int64_t latent, int64_t first = 0);

// Wall-clock seconds of the parts. GPU work is asynchronous: without StepSettings::synchronize these are the times to
// enqueue it.
struct StepTimings {
    double chain_x = 0, chain_z = 0, generator = 0, encoder = 0, ebm = 0;
    double total() const { return chain_x + chain_z + generator + encoder + ebm; }
};

// What the iteration computed; named as in the step file, but for the traces (energy_profile and sse_profile there).
// Scalars are tensors (1) on the device until somebody reads them. Fields that a method does not use stay undefined. On
// several ranks losses and energies are of the whole batch, all else, the traces too, of this rank's images.
struct StepResult {
    Tensor x_init, x_revised;                     // (B, S, S, 3): the x-chain's start and end
    Tensor x_resampled, reconstruction;           // likewise: the second, or longer, x-chain's end; g(z̃)
    Tensor mu, logvar, z_init, z_revised;         // (B, d)
    std::vector<Tensor> energy_trace, sse_trace;  // k_x and k_z scalars
    Tensor loss_recon, loss_revise;       // squared errors: summed over pixels, averaged over the batch; without λ
    Tensor nll_posterior, nll_generated;  // the two terms of Eq. 15, without λ
    Tensor kl;                            // KL(q(z|x) ‖ p(z)), of joint_elbo methods instead of nll_posterior
    Tensor energy_data, energy_model;     // batch means in the EBM's update
    StepTimings seconds;
};

// Runs one iteration on the batch x (B, S, S, 3), or this rank's images of a SharedBatch, and updates the networks that
// learn. `adam_t` is the iteration, from 1: Adam's bias correction and long_every count by it. Afterwards the grad() of
// each of their parameters is that of the network's loss.
StepResult dual_mcmc_step(Models& models, const Tensor& x, const StepNoise& noise, const StepSettings& settings,
                          int64_t adam_t);

}  // namespace dualmcmc
