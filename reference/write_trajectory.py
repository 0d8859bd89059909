"""Writes trajectory.safetensors and trajectory_double.safetensors: ten training iterations (dual_mcmc.py) from a stored
state; philox.py draws all noise, in float32 for the former and in float64 for the latter.

Iteration i (from 0) uses the images (i * B + b) mod N of data.images (N,3,S,S), b = 0 .. B-1, and draws its noise with
the metadata's seed. All iterations are in epoch 0: no learning-rate decay. netE.* netG.* netI.* is the state before
iteration 0. out.<name> stacks a quantity of the step file over the iterations, computed in float64 and stored as F32
or, in the second file, F64; the larger ones, such as x_init, are left out. rounding.<name> (iterations) is the relative L2 error of a float32 run. A
test's tolerance is a multiple of that, with a minimum: Adam's steps, which resemble signs, amplify rounding errors.
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
# As in step files.
NAMES = ("x_revised", "x_resampled", "z_init", "z_revised", "energy_profile", "sse_profile",
         "loss_recon", "loss_revise", "nll_posterior", "nll_prior", "energy_data", "energy_model")


def run_trajectory(state, images, dtype, noise_dtype=np.float32):
    s = SETTINGS
    nets = s.build()
    models.import_state(nets, state)
    for net in nets.values():
        net.to(dtype)
    loop, history = dual_mcmc.DualMcmc(nets, s), {name: [] for name in NAMES}
    for iteration in range(ITERATIONS):
        batch = images[(iteration * s.batch + np.arange(s.batch)) % len(images)]
        noise = philox.iteration_noise(SEED, iteration, s.batch, s.latent, s.image_size, s.steps_x, s.steps_z,
                                       noise_dtype)
        noise = {name: torch.from_numpy(value).to(dtype) for name, value in noise.items()}
        out = loop.iterate(torch.from_numpy(batch).to(dtype), noise)
        for name in NAMES:
            history[name].append(out[name].clone())
    return history


def write(path, tensors):
    safetensors_io.save(path, tensors, {"format": "dual-mcmc-trajectory-1", "seed": SEED, "iterations": ITERATIONS,
                                        "images": IMAGES, **SETTINGS.metadata()})


def stacked(values, dtype):
    array = torch.stack(values).numpy().astype(dtype)
    return array.reshape(ITERATIONS) if array.size == ITERATIONS else array


def main():
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    state = models.export_state(SETTINGS.build())
    images = smooth_images(np.random.default_rng(SEED), IMAGES, SETTINGS.image_size)
    single, double = (run_trajectory(state, images, dtype) for dtype in (torch.float32, torch.float64))

    tensors = {**state, "data.images": images}
    for name in NAMES:
        tensors[f"out.{name}"] = stacked(double[name], np.float32)
        rounding = [dual_mcmc.relative_l2(*pair) for pair in zip(single[name], double[name])]
        tensors[f"rounding.{name}"] = np.array(rounding, np.float32)
    path = "trajectory.safetensors"
    write(path, tensors)
    exact = run_trajectory(state, images, torch.float64, np.float64)
    scalars = {f"out.{name}": stacked(exact[name], np.float64) for name in NAMES if not name.startswith("x_")}
    write("trajectory_double.safetensors", {**state, "data.images": images, **scalars})
    print(f"{path}: {os.path.getsize(path)} bytes; float32 against float64, by iteration:")
    for name in NAMES:
        rounding = tensors[f"rounding.{name}"]
        warning = "  WARNING: large" if rounding.max() > 1e-2 else ""
        print(f"  {name:14} " + " ".join(f"{value:.0e}" for value in rounding) + warning)
    for name in ("loss_recon", "loss_revise", "energy_data", "energy_model"):
        print(f"  {name:14} " + " ".join(f"{value:.4g}" for value in tensors[f"out.{name}"]))


if __name__ == "__main__":
    main()
