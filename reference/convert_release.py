"""Converts the authors' published .pth (a dict with the state_dicts netE, netG, netI) to a checkpoint of this project,
and back.

    convert_release.py to-safetensors authors.pth checkpoint.safetensors
    convert_release.py to-pth checkpoint.safetensors authors.pth

Tensors keep their names, behind a prefix netE. netG. netI.; num_batches_tracked, a 0-d integer, is F32 of shape (1) in
the checkpoint. Only the networks are converted, not the optimizers. A .pth is a pickle: convert only files you trust.
"""
import sys

try:
    import torch

    import safetensors_io
except ImportError as missing:
    sys.exit(f"{missing}: needs PyTorch and NumPy (Debian: python3-torch, python3-numpy)")

NETS = "netE", "netG", "netI"


def to_safetensors(source, target):
    networks, tensors = torch.load(source, map_location="cpu"), {}
    for net in NETS:
        for name, value in networks[net].items():
            name = name.removeprefix("module.")  # added by DataParallel
            tensors[f"{net}.{name}"] = value.float().reshape(tuple(value.shape) or (1,)).numpy()
    celeba64 = "netE.lin_6.weight_orig" in tensors
    safetensors_io.save(target, tensors, {
        "format": "dual-mcmc-checkpoint-1", "preset": "celeba64" if celeba64 else "cifar10",
        "architecture": "celeba64" if celeba64 else "cifar10",
        "width-generator": tensors["netG.lin_1.weight"].shape[0] // 16,
        "width-ebm": tensors["netE.lin_6.weight_orig" if celeba64 else "netE.lin_5.weight_orig"].shape[1],
        "width-encoder": tensors["netI.main.0.weight"].shape[0], "latent": tensors["netG.lin_1.weight"].shape[1]})


def to_pth(source, target):
    tensors, _ = safetensors_io.load(source)
    networks = {net: {} for net in NETS}
    for full_name, array in tensors.items():
        net, _, name = full_name.partition(".")
        if net in networks:
            value = torch.from_numpy(array)
            networks[net][name] = value.reshape(()).long() if name.endswith("num_batches_tracked") else value
    torch.save(networks, target)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("to-safetensors", "to-pth"):
        sys.exit(__doc__)
    {"to-safetensors": to_safetensors, "to-pth": to_pth}[sys.argv[1]](*sys.argv[2:])
