"""Converts the authors' published .pth (a dict with the state_dicts netE, netG, netI) to a checkpoint of this project,
and back.

    convert_release.py to-safetensors authors.pth checkpoint.safetensors
    convert_release.py to-pth checkpoint.safetensors authors.pth

Tensors keep their names, behind a prefix netE. netG. netI.; num_batches_tracked, a 0-d integer, is F32 of shape (1) in
the checkpoint. Only the networks are converted, not the optimizers. Where the checkpoint has a moving average of
parameters (--ema), to-pth writes that average, as `dualmcmc sample` uses it. A .pth is a pickle: convert only files you
trust.
"""
import os
import pickle
import re
import sys

NETS = "netE", "netG", "netI"


def fail(*message):
    """Ends the program with one line on stderr and exit code 1."""
    sys.exit("convert_release.py: " + " ".join(" ".join(map(str, message)).split()))


try:
    import numpy as np
    import torch

    import safetensors_io
except ImportError as missing:
    fail(f"{missing}: needs PyTorch and NumPy (Debian: apt-get install python3-torch python3-numpy, then /usr/bin/python3)")


def check_file(path, wanted):
    """Fails unless `path` is a file with contents, naming what lies in its place."""
    if not os.path.isfile(path):
        fail(f"{path}:", "is not a regular file" if os.path.exists(path) else "no such file")
    with open(path, "rb") as file:
        head = file.read(512)
    begin = head.lstrip().lower()
    if not head:
        fail(f"{path}: is empty; download or copy it again")
    if begin.startswith((b"<!doctype html", b"<html", b"<?xml")):
        fail(f"{path}: is a web page, not the file itself; download the file again")
    if begin.startswith(b"version https://git-lfs"):
        fail(f"{path}: is a Git LFS pointer, not the file itself; fetch it: git lfs install && git lfs pull")
    is_safetensors = head[4:9] == b"\0\0\0\0{"
    if is_safetensors != (wanted == "safetensors"):
        fail(f"{path}: is a .safetensors; to-pth converts it" if is_safetensors else f"{path}: is not a .safetensors; "
             "to-safetensors converts a .pth")


def write(target, save):
    """Calls save(path) for a temporary file beside `target` and renames it."""
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        save(temporary)
        os.replace(temporary, target)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def load_networks(path):
    """The dict of a .pth: {net: {name: tensor}}."""
    check_file(path, "pth")
    try:
        networks = torch.load(path, map_location="cpu")
    except pickle.UnpicklingError as error:
        if "weights only" not in str(error).lower().replace("_", " "):
            raise
        fail(f"{path}: is damaged, or holds objects beside its tensors; loading those can run any program, so PyTorch",
             "2.6 and later refuses. If you trust the file: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python3", *sys.argv)
    if not isinstance(networks, dict):
        fail(f"{path}: holds a {type(networks).__name__}, not a dict with the state_dicts {', '.join(NETS)}")
    for net in NETS:
        state = networks.get(net)
        if hasattr(state, "state_dict"):  # a module, saved whole
            state = networks[net] = state.state_dict()
        if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
            found = ", ".join(map(str, list(networks)[:8])) or "nothing"
            fail(f"{path}: has no state_dict {net}; it holds {found}; this converts the authors' checkpoints, with",
                 ", ".join(NETS))
    return networks


def metadata_of(tensors):
    """The architecture and its widths, from the shapes of the tensors."""
    celeba64 = "netE.lin_6.weight_orig" in tensors
    architecture = "celeba64" if celeba64 else "cifar10"
    generator = tensors["netG.lin_1.weight"].shape
    return {"format": "dual-mcmc-checkpoint-1", "preset": architecture, "architecture": architecture,
            "width-generator": generator[0] // 16,
            "width-ebm": tensors["netE.lin_6.weight_orig" if celeba64 else "netE.lin_5.weight_orig"].shape[1],
            "width-encoder": tensors["netI.main.0.weight"].shape[0], "latent": generator[1]}


def to_safetensors(source, target):
    networks, tensors = load_networks(source), {}
    for net in NETS:
        for name, value in networks[net].items():
            name = name.removeprefix("module.")  # added by DataParallel
            tensors[f"{net}.{name}"] = value.detach().float().reshape(tuple(value.shape) or (1,)).numpy()
    try:
        metadata = metadata_of(tensors)
    except KeyError as missing:
        fail(f"{source}: its networks are not the authors': there is no tensor {missing.args[0]}")
    except IndexError:
        fail(f"{source}: its networks are not the authors': a tensor has too few dimensions")
    write(target, lambda path: safetensors_io.save(path, tensors, metadata))
    print(f"{target}: {metadata['architecture']} networks, {len(tensors)} tensors")


def to_pth(source, target):
    check_file(source, "safetensors")
    tensors, metadata = safetensors_io.load(source)
    networks, averaged = {net: {} for net in NETS}, set()
    for full_name, array in tensors.items():
        net, _, name = full_name.partition(".")
        if net not in networks:
            continue
        average = tensors.get("ema." + full_name)
        if average is not None:
            averaged.add(net)
            array = average
        value = torch.from_numpy(np.asarray(array, dtype=np.float32))
        networks[net][name] = value.reshape(()).long() if name.endswith("num_batches_tracked") else value
    for net, state in networks.items():
        if not state:
            fail(f"{source}: holds no tensors {net}.*; is it a checkpoint of dualmcmc?")


    def save(path):
        with open(path, "wb") as file:  # torch.save itself raises no OSError
            torch.save(networks, file)

    write(target, save)
    which = [net + (" (moving average)" if net in averaged else "") for net in NETS]
    print(f"{target}: {', '.join(which)}, the weights that `dualmcmc sample` uses")


def main(arguments):
    commands = {"to-safetensors": to_safetensors, "to-pth": to_pth}
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if len(arguments) != 3 or arguments[0] not in commands:
        fail("usage: convert_release.py to-safetensors FROM.pth TO.safetensors, or to-pth FROM.safetensors TO.pth")
    command, source, target = arguments
    try:
        commands[command](source, target)
    except OSError as error:
        fail(f"{error.filename2 or error.filename or source}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # what torch.load and json raise for a damaged file
        first = re.split(r"\n", str(error).strip() or type(error).__name__)[0]
        fail(f"{source}: cannot be converted ({first}); is it damaged? Copy or download it again")


if __name__ == "__main__":
    main(sys.argv[1:])
