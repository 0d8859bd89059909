"""Writes step files: one training iteration each by dual_mcmc.py, in the format dual-mcmc-step-1.

    python3 write_steps.py                        step_<case>.safetensors, for each of CASES
    python3 write_steps.py OUT key=value ...      one file; the keys are fields of Settings, seed and store

For example:  python3 write_steps.py /tmp/a.safetensors architecture=celeba64 method=triangle batch=5 store=F64 seed=4
Keys that are not given have the values of the method and of the small networks below. The EBM is as wide as the
generator. An unknown key or value ends the program with one line and the status 1.

The iteration is computed in float64. `store` says in which precision the file holds it:

    mixed    inputs (parameters, images, noise) are float32 numbers, stored as F32; results as F64
    F64      inputs are float64 numbers that float32 cannot represent; everything is stored as F64
    F32      as mixed, but the results are rounded to F32

It is also computed in float32: the printed differences show the effect of rounding alone.
Batch norm's num_batches_tracked is a number of shape (1). Spectral norm's v is in PyTorch's order (I,kh,kw).
"""
import dataclasses
import os
import sys

import numpy as np
import torch

import dual_mcmc
import models
import philox
import safetensors_io
from dual_mcmc import METHODS, Settings
from images import smooth_images

STORES = "mixed", "F32", "F64"
OPTIONS = {field.name: field.type for field in dataclasses.fields(Settings)
           if field.name not in dual_mcmc.NOT_IN_STEP_FILES}
OPTIONS.update(seed=int, store=str)


def case(seed=1, store="mixed", **given):
    """(settings, seed, store): the given settings, else the method's own, else those of a small network."""
    # The x-chain's steps are longer than the authors': a small, untrained EBM is so flat that its gradient would
    # otherwise vanish next to the image.
    settings = dict(width_generator=7, width_encoder=3, latent=5, batch=2, steps_x=2, steps_z=2,
                    step_size_x=5.0, noise_x=0.5)
    if given.get("architecture") == "celeba64":
        settings.update(width_generator=19, step_size_x=15.0)
    if given.get("method") in METHODS:
        settings.update(METHODS[given["method"]]["settings"])
    if store not in STORES:
        raise ValueError(f"store is '{store}'; expected {', '.join(STORES)}")
    return Settings(**{**settings, **given}), seed, store


# The seeds avoid chains that pass so close to a kink of ReLU that rounding could flip it.
CASES = {
    "cifar10_resample": case(seed=8, store="F32", latent=8, batch=3, steps_x=4, steps_z=3, noise_x=0.05),
    "cifar10": case(seed=6, width_generator=11, steps_x=3, steps_z=5, resample=0,
                    lambda_data=0.7, lambda_ebm=20.0, lambda_generated=0.25,
                    step_size_x=6.0, noise_x=0.02, step_size_z=0.08, noise_z=0.05, sig=0.4,
                    lr_ebm=2e-4, lr_generator=5e-4, lr_encoder=3e-4, decay_generator=1e-3, decay_encoder=2e-3),
    "cifar10_generated": case(store="F64", width_generator=5, negatives="generated", noise_x=0.05),
    "celeba64_resample": case(seed=2, architecture="celeba64", latent=6, lambda_ebm=70.0, noise_x=0.05),
    "cooperative": case(method="cooperative"),
    "triangle": case(method="triangle", lambda_ebm=1.5, lambda_generated=0.8),
    "shortrun": case(method="shortrun"),
    "abp": case(method="abp"),
    "vae": case(method="vae"),
}


def run_step(settings, state, images, noise, dtype, any_method=False):
    """Returns out.*, grad.* and after.* in the given precision; any_method: computed by iterate_any_method."""
    nets = settings.build()
    for net in nets.values():
        net.to(dtype)
    models.import_state(nets, state)
    loop = dual_mcmc.DualMcmc(nets, settings)
    noise = {name: torch.from_numpy(value).to(dtype) for name, value in noise.items()}
    noise = {"langevin_x": (), "langevin_x_resample": (), "langevin_z": (), **noise}
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


def step_inputs(settings, seed, dtype):
    """The networks' state, the images and the noise, as arrays; in float64 no multiples of float32's spacing."""
    s, size = settings, settings.image_size
    torch.manual_seed(seed)
    state = models.export_state(s.build())
    random = np.random.default_rng(seed)
    images = smooth_images(random, s.batch, size)
    if dtype == np.float64:
        fine = lambda value: value + 1e-3 * random.standard_normal(value.shape)
        images = fine(images)
        state = {name: value.astype(dtype) if name.endswith("num_batches_tracked") else fine(value)
                 for name, value in state.items()}
    noise = philox.iteration_noise(seed, 0, s.batch, s.latent, size, s.steps_x, s.steps_z, dtype)
    if not s.resample:
        noise.pop("langevin_x_resample", None)
    if METHODS[s.method]["start_x"] == "noise":
        noise["start_x"] = philox.start_images(seed, 0, s.batch, size, dtype)[None]
    return state, images, noise


def write_step(path, settings, seed, store):
    state, images, noise = inputs = step_inputs(settings, seed, np.float64 if store == "F64" else np.float32)
    single, double = (run_step(settings, *inputs, dtype) for dtype in (torch.float32, torch.float64))

    if settings.method == "dual":  # implemented twice, by iterate_dual and by iterate_any_method
        for name, value in run_step(settings, *inputs, torch.float64, any_method=True).items():
            if "running" not in name and "batches" not in name:  # the latter has one more pass of the generator
                assert torch.allclose(value, double[name], rtol=1e-9, atol=1e-12), (path, name)

    tensors = {**state, "batch.x": images, **{f"noise.{name}": value for name, value in noise.items()}}
    tensors.update({name: value.numpy().astype(np.float32 if store == "F32" else np.float64)
                    for name, value in double.items()})
    safetensors_io.save(path, tensors, {"format": "dual-mcmc-step-1", **settings.metadata()})
    scalars = [name for name, value in double.items() if name.startswith("out.") and value.numel() == 1]
    print(f"{path}: {os.path.getsize(path)} bytes; "
          + ", ".join(f"{name[4:]} {float(double[name]):.4g}" for name in scalars))
    for kind, (value, name) in rounding(settings, single, double).items():
        warning = "  WARNING: large" if value > (0.01 if kind == "after" else 2e-4) else ""
        print(f"  float32 against float64, worst {kind}: {value:.1e} ({name}){warning}")


def parse(arguments):
    """The key=value arguments, as keyword arguments of case()."""
    given = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or key not in OPTIONS:
            raise ValueError(f"'{argument}': expected key=value, with a key of {', '.join(OPTIONS)}")
        try:
            given[key] = OPTIONS[key](value)
        except ValueError:
            raise ValueError(f"{key} is '{value}'; expected a number ({OPTIONS[key].__name__})") from None
    return given


def main():
    torch.set_num_threads(1)
    if len(sys.argv) == 1:
        for name, (settings, seed, store) in CASES.items():
            write_step(f"step_{name}.safetensors", settings, seed, store)
        return
    if "=" in sys.argv[1]:
        sys.exit(f"write_steps.py: '{sys.argv[1]}': expected the output file first, then key=value ...")
    try:
        settings, seed, store = case(**parse(sys.argv[2:]))
    except ValueError as error:
        sys.exit(f"write_steps.py: {error}")
    write_step(sys.argv[1], settings, seed, store)


if __name__ == "__main__":
    main()
