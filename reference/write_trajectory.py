"""Writes trajectory.safetensors: ten training iterations (dual_mcmc.py) in float64 from a stored state; philox.py draws
all noise.

Iteration i (from 0) uses the images (i * B + b) mod N of data.images (N,3,S,S), b = 0 .. B-1, and draws its noise with
the metadata's seed. All iterations are in epoch 0: no learning-rate decay. netE.* netG.* netI.*, stored as F32, is the
state before iteration 0. out.<name> stacks a quantity of the step file over the iterations, stored as F64.
"""
import os

import numpy as np
import torch

import dual_mcmc
import models
import philox
import safetensors_io
from images import smooth_images

SEED, ITERATIONS, IMAGES = 2**32 + 77, 10, 7
SETTINGS = dual_mcmc.Settings(width_generator=8, width_encoder=3, latent=6, batch=3, steps_x=4, steps_z=3)
# As in step files; the images, which are larger, show in the losses.
NAMES = ("z_init", "z_revised", "energy_profile", "sse_profile", "loss_recon", "loss_revise", "nll_posterior", "nll_prior", "energy_data", "energy_model")


def run_trajectory(state, images):
    s = SETTINGS
    nets = s.build()
    models.import_state(nets, state)
    for net in nets.values():
        net.double()
    loop, history = dual_mcmc.DualMcmc(nets, s), {name: [] for name in NAMES}
    for iteration in range(ITERATIONS):
        batch = images[(iteration * s.batch + np.arange(s.batch)) % len(images)]
        noise = philox.iteration_noise(SEED, iteration, s.batch, s.latent, s.image_size, s.steps_x, s.steps_z,
                                       np.float64)
        out = loop.iterate(torch.from_numpy(batch).double(),
                           {name: torch.from_numpy(value) for name, value in noise.items()})
        for name in NAMES:
            history[name].append(out[name].clone())
    return history


def stacked(values):
    array = torch.stack(values).numpy()
    return array.reshape(ITERATIONS) if array.size == ITERATIONS else array


def main():
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    state = models.export_state(SETTINGS.build())
    images = smooth_images(np.random.default_rng(SEED), IMAGES, SETTINGS.image_size)
    history = run_trajectory(state, images)
    path = "trajectory.safetensors"
    safetensors_io.save(path, {**state, "data.images": images,
                               **{f"out.{name}": stacked(history[name]) for name in NAMES}},
                        {"format": "dual-mcmc-trajectory-1", "seed": SEED, "iterations": ITERATIONS, "images": IMAGES,
                         **SETTINGS.metadata()})
    print(f"{path}: {os.path.getsize(path)} bytes")
    for name in ("loss_recon", "loss_revise", "energy_data", "energy_model"):
        print(f"  {name:14} " + " ".join(f"{value.item():.4g}" for value in history[name]))


if __name__ == "__main__":
    main()
