// One training iteration of dual-MCMC teaching: the two chains and the three updates (Eq. 7, 10, 15), in the release's order.
#pragma once
#include <string>

#include "langevin.h"

namespace dualmcmc {

// What the iteration needs to know (paper.md, section 4). Defaults: the release's CIFAR-10 settings.
struct StepSettings {
    ChainSettings chain_x{30, 0.5f, 0.001f}, chain_z{10, 0.1f, 0.1f};
    float sigma = 0.3f / 1.41421356f;  // of p_θ(x|z). The release leaves out the ½ of ‖x - g‖² / (2σ²): its σ = 0.3 is this exact one.
    float lambda_data = 1, lambda_ebm = 50, lambda_prior = 0.1f;
    bool resample = true;              // the EBM's update gets a second chain, from the updated generator; false: that of Eq. 10
    AdamSettings adam_generator{3e-4f, 5e-4f}, adam_ebm{1e-4f, 0}, adam_encoder{1e-4f, 5e-4f};
};

// All the noise of one iteration. The functions give U of step k.
struct StepNoise {
    Tensor prior, reparametrise;  // (B, d)
    NoiseFunction langevin_x, langevin_z, langevin_x_resample;
};
// That of iteration `iteration` (from 0): Philox streams at step = iteration << 16 | k.
StepNoise philox_noise(uint64_t seed, uint64_t iteration, const Shape& images, int64_t latent);

struct Seconds {
    double chain_x = 0, chain_z = 0, generator = 0, encoder = 0, ebm = 0;
    double total() const { return chain_x + chain_z + generator + encoder + ebm; }
};

// Everything worth looking at; named as in the step file. Scalars are tensors (1) on the device until somebody reads them.
struct StepResult {
    Tensor x_init, x_revised, x_resampled;  // g(z), its chain's end, the second chain's end (without resample undefined)
    Tensor mu, logvar, z_init, z_revised, reconstruction;
    std::vector<Tensor> energy_profile, sse_profile;
    Tensor loss_recon, loss_revise;         // squared errors: sum over pixels, mean over the batch, without λ
    Tensor nll_posterior, nll_prior;        // Eq. 15's two terms, without λ
    Tensor energy_data, energy_model;       // batch means in the EBM's update
    Seconds seconds;
};

// Runs one iteration on the batch x (B, S, S, 3) and updates the three networks. `update` counts optimiser steps from 1 (Adam's bias
// correction). Afterwards each parameter's grad() is the gradient of its network's loss.
StepResult dual_mcmc_step(Models& models, const Tensor& x, const StepNoise& noise, const StepSettings& settings, int64_t update);

}  // namespace dualmcmc
