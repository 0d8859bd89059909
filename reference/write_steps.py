"""Writes step_<what>.safetensors: one training iteration each, as format dual-mcmc-step-1 (Eq. 3, 6, 7, 10, 15 in dual_mcmc.py).

The iteration is computed in float64 and stored as float32; it starts from float32 parameters, images and noise. Besides, it is
computed in float32, and the differences between the two are printed: they are what rounding alone does.
batch-norm's num_batches_tracked is stored as F32 of shape (1). Spectral norm's v has PyTorch's order (I,kh,kw).
"""
import os

import numpy as np
import torch

import dual_mcmc
import models
import philox
import safetensors_io
from images import smooth_images

# The x-chain's steps are longer than the release's: a small, untrained EBM is so flat that its gradient would otherwise be lost
# beside the image. The seeds keep clear of chains that pass close to a kink of ReLU, which rounding could throw to its other side.
CASES = {
    "cifar10_resample": dual_mcmc.Settings(width=8, inference_width=4, latent=8, batch=3, steps_x=4, steps_z=3,
                                              e_l_step_size=5.0, e_n_step_size=0.05),
    "cifar10": dual_mcmc.Settings(
        width=16, inference_width=3, latent=5, batch=2, steps_x=3, steps_z=5, resample=0, Gfactor=0.7, Sfactor=20.0, Ifactor=0.25,
        e_l_step_size=6.0, e_n_step_size=0.02, l_step_size=0.08, n_step_size=0.05, sig=0.4,
        lrE=2e-4, lrG=5e-4, lrI=3e-4, wdG=1e-3, wdI=2e-3),
    "celeba64_resample": dual_mcmc.Settings(
        architecture="celeba64", width=16, inference_width=3, latent=6, batch=2, steps_x=2, steps_z=2, Sfactor=70.0,
        e_l_step_size=15.0, e_n_step_size=0.05),
}
# The relatives (paper.md, section 7), each in the smallest networks.
SMALL = dict(width=8, inference_width=3, latent=5, batch=2, steps_x=2, steps_z=2, e_l_step_size=5.0, e_n_step_size=0.5)
CASES.update({
    "cooperative": dual_mcmc.Settings(method="cooperative", **{**SMALL, "steps_z": 0, "Gfactor": 0.0}),
    "triangle": dual_mcmc.Settings(method="triangle", **{**SMALL, "steps_x": 0, "steps_z": 0, "Sfactor": 1.5, "Ifactor": 0.8, "resample": 0}),
    "shortrun": dual_mcmc.Settings(method="shortrun", **SMALL),
    "abp": dual_mcmc.Settings(method="abp", **{**SMALL, "Sfactor": 0.0, "resample": 0}),
    "vae": dual_mcmc.Settings(method="vae", **{**SMALL, "steps_z": 0, "Sfactor": 0.0, "Ifactor": 0.0, "resample": 0}),
})
SEEDS = {"cifar10_resample": 8, "cifar10": 6, "celeba64_resample": 2}


def run_step(settings, state, images, noise, dtype, as_relative=False):
    """Returns out.*, grad.* and after.* in the given precision; as_relative: by the code that knows all methods."""
    nets = settings.build()
    models.import_state(nets, state)
    for net in nets.values():
        net.to(dtype)
    loop = dual_mcmc.DualMcmc(nets, settings)
    noise = {"langevin_x": (), "langevin_z": (), **{name: torch.from_numpy(value).to(dtype) for name, value in noise.items()}}
    images = torch.from_numpy(images).to(dtype)
    out = loop.iterate_relative(images, noise) if as_relative else loop.iterate(images, noise)
    result = {f"out.{name}": value for name, value in out.items()}
    result.update({f"grad.{name}": value for name, value in loop.gradients().items()})
    result.update({f"after.{prefix}.{name}": value.reshape(tuple(value.shape) or (1,))
                   for prefix, net in nets.items() for name, value in net.state_dict().items()})
    return result


def rounding(settings, single, double):
    """The largest relative L2 difference of out.* and u, v; of grad.*; and the largest share of after.* beyond 2 % of one learning rate."""
    worst = {"out": (0.0, ""), "grad": (0.0, ""), "after": (0.0, "")}
    note = lambda kind, value, name: worst.__setitem__(kind, max(worst[kind], (value, name)))
    for name in single:
        if name.startswith("out.") or name.endswith(("weight_u", "weight_v")):
            note("out", dual_mcmc.relative_l2(single[name], double[name]), name)
    for letter in "EGI":
        gradients = [name for name in double if name.startswith(f"grad.net{letter}.")]
        if not gradients:
            continue  # this method has no such network
        largest = max(double[name].norm().item() for name in gradients)
        for name in gradients:  # a vanishing gradient (a bias before batch norm) is held against its network's largest
            norm = double[name].norm().item()
            error = (single[name] - double[name]).norm().item() / (norm if norm >= 1e-5 * largest else largest)
            note("grad", error, name)
        parameters = [name.replace("grad.", "after.", 1) for name in gradients]
        outside = sum(((single[name] - double[name]).abs() > 0.02 * getattr(settings, f"lr{letter}")).sum().item() for name in parameters)
        note("after", outside / sum(double[name].numel() for name in parameters), f"net{letter}")
    return worst


def main():
    torch.set_num_threads(2)
    for what, settings in CASES.items():
        seed = SEEDS.get(what, 1)
        torch.manual_seed(seed)
        s, size = settings, settings.image_size
        state = models.export_state(s.build())
        images = smooth_images(np.random.default_rng(seed), s.batch, size)
        noise = philox.iteration_noise(seed, 0, s.batch, s.latent, size, s.steps_x, s.steps_z)
        if not s.resample:
            noise.pop("langevin_x_resample", None)
        if dual_mcmc.METHODS[s.method]["start_x"] == "noise":
            noise["start_x"] = philox.start_images(seed, 0, s.batch, size)[None]
        single, double = (run_step(s, state, images, noise, dtype) for dtype in (torch.float32, torch.float64))

        if s.method == "dual":  # written twice: line by line as released, and as one of the methods
            for name, value in run_step(s, state, images, noise, torch.float64, as_relative=True).items():
                if "running" not in name and "batches" not in name:  # the generator passes once more there
                    assert torch.allclose(value, double[name], rtol=1e-9, atol=1e-12), (what, name)

        tensors = {**state, "batch.x": images, **{f"noise.{name}": value for name, value in noise.items()}}
        tensors.update({name: value.numpy().astype(np.float32) for name, value in double.items()})
        path = f"step_{what}.safetensors"
        safetensors_io.save(path, tensors, {"format": "dual-mcmc-step-1", **s.metadata()})
        print(f"{path}: {os.path.getsize(path)} bytes; " + ", ".join(f"{name[4:]} {float(double[name]):.4g}" for name in double
              if name.startswith("out.") and double[name].numel() == 1))
        for kind, (value, name) in rounding(s, single, double).items():
            limit = 0.01 if kind == "after" else 2e-4
            print(f"  float32 against float64, worst {kind}: {value:.1e} ({name})" + ("  WARNING: large" if value > limit else ""))


if __name__ == "__main__":
    main()
