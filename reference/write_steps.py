"""Writes step_<case>.safetensors, one training iteration each by dual_mcmc.py, in the format dual-mcmc-step-1.

The iteration starts from float32 parameters, images and noise, is computed in float64 and stored as float32. It is also
computed in float32: the printed differences show the effect of rounding alone.
Batch norm's num_batches_tracked is stored as F32 of shape (1). Spectral norm's v is in PyTorch's order (I,kh,kw).
"""
import os

import numpy as np
import torch

import dual_mcmc
import models
import philox
import safetensors_io
from dual_mcmc import Settings
from images import smooth_images

# The x-chain's steps are longer than the authors': a small, untrained EBM is so flat that its gradient would otherwise
# vanish next to the image. The seeds avoid chains that pass so close to a kink of ReLU that rounding could flip it.
CASES = {
    "cifar10_resample": Settings(width_generator=8, width_encoder=4, latent=8, batch=3, steps_x=4, steps_z=3,
                                 step_size_x=5.0, noise_x=0.05),
    "cifar10": Settings(width_generator=16, width_encoder=3, latent=5, batch=2, steps_x=3, steps_z=5, resample=0,
                        lambda_data=0.7, lambda_ebm=20.0, lambda_generated=0.25,
                        step_size_x=6.0, noise_x=0.02, step_size_z=0.08, noise_z=0.05, sig=0.4,
                        lr_ebm=2e-4, lr_generator=5e-4, lr_encoder=3e-4, decay_generator=1e-3, decay_encoder=2e-3),
    "celeba64_resample": Settings(architecture="celeba64", width_generator=16, width_encoder=3, latent=6, batch=2,
                                  steps_x=2, steps_z=2, lambda_ebm=70.0, step_size_x=15.0, noise_x=0.05),
}


def baseline(method, **changes):
    """One of the baselines (METHOD.md, section 7), in the smallest networks."""
    small = dict(width_generator=8, width_encoder=3, latent=5, batch=2, steps_x=2, steps_z=2,
                 step_size_x=5.0, noise_x=0.5)
    return Settings(method=method, **{**small, **changes})


CASES.update(
    cooperative=baseline("cooperative", steps_z=0, lambda_data=0.0),
    triangle=baseline("triangle", steps_x=0, steps_z=0, lambda_ebm=1.5, lambda_generated=0.8, resample=0),
    shortrun=baseline("shortrun"),
    abp=baseline("abp", lambda_ebm=0.0, resample=0),
    vae=baseline("vae", steps_z=0, lambda_ebm=0.0, lambda_generated=0.0, resample=0))
SEEDS = {"cifar10_resample": 8, "cifar10": 6, "celeba64_resample": 2}


def run_step(settings, state, images, noise, dtype, any_method=False):
    """Returns out.*, grad.* and after.* in the given precision; any_method: computed by iterate_any_method."""
    nets = settings.build()
    models.import_state(nets, state)
    for net in nets.values():
        net.to(dtype)
    loop = dual_mcmc.DualMcmc(nets, settings)
    noise = {name: torch.from_numpy(value).to(dtype) for name, value in noise.items()}
    noise = {"langevin_x": (), "langevin_z": (), **noise}
    images = torch.from_numpy(images).to(dtype)
    out = loop.iterate_any_method(images, noise) if any_method else loop.iterate(images, noise)
    result = {f"out.{name}": value for name, value in out.items()}
    result.update({f"grad.{name}": value for name, value in loop.gradients().items()})
    result.update({f"after.{prefix}.{name}": value.reshape(tuple(value.shape) or (1,))
                   for prefix, net in nets.items() for name, value in net.state_dict().items()})
    return result


def rounding(settings, single, double):
    """What rounding alone does.

    Returns the worst relative L2 error of out.* and u, v; that of grad.*; and the largest share of a network's after.*
    whose error exceeds 2 % of a learning rate.
    """
    worst = {"out": (0.0, ""), "grad": (0.0, ""), "after": (0.0, "")}
    note = lambda kind, value, name: worst.__setitem__(kind, max(worst[kind], (value, name)))
    for name in single:
        if name.startswith("out.") or name.endswith(("weight_u", "weight_v")):
            note("out", dual_mcmc.relative_l2(single[name], double[name]), name)
    for net, role in dual_mcmc.ROLES.items():
        gradients = [name for name in double if name.startswith(f"grad.{net}.")]
        if not gradients:
            continue  # this method does not train the network
        largest = max(double[name].norm().item() for name in gradients)
        for name in gradients:  # one that is almost zero (a bias before batch norm) is compared with the largest
            norm = double[name].norm().item()
            error = (single[name] - double[name]).norm().item() / (norm if norm >= 1e-5 * largest else largest)
            note("grad", error, name)
        parameters = [name.replace("grad.", "after.", 1) for name in gradients]
        limit = 0.02 * getattr(settings, f"lr_{role}")
        outside = sum(((single[name] - double[name]).abs() > limit).sum().item() for name in parameters)
        note("after", outside / sum(double[name].numel() for name in parameters), net)
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

        if s.method == "dual":  # implemented twice, by iterate_dual and by iterate_any_method
            for name, value in run_step(s, state, images, noise, torch.float64, any_method=True).items():
                if "running" not in name and "batches" not in name:  # the latter has one more pass of the generator
                    assert torch.allclose(value, double[name], rtol=1e-9, atol=1e-12), (what, name)

        tensors = {**state, "batch.x": images, **{f"noise.{name}": value for name, value in noise.items()}}
        tensors.update({name: value.numpy().astype(np.float32) for name, value in double.items()})
        path = f"step_{what}.safetensors"
        safetensors_io.save(path, tensors, {"format": "dual-mcmc-step-1", **s.metadata()})
        scalars = [name for name, value in double.items() if name.startswith("out.") and value.numel() == 1]
        print(f"{path}: {os.path.getsize(path)} bytes; "
              + ", ".join(f"{name[4:]} {float(double[name]):.4g}" for name in scalars))
        for kind, (value, name) in rounding(s, single, double).items():
            warning = "  WARNING: large" if value > (0.01 if kind == "after" else 2e-4) else ""
            print(f"  float32 against float64, worst {kind}: {value:.1e} ({name}){warning}")


if __name__ == "__main__":
    main()
