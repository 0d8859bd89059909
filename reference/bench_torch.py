"""Times one training iteration of dual_mcmc.py in PyTorch, channels_last, with random images and noise.

Prints the seconds per iteration and per part: x_chain (both chains, with their g(z)), z_chain (with the encoder's
forward pass), generator, encoder, ebm (updates), other (drawing images, bookkeeping). With --serve it runs one
iteration for each line 'run' on stdin and prints its seconds as one line of JSON, so that a driver (bench.py) can
alternate it with another program.

PyTorch is faster ('tuned') when OpenBLAS leaves threading to OpenMP and the allocator keeps its memory:
    OPENBLAS_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
On a GPU (--device cuda), --mode graph captures the whole iteration as one CUDA graph and replays it; --mode compile
does so after torch.compile of the three networks. GPU work is asynchronous: a part's time is then that to enqueue it,
or is missing; the total is synchronised.
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
    """The noise of a chain; that of step k is drawn when it is read."""

    def __init__(self, device, *shape):
        self.device, self.shape = device, shape

    def __getitem__(self, k):
        noise = torch.randn(self.shape, device=self.device)
        return noise.contiguous(memory_format=torch.channels_last) if noise.dim() == 4 else noise


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="cifar10", choices=["cifar10", "celeba64"])
    for flag, default in [("width-generator", 512), ("width-ebm", 512), ("width-encoder", 128), ("latent", 128),
                          ("batch", 100), ("steps-x", 30), ("steps-z", 10), ("threads", 2), ("iterations", 3),
                          ("warmup", 1)]:
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--resample", type=int, choices=[0, 1], default=1, help="1: second x-chain for the EBM")
    parser.add_argument("--serve", action="store_true", help="run one iteration for each line 'run' on stdin")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--mode", default="eager", choices=["eager", "graph", "compile"])
    return parser.parse_args()


def make_iteration(arguments):
    settings = dual_mcmc.Settings(
        architecture=arguments.architecture, width_generator=arguments.width_generator, width_ebm=arguments.width_ebm,
        width_encoder=arguments.width_encoder, latent=arguments.latent, batch=arguments.batch,
        steps_x=arguments.steps_x, steps_z=arguments.steps_z, resample=arguments.resample)
    device, on_gpu = arguments.device, arguments.device == "cuda"
    nets = {name: net.to(device=device, memory_format=torch.channels_last) for name, net in settings.build().items()}
    if arguments.mode == "compile":
        for net in nets.values():
            net.compile(mode="max-autotune-no-cudagraphs")
    loop = dual_mcmc.DualMcmc(nets, settings)
    if on_gpu:
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = arguments.precision != "fp32"
        for optimizer in loop.optimizers.values():
            optimizer.defaults["capturable"] = optimizer.param_groups[0]["capturable"] = True
    image_shape = settings.batch, 3, settings.image_size, settings.image_size
    latent_shape = settings.batch, settings.latent

    def iterate():
        x = (torch.rand(image_shape, device=device) * 2 - 1).contiguous(memory_format=torch.channels_last)
        # The cache of cast weights would outlive their update. Most casts are of frozen weights, which it never holds.
        with torch.autocast(device, dtype=torch.bfloat16, enabled=arguments.precision == "bf16", cache_enabled=False):
            loop.iterate(x, {"prior": torch.randn(latent_shape, device=device),
                             "reparam": torch.randn(latent_shape, device=device),
                             "langevin_x": FreshNoise(device, *image_shape),
                             "langevin_z": FreshNoise(device, *latent_shape),
                             "langevin_x_resample": FreshNoise(device, *image_shape)})

    run = iterate if arguments.mode == "eager" else captured(iterate)

    def iteration():
        """Returns the seconds of each part; on a GPU also the peak of its reserved memory."""
        start = time.perf_counter()
        loop.seconds.clear()
        run()
        if on_gpu:
            torch.cuda.synchronize()
        total = time.perf_counter() - start
        memory = {"device_mib": torch.cuda.max_memory_reserved() / 2**20} if on_gpu else {}
        return {**loop.seconds, "other": total - sum(loop.seconds.values()), "total": total, **memory}

    return iteration


def captured(iterate):
    """`iterate` as one CUDA graph, captured after three eager runs on a side stream, as PyTorch requires."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            iterate()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        iterate()
    return graph.replay


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
    print(f"{median['total']:.4f} s per iteration (median of {arguments.iterations}, {arguments.threads} threads, "
          f"torch {torch.__version__})")
    for part in PARTS:
        print(f"  {part:9} {median[part]:.4f} s  {100 * median[part] / median['total']:5.1f} %")


if __name__ == "__main__":
    main()
