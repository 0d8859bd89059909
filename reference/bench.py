"""`make bench`: one training iteration of this program and of PyTorch, turn by turn in one run; medians and their ratio. Then, of this
program alone, how the time grows with width, batch and steps.

PyTorch runs bench_torch.py twice over: as installed, and 'tuned' with the environment of its docstring. Where PyTorch is missing,
this program is timed alone. Arguments after -- go to both programs, for example: bench.py --rounds 3 -- --steps-x 50

GFLOP/s are nominal: the products of the release's networks, two operations each, whatever a program saves by doing them otherwise. The
peak is that of a loop of nothing but fused multiply-adds on all threads (peak.cpp).
"""
import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.join(HERE, "../build/dualmcmc")
TUNED = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8589934592", "MALLOC_TOP_PAD_": "268435456"}
PARTS = ("total", "x_chain", "z_chain", "generator", "encoder", "ebm")


class Server:
    """A program that runs one iteration for each line it is sent, and answers with the seconds of its parts.

    It is stopped between its turns: OpenMP threads that wait for work would spin and take the cores from the others. Its threads are bound
    to cores: where they are not, PyTorch's, woken together on one core, now and then stay there, and a turn takes twice as long.
    """

    def __init__(self, name, command, environment=None):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE,
                                        env={"OMP_PROC_BIND": "true", **os.environ, **(environment or {})})
        self.results = []

    def iterate(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if '"ready"' in line:  # what PyTorch says first is no answer: it would run into the next turn's stop
            line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench: {self.name} ended with exit code {self.process.wait()}")
        seconds = {part: value for part, value in json.loads(line).items() if isinstance(value, (int, float))}
        self.process.send_signal(signal.SIGSTOP)
        return {**seconds, "total": sum(seconds.get(part, 0.0) for part in PARTS[1:])}  # drawing the images is nobody's part

    def peak_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def nominal_gflop(widths, batch=100, steps_x=30, steps_z=10, latent=128):
    """Of one iteration with the second x-chain; 146 TFLOP at the paper's settings. A gradient of an input, or of a weight, costs what the
    forward pass does."""
    generator, ebm, encoder = widths
    energy = 1024 * (27 * ebm + 9 * ebm**2) + 256 * (3 * ebm + 19 * ebm**2) + 4 * 64 * 9 * ebm**2
    generate = latent * 16 * generator + (64 + 256 + 1024) * 19 * generator**2 + 1024 * 27 * generator
    encode = 1024 * 27 * encoder + 3 * 256 * 16 * 2 * encoder**2 + 16 * 8 * encoder * 2 * latent
    # x-chains forward and back; E(x) for the log, and both terms of Eq. 7 with weight gradients.
    # z-chain forward and back; g(z) for both x-chains; Eq. 10 forward and back twice. Encoder: z-chain's start, Eq. 15 twice.
    products = (2 * 2 * steps_x + 7) * energy + (2 * steps_z + 2 + 6) * generate + (1 + 6) * encode
    return 2e-9 * batch * products


def measured_peak(threads):
    """GFLOP/s of fp32 multiply-adds on `threads` threads."""
    program = os.path.join(HERE, "../build/peak")
    subprocess.run([os.environ.get("CXX", "g++"), "-O2", "-std=c++20", "-fopenmp", os.path.join(HERE, "peak.cpp"), "-o", program], check=True)
    return float(subprocess.run([program, str(threads)], check=True, capture_output=True, text=True).stdout)


def program_flags(widths, threads, more):
    generator, ebm, encoder = widths
    return ["--width-generator", str(generator), "--width-ebm", str(ebm), "--width-encoder", str(encoder), "--threads", str(threads), *more]


def compare(widths, rounds, threads, peak, more):
    generator, ebm, encoder = widths
    flags = program_flags(widths, threads, more)
    servers = [Server("dualmcmc", [PROGRAM, "bench", "--serve", *flags])]
    if importlib.util.find_spec("torch"):
        torch = [sys.executable, "bench_torch.py", "--serve", *flags]
        servers += [Server("PyTorch, as installed", torch), Server("PyTorch, tuned", torch, TUNED)]
    for server in servers:
        server.iterate()  # not counted
    for _ in range(rounds):
        for server in servers:
            server.results.append(server.iterate())
    print(f"\nwidths {generator}/{ebm}/{encoder}, {threads} threads, medians of {rounds} turns, seconds {' '.join(more)}")
    print(f"{'':24}" + "".join(f"{part:>11}" for part in PARTS) + f"{'peak MiB':>11}{'GFLOP/s':>9}{'of peak':>9}{'ratio':>8}")
    base = statistics.median(result["total"] for result in servers[0].results)
    for server in servers:
        medians = [statistics.median(result.get(part, 0.0) for result in server.results) for part in PARTS]
        print(f"{server.name:24}" + "".join(f"{value:11.3f}" for value in medians) + f"{server.peak_mib():11.0f}"
              + (f"{'':18}" if more else f"{nominal_gflop(widths) / medians[0]:9.0f}{nominal_gflop(widths) / medians[0] / peak:9.2f}")
              + f"{medians[0] / base:8.2f}")
        server.process.send_signal(signal.SIGCONT)
        server.process.stdin.close()
        server.process.wait()
    sys.stdout.flush()


def grow(threads, peak):
    """One row for each setting: the least of two iterations of this program alone."""
    print("\nhow the time of an iteration grows (dualmcmc alone)")
    print(f"{'widths':>12}{'batch':>7}{'k_x':>5}{'k_z':>5}{'seconds':>10}{'GFLOP/s':>9}{'of peak':>9}{'peak MiB':>10}")
    usual = (32, 32, 16)
    settings = [((width, width, max(1, width // 2)), 100, 30, 10) for width in (16, 32, 64, 128)]
    settings += [(usual, batch, 30, 10) for batch in (25, 50, 200)] + [(usual, 100, steps, 10) for steps in (10, 50)] + [(usual, 100, 30, 30)]
    for widths, batch, steps_x, steps_z in settings:
        flags = program_flags(widths, threads, ["--batch", str(batch), "--steps-x", str(steps_x), "--steps-z", str(steps_z), "--iterations", "2"])
        lines = subprocess.run([PROGRAM, "bench", *flags], check=True, capture_output=True, text=True).stdout.splitlines()[1:]
        results = [json.loads(line) for line in lines]
        seconds = min(result["total"] for result in results)
        speed = nominal_gflop(widths, batch, steps_x, steps_z) / seconds
        print(f"{'/'.join(map(str, widths)):>12}{batch:7}{steps_x:5}{steps_z:5}{seconds:10.3f}{speed:9.0f}{speed / peak:9.2f}{results[-1]['peak_mib']:10.0f}",
              flush=True)


def gpu_answers():
    smallest = ["--width-generator", "16", "--width-ebm", "16", "--width-encoder", "8", "--batch", "1", "--steps-x", "1", "--steps-z", "1"]
    return subprocess.run([PROGRAM, "bench", "--device", "cuda", "--iterations", "1", *smallest], capture_output=True).returncode == 0


def main():
    import bench_gpu
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--widths", default="64/64/32,32/32/16", help="generator/EBM/encoder, several joined by commas")
    parser.add_argument("--no-growth", action="store_true", help="leave out how the time grows with width, batch and steps")
    parser.add_argument("--cpu", action="store_true", help="even where a GPU answers, whose tables are else printed (bench_gpu.py)")
    parser.add_argument("more", nargs="*", help="after --: flags for both programs")
    arguments = parser.parse_args()
    if not arguments.cpu and gpu_answers():
        return bench_gpu.main(arguments.rounds)
    if not importlib.util.find_spec("torch"):
        print("PyTorch is not installed (Debian: python3-torch): timing this program alone")
    peak = measured_peak(arguments.threads)
    print(f"peak of {arguments.threads} threads: {peak:.0f} GFLOP/s fp32")
    for widths in arguments.widths.split(","):
        compare(tuple(int(width) for width in widths.split("/")), arguments.rounds, arguments.threads, peak, arguments.more)
    if not arguments.no_growth and not arguments.more:
        grow(arguments.threads, peak)


if __name__ == "__main__":
    main()
