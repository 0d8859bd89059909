"""Writes networks_<architecture>.safetensors: one forward and backward pass of each of the three networks (models.py).

Tensors: netE.* netG.* netI.* (state before the pass); x, z (inputs); energy, image, mu, logvar (outputs), each with a
random upstream gradient d<output>; energy.dx, image.dz, encoder.dx (gradients of the inputs; the encoder's from dmu and
dlogvar together); grad.<parameter>; after.netE.*.weight_u, .weight_v and after.netG.*.running_mean, .running_var (state
after the pass). State, inputs and upstream gradients are float32 numbers, stored as F32; results are computed in
float64 and stored as F64.
"""
import os

import numpy as np
import torch

import models
import safetensors_io
from images import smooth_images

CASES = {  # generator, EBM, encoder widths, latent, batch
    "cifar10": (7, 9, 3, 5, 3),
    "celeba64": (32, 16, 3, 6, 2),
}


def run(nets, x, z, upstream):
    x, z = x.clone().requires_grad_(True), z.clone().requires_grad_(True)
    energy, image, (mu, logvar) = nets["netE"](x), nets["netG"](z), nets["netI"](x)
    result = {"energy": energy, "image": image, "mu": mu, "logvar": logvar}
    if upstream is None:
        return result
    result["energy.dx"], = torch.autograd.grad(energy, x, upstream["denergy"], retain_graph=True)
    result["image.dz"], = torch.autograd.grad(image, z, upstream["dimage"], retain_graph=True)
    d_encoder = [upstream["dmu"], upstream["dlogvar"]]
    result["encoder.dx"], = torch.autograd.grad([mu, logvar], x, d_encoder, retain_graph=True)
    torch.autograd.backward([energy, image, mu, logvar], [upstream["denergy"], upstream["dimage"], *d_encoder])
    for prefix, net in nets.items():
        result.update({f"grad.{prefix}.{name}": parameter.grad for name, parameter in net.named_parameters()})
        result.update({f"after.{prefix}.{name}": value for name, value in net.state_dict().items()
                       if name.endswith(("weight_u", "weight_v", "running_mean", "running_var"))})
    return result


def difference(single, double, name):
    """Relative L2; a gradient that is nearly zero is compared with its network's largest, as in write_steps.py."""
    norm = double[name].norm()
    if name.startswith("grad."):
        network = name[:len("grad.netE.")]
        largest = max(value.norm() for other, value in double.items() if other.startswith(network))
        norm = largest if norm < 1e-5 * largest else norm
    return ((single[name] - double[name]).norm() / norm).item()


def main():
    torch.set_num_threads(2)
    for seed, (architecture, sizes) in enumerate(CASES.items(), start=1):
        width_generator, width_ebm, width_encoder, latent, batch = sizes
        torch.manual_seed(seed)
        size = models.IMAGE_SIZE[architecture]
        nets = models.build(architecture, width_generator, width_ebm, width_encoder, latent)
        state = models.export_state(nets)
        x, z = torch.from_numpy(smooth_images(np.random.default_rng(seed), batch, size)), torch.randn(batch, latent)
        upstream = {f"d{name}": torch.randn_like(value) for name, value in run(nets, x, z, None).items()}

        results = {}
        for dtype in (torch.float32, torch.float64):
            models.import_state(nets, state)
            for net in nets.values():
                net.to(dtype).zero_grad(set_to_none=True)
            result = run(nets, x.to(dtype), z.to(dtype), {name: value.to(dtype) for name, value in upstream.items()})
            results[dtype] = {name: value.detach().clone() for name, value in result.items()}
        single, double = results.values()

        tensors = {**state, **{name: value.numpy() for name, value in {"x": x, "z": z, **upstream}.items()}}
        tensors.update({name: value.numpy() for name, value in double.items()})
        path = f"networks_{architecture}.safetensors"
        safetensors_io.save(path, tensors, {
            "format": "dual-mcmc-networks-1", "architecture": architecture, "width_generator": width_generator,
            "width_ebm": width_ebm, "width_encoder": width_encoder, "latent": latent, "batch": batch})
        worst = max((difference(single, double, name), name) for name in double)
        print(f"{path}: {os.path.getsize(path)} bytes; float32 against float64, worst: {worst[0]:.1e} ({worst[1]})"
              + ("  WARNING: large" if worst[0] > 2e-4 else ""))


if __name__ == "__main__":
    main()
