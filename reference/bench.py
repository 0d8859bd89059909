"""`make bench`: times one training iteration of dualmcmc and of PyTorch, taking turns; prints medians and their ratio.
Then prints how dualmcmc's time scales with width, batch and steps.

PyTorch runs bench_torch.py in two configurations: as installed, and 'tuned' with the environment given in its
docstring. Without PyTorch, dualmcmc is timed alone. With a GPU, the tables of bench_gpu.py are printed instead.
Arguments after -- go to both programs, for example: bench.py --rounds 3 -- --steps-x 50

GFLOP/s are nominal: the MACs of the authors' networks, two operations each, even if a program needs fewer.
The peak is that of a loop of independent fused multiply-adds on all threads (peak.cpp).
"""
import argparse
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys

import bench_gpu
from bench_common import HERE, PARTS, PROGRAM, Server, has_torch, nominal_gflop, width_flags

TUNED = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8589934592",
         "MALLOC_TOP_PAD_": "268435456"}
DEFAULT_WIDTHS = 32, 32, 16


class PausedServer(Server):
    """A Server that is stopped between its turns: its idle OpenMP threads would spin and slow the other programs down.

    Its threads are bound to cores. Otherwise PyTorch's threads, which all wake on one core, sometimes stay there, and
    the turn takes twice as long.
    """

    def __init__(self, name, command, environment=None):
        super().__init__(name, command, {"OMP_PROC_BIND": "true", **os.environ, **(environment or {})})

    def iterate(self):
        self.process.send_signal(signal.SIGCONT)
        seconds = super().iterate()
        if seconds is None:
            sys.exit(f"bench: {self.name} ended with exit code {self.process.wait()}")
        self.process.send_signal(signal.SIGSTOP)
        # The total leaves out the time to draw the images, which belongs to no part.
        return {**seconds, "total": sum(seconds.get(part, 0.0) for part in PARTS[1:])}

    def peak_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        return super().end()


def measured_peak(threads):
    """GFLOP/s of fp32 multiply-adds on `threads` threads."""
    source, program = os.path.join(HERE, "peak.cpp"), os.path.join(HERE, "../build/peak")
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    subprocess.run([*compiler, "-O2", "-std=c++20", "-fopenmp", source, "-o", program], check=True)
    return float(subprocess.run([program, str(threads)], check=True, capture_output=True, text=True).stdout)


def slashed(widths):
    return "/".join(map(str, widths))


def print_row(server, base, gflop, peak):
    """gflop: nominal, of one iteration; None leaves out the speed."""
    medians = [statistics.median(result.get(part, 0.0) for result in server.results) for part in PARTS]
    speed = f"{gflop / medians[0]:9.0f}{gflop / medians[0] / peak:9.2f}" if gflop else " " * 18
    print(f"{server.name:24}" + "".join(f"{value:11.3f}" for value in medians) + f"{server.peak_mib():11.0f}{speed}"
          + f"{medians[0] / base:8.2f}")


def compare(widths, rounds, threads, peak, more):
    flags = [*width_flags(widths), "--threads", str(threads), *more]
    servers = [PausedServer("dualmcmc", [PROGRAM, "bench", "--serve", *flags])]
    if has_torch():
        torch = [sys.executable, "bench_torch.py", "--serve", *flags]
        servers += [PausedServer("PyTorch, as installed", torch), PausedServer("PyTorch, tuned", torch, TUNED)]
    for server in servers:
        server.iterate()  # warm-up
    for _ in range(rounds):
        for server in servers:
            server.results.append(server.iterate())
    print(f"\nwidths {slashed(widths)}, {threads} threads, medians of {rounds} turns, seconds {' '.join(more)}")
    columns = f"{'peak MiB':>11}{'GFLOP/s':>9}{'of peak':>9}{'ratio':>8}"
    print(f"{'':24}" + "".join(f"{part:>11}" for part in PARTS) + columns)
    base = statistics.median(result["total"] for result in servers[0].results)
    for server in servers:
        print_row(server, base, None if more else nominal_gflop(widths), peak)
        server.end()
    sys.stdout.flush()


def print_scaling(threads, peak):
    """One row for each setting: the faster of two iterations of dualmcmc."""
    print("\ntime of an iteration by width, batch and steps (dualmcmc alone)")
    print(f"{'widths':>12}{'batch':>7}{'k_x':>5}{'k_z':>5}{'seconds':>10}{'GFLOP/s':>9}{'of peak':>9}{'peak MiB':>10}")
    settings = [((width, width, max(1, width // 2)), 100, 30, 10) for width in (16, 32, 64, 128)]
    settings += [(DEFAULT_WIDTHS, batch, 30, 10) for batch in (25, 50, 200)]
    settings += [(DEFAULT_WIDTHS, 100, steps_x, 10) for steps_x in (10, 50)] + [(DEFAULT_WIDTHS, 100, 30, 30)]
    for widths, batch, steps_x, steps_z in settings:
        flags = [*width_flags(widths), "--threads", str(threads), "--batch", str(batch), "--steps-x", str(steps_x),
                 "--steps-z", str(steps_z), "--iterations", "2"]
        output = subprocess.run([PROGRAM, "bench", *flags], check=True, capture_output=True, text=True).stdout
        results = [json.loads(line) for line in output.splitlines()[1:]]
        seconds = min(result["total"] for result in results)
        speed = nominal_gflop(widths, batch, steps_x, steps_z) / seconds
        print(f"{slashed(widths):>12}{batch:7}{steps_x:5}{steps_z:5}{seconds:10.3f}{speed:9.0f}{speed / peak:9.2f}"
              f"{results[-1]['peak_mib']:10.0f}", flush=True)


def smallest_iteration(device):
    flags = [*width_flags((16, 16, 8)), "--batch", "1", "--steps-x", "1", "--steps-z", "1"]
    command = [PROGRAM, "bench", "--device", device, "--iterations", "1", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def usable_threads():
    """As many as dualmcmc takes: it knows the quota of a container, too."""
    return int(re.search(r"(\d+) thread", smallest_iteration("cpu").stdout)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed iterations of each program")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all that may be used)")
    parser.add_argument("--widths", default="64/64/32,32/32/16", help="generator/EBM/encoder, comma-separated")
    parser.add_argument("--no-growth", action="store_true", help="skip the table of times by width, batch and steps")
    parser.add_argument("--cpu", action="store_true", help="time the CPU even if a GPU is available")
    parser.add_argument("--gpu", action="store_true", help="fail if no GPU can be used, in place of timing the CPU")
    parser.add_argument("more", nargs="*", help="after --: flags for both programs")
    arguments = parser.parse_args()
    if not arguments.cpu:
        trial = smallest_iteration("cuda")
        if trial.returncode == 0:
            return bench_gpu.main(arguments.rounds)
        if arguments.gpu:
            sys.exit(trial.stderr.strip() or f"bench: dualmcmc ended on the GPU with exit code {trial.returncode}")
    if not has_torch():
        print("PyTorch is not installed (Debian: python3-torch): timing dualmcmc alone")
    threads = arguments.threads or usable_threads()
    peak = measured_peak(threads)
    print(f"peak of {threads} threads: {peak:.0f} GFLOP/s fp32")
    for text in arguments.widths.split(","):
        widths = tuple(int(width) for width in text.split("/"))
        compare(widths, arguments.rounds, threads, peak, arguments.more)
    if not arguments.no_growth and not arguments.more:
        print_scaling(threads, peak)


if __name__ == "__main__":
    main()
