"""`make bench`: one training iteration of this program and of PyTorch, turn by turn in one run; medians and their ratio.

PyTorch runs bench_torch.py twice over: as installed, and 'tuned' with the environment of its docstring. Where PyTorch is missing,
this program is timed alone. Arguments after -- go to both programs, for example: bench.py --rounds 3 -- --steps-x 50
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
TUNED = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8589934592", "MALLOC_TOP_PAD_": "268435456"}
PARTS = ("total", "x_chain", "z_chain", "generator", "encoder", "ebm")


class Server:
    """A program that runs one iteration for each line it is sent, and answers with the seconds of its parts.

    It is stopped between its turns: OpenMP threads that wait for work would spin and take the cores from the others.
    """

    def __init__(self, name, command, environment=None):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE,
                                        env={**os.environ, **(environment or {})})
        self.results = []

    def iterate(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench: {self.name} ended with exit code {self.process.wait()}")
        seconds = {part: value for part, value in json.loads(line).items() if isinstance(value, (int, float))}
        self.process.send_signal(signal.SIGSTOP)
        seconds.setdefault("total", sum(value for part, value in seconds.items() if part != "peak_mib"))
        return seconds

    def peak_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def compare(widths, rounds, threads, more):
    generator, ebm, encoder = widths
    flags = ["--width-generator", str(generator), "--width-ebm", str(ebm), "--width-encoder", str(encoder), "--threads", str(threads), *more]
    servers = [Server("dualmcmc", [os.path.join(HERE, "../build/dualmcmc"), "bench", "--serve", *flags])]
    if importlib.util.find_spec("torch"):
        torch = [sys.executable, "bench_torch.py", "--serve", *flags]
        servers += [Server("PyTorch, as installed", torch), Server("PyTorch, tuned", torch, TUNED)]
    for server in servers:
        server.iterate()  # not counted
    for _ in range(rounds):
        for server in servers:
            server.results.append(server.iterate())
    print(f"\nwidths {generator}/{ebm}/{encoder}, {threads} threads, medians of {rounds} turns, seconds {' '.join(more)}")
    print(f"{'':24}" + "".join(f"{part:>11}" for part in PARTS) + f"{'peak MiB':>11}{'ratio':>8}")
    base = statistics.median(result["total"] for result in servers[0].results)
    for server in servers:
        medians = [statistics.median(result.get(part, 0.0) for result in server.results) for part in PARTS]
        print(f"{server.name:24}" + "".join(f"{value:11.3f}" for value in medians) + f"{server.peak_mib():11.0f}{medians[0] / base:8.2f}")
        server.process.send_signal(signal.SIGCONT)
        server.process.stdin.close()
        server.process.wait()
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--widths", default="64/64/32", help="generator/EBM/encoder, several joined by commas")
    parser.add_argument("more", nargs="*", help="after --: flags for both programs")
    arguments = parser.parse_args()
    if not importlib.util.find_spec("torch"):
        print("PyTorch is not installed (Debian: python3-torch): timing this program alone")
    for widths in arguments.widths.split(","):
        compare(tuple(int(width) for width in widths.split("/")), arguments.rounds, arguments.threads, arguments.more)


if __name__ == "__main__":
    main()
