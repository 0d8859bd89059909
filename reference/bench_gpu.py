"""`make bench` where a GPU answers: one training iteration of this program and of PyTorch's best configuration on it, at several widths, in TF32
and bf16; then the time rows of the paper's Tables 4 and 5 beside the paper's.

PyTorch runs as bench_torch.py --device cuda: channels_last, cudnn.benchmark, autocast for bf16, in three modes, of which the quickest is
reported: eager; graph, the whole iteration recorded as one CUDA graph; compile, torch.compile of the three networks, recorded likewise.
Each takes turns with this program; figures are medians. TFLOP/s are nominal, the products of the release's networks however a program does them, and real, those
that this program does: pooling after a 3x3 convolution leaves a quarter of it, 1x1 convolutions run at the lower resolution. The peak is
that of one large product in PyTorch (cuBLAS) in the same precision.
"""
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile

from bench import HERE, PARTS, PROGRAM, nominal_gflop

WIDTHS = (64, 128, 256, 512)
PRECISIONS = ("tf32", "bf16")
MODES = ("eager", "graph", "compile")
# (steps_x, steps_z): seconds an iteration of the paper (512/512/128, batch 100), with the encoder's start.
PAPER = {(30, 10): 1.594, (30, 30): 2.112, (10, 10): 0.861, (20, 10): 1.241, (50, 10): 2.454}


def real_gflop(width, batch=100, steps_x=30, steps_z=10, latent=128):
    """Of the products that this program does, counted as nominal_gflop counts the networks'."""
    encoder = max(1, width // 4)
    energy = 1024 * 27 * width + 256 * (3 * width + 18 * width**2) + 64 * 46 * width**2
    generate = latent * 16 * width + (64 + 256 + 1024) * 18 * width**2 + (16 + 64 + 256) * width**2 + 1024 * 27 * width
    encode = 1024 * 27 * encoder + 3 * 256 * 16 * 2 * encoder**2 + 16 * 8 * encoder * 2 * latent
    products = (2 * 2 * steps_x + 7) * energy + (2 * steps_z + 2 + 6) * generate + (1 + 6) * encode
    return 2e-9 * batch * products


def flags(width, steps_x=30, steps_z=10):
    return ["--width-generator", str(width), "--width-ebm", str(width), "--width-encoder", str(max(1, width // 4)), "--steps-x", str(steps_x),
            "--steps-z", str(steps_z), "--device", "cuda"]


class Program:
    """One that answers each line with the seconds of an iteration, as JSON. On a GPU one that waits disturbs nobody."""

    def __init__(self, name, command):
        self.name, self.results = name, []
        self.errors = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would fill, and stop it
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, cwd=HERE)

    def iterate(self):
        """None where it ended."""
        try:
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        for line in self.process.stdout:
            if '"total"' in line:
                return json.loads(line)
        return None

    def end(self):
        self.process.communicate()  # it passes over a pipe that is broken
        self.errors.seek(0)
        error = self.errors.read().strip().splitlines()
        return error[-1] if error else f"exit code {self.process.returncode}"


def program(width, precision, *more, **steps):
    return Program("dualmcmc", [PROGRAM, "bench", "--serve", "--precision", precision, *more, *flags(width, **steps)])


def torch_programs(width, precision):
    """One after the other: together they might not fit the GPU."""
    if importlib.util.find_spec("torch"):
        for mode in MODES:
            yield Program(f"PyTorch, {mode}", [sys.executable, "bench_torch.py", "--serve", "--precision", precision, "--mode", mode, *flags(width)])


def take_turns(programs, rounds):
    """Those that ran, with their results; the others are named with their last words."""
    going = list(programs)
    for turn in range(rounds + 1):  # the first is not counted
        for one in list(going):
            result = one.iterate()
            if result is None:
                print(f"{one.name}: could not run ({one.end()})", flush=True)
                going.remove(one)
            elif turn > 0:
                one.results.append(result)
    for one in going:
        one.end()
    return going


def median(one, part="total"):
    return statistics.median(result.get(part, 0.0) for result in one.results)


def matrix_peak(precision):
    """TFLOP/s of a product of two matrices of 8192 x 8192; 0 without PyTorch."""
    if not importlib.util.find_spec("torch"):
        return 0.0
    code = f"""
import torch, time
torch.backends.cuda.matmul.allow_tf32 = True
a = torch.randn(8192, 8192, device='cuda', dtype=torch.{'bfloat16' if precision == 'bf16' else 'float32'})
best = 1e9
for turn in range(30):
    torch.cuda.synchronize(); start = time.perf_counter(); a @ a; torch.cuda.synchronize(); best = min(best, time.perf_counter() - start)
print(2 * 8192**3 / best / 1e12)"""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def compare(width, precision, rounds, peak):
    runs = [take_turns([program(width, precision), peer], rounds) for peer in torch_programs(width, precision)]
    runs = runs or [take_turns([program(width, precision)], rounds)]
    if any(not run or run[0].name != "dualmcmc" for run in runs):
        sys.exit("bench: dualmcmc did not run")
    best = min((run for run in runs if len(run) > 1), key=lambda run: median(run[1]), default=runs[0])
    for one in best:
        total = median(one)
        speeds = [nominal_gflop((width, width, max(1, width // 4))) / total / 1e3] + ([real_gflop(width) / total / 1e3] if one is best[0] else [])
        columns = "".join(f"{value:10.1f}" for value in speeds) + " " * 10 * (2 - len(speeds))
        share = f"{speeds[-1] / peak:9.2f}" if peak and one is best[0] else " " * 9
        memory = max(result.get("device_mib", 0) for result in one.results)
        print(f"{width:6} {precision:>5}  {one.name:18}{total:9.4f}{columns}{share}{memory:9.0f}{total / median(best[0]):8.2f}", flush=True)
    parts = take_turns([program(width, precision, "--wait")], rounds)[0]
    print(f"{'':14}parts: " + ", ".join(f"{part} {median(parts, part):.4f}" for part in PARTS[1:]) + " (waiting after each)", flush=True)


def main(rounds):
    print(f"{'width':>6}{'':>7} {'':19}{'seconds':>9}{'TFLOP/s':>10}{'real':>10}{'of peak':>9}{'MiB':>9}{'ratio':>8}")
    peaks = {precision: matrix_peak(precision) for precision in PRECISIONS}
    print("matrix peak, TFLOP/s: " + ", ".join(f"{precision} {peak:.0f}" for precision, peak in peaks.items()))
    for precision in PRECISIONS:
        for width in WIDTHS:
            compare(width, precision, rounds, peaks[precision])
    print("\nTables 4 and 5: seconds an iteration at widths 512/512/128, batch 100\n   k_x   k_z   paper" + "".join(f"{p:>10}" for p in PRECISIONS))
    for (steps_x, steps_z), paper in PAPER.items():
        row = [program(512, precision, steps_x=steps_x, steps_z=steps_z) for precision in PRECISIONS]
        seconds = [median(one) for one in take_turns(row, rounds)]
        print(f"{steps_x:6}{steps_z:6}{paper:8.3f}" + "".join(f"{value:10.4f}" for value in seconds), flush=True)


if __name__ == "__main__":
    main(int(os.environ.get("ROUNDS", "3")))
