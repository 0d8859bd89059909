"""Times one training iteration of dual_mcmc.py in PyTorch, on the CPU, channels_last, with random images and noise.

Prints the seconds per iteration and per part: x_chain (both chains, with their g(z)), z_chain (with the encoder's pass),
generator, encoder, ebm (updates), other (drawing images, bookkeeping). With --serve it reads lines from stdin: at each 'run' it
runs one iteration and prints one JSON line with the seconds of each part, so that a driver can interleave it with another program.

PyTorch is quicker ('tuned') when OpenBLAS leaves the threads to OpenMP and the allocator keeps its memory:
    OPENBLAS_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
"""
import argparse
import json
import statistics
import sys
import time

import torch

import dual_mcmc

PARTS = ("x_chain", "z_chain", "generator", "encoder", "ebm", "other")


class FreshNoise:
    """Noise for a chain, drawn when step k asks for it."""

    def __init__(self, *shape):
        self.shape = shape

    def __getitem__(self, k):
        noise = torch.randn(self.shape)
        return noise.contiguous(memory_format=torch.channels_last) if noise.dim() == 4 else noise


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="cifar10", choices=["cifar10", "celeba64"])
    for flag, default in [("width-generator", 512), ("width-ebm", 512), ("width-encoder", 128), ("latent", 128), ("batch", 100),
                          ("steps-x", 30), ("steps-z", 10), ("threads", 2), ("iterations", 3), ("warmup", 1)]:
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--resample", type=int, choices=[0, 1], default=1, help="run the second x-chain")
    parser.add_argument("--serve", action="store_true", help="run one iteration at each line 'run' on stdin")
    return parser.parse_args()


def make_iteration(arguments):
    settings = dual_mcmc.Settings(
        architecture=arguments.architecture, width=arguments.width_generator, width_ebm=arguments.width_ebm,
        inference_width=arguments.width_encoder, latent=arguments.latent, batch=arguments.batch,
        steps_x=arguments.steps_x, steps_z=arguments.steps_z, resample=arguments.resample)
    nets = {name: net.to(memory_format=torch.channels_last) for name, net in settings.build().items()}
    loop = dual_mcmc.DualMcmc(nets, settings)
    image_shape = settings.batch, 3, settings.image_size, settings.image_size
    latent_shape = settings.batch, settings.latent

    def iteration():
        """Seconds of each part."""
        start = time.perf_counter()
        x = (torch.rand(image_shape) * 2 - 1).contiguous(memory_format=torch.channels_last)
        loop.iterate(x, {"prior": torch.randn(latent_shape), "reparam": torch.randn(latent_shape),
                         "langevin_x": FreshNoise(*image_shape), "langevin_z": FreshNoise(*latent_shape),
                         "langevin_x_resample": FreshNoise(*image_shape)})
        total = time.perf_counter() - start
        return {**loop.seconds, "other": total - sum(loop.seconds.values()), "total": total}

    return iteration


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    iteration = make_iteration(arguments)
    for _ in range(arguments.warmup):
        iteration()
    if arguments.serve:
        print(json.dumps({"ready": True, "torch": torch.__version__}), flush=True)
        for line in sys.stdin:
            if line.strip() == "run":
                print(json.dumps({part: round(seconds, 6) for part, seconds in iteration().items()}), flush=True)
        return
    runs = [iteration() for _ in range(arguments.iterations)]
    median = {part: statistics.median(run[part] for run in runs) for part in (*PARTS, "total")}
    print(f"{median['total']:.4f} s per iteration (median of {arguments.iterations}, {arguments.threads} threads, torch {torch.__version__})")
    for part in PARTS:
        print(f"  {part:9} {median[part]:.4f} s  {100 * median[part] / median['total']:5.1f} %")


if __name__ == "__main__":
    main()
