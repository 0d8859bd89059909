"""The GPU's part of `make bench`: times one training iteration with the settings of the paper's Tables 4 and 5, beside
the paper's times; then an iteration of dualmcmc and of PyTorch's fastest mode at several widths, in TF32 and bf16.

PyTorch runs bench_torch.py --device cuda: channels_last, cudnn.benchmark, autocast for bf16. The fastest of three modes
is reported: eager; graph, the whole iteration captured as one CUDA graph; compile, the same after torch.compile of the
three networks, which takes minutes and is done at the largest width alone. Each mode takes turns with dualmcmc; times
are medians. A mode that takes more than five minutes for a turn is left out, and so is a width that does not fit the
memory. The largest width comes first.

TFLOP/s are nominal: the MACs of the authors' networks, two operations each, however a program computes them. Executed
counts those that dualmcmc executes: average pooling after a 3x3 convolution leaves a quarter of its MACs, and 1x1
convolutions run at the lower resolution. The peak is that of one large GEMM in PyTorch (cuBLAS) in the same precision.
"""
import os
import statistics
import subprocess
import sys
import tempfile
import threading

from bench_common import PARTS, PROGRAM, Server, encoder_macs, has_torch, iteration_gflop, nominal_gflop, width_flags

WIDTHS = (512, 256, 128, 64)
TURN_SECONDS = 300
PRECISIONS = ("tf32", "bf16")
MODES = ("eager", "graph", "compile")
# (steps_x, steps_z): the paper's seconds per iteration (widths 512/512/128, batch 100, z-chain started at the encoder).
PAPER = {(30, 10): 1.594, (30, 30): 2.112, (10, 10): 0.861, (20, 10): 1.241, (50, 10): 2.454}


def all_widths(width):
    """Generator, EBM, encoder."""
    return width, width, max(1, width // 4)


def executed_gflop(width, batch=100, steps_x=30, steps_z=10, latent=128):
    """What dualmcmc executes in one iteration, counted as nominal_gflop counts the authors' networks."""
    ebm = 1024 * 27 * width + 256 * (3 * width + 18 * width**2) + 64 * 46 * width**2
    convolutions_3x3, convolutions_1x1 = (64 + 256 + 1024) * 18 * width**2, (16 + 64 + 256) * width**2
    generator = latent * 16 * width + convolutions_3x3 + convolutions_1x1 + 1024 * 27 * width
    return iteration_gflop(ebm, generator, encoder_macs(all_widths(width)[2], latent), batch, steps_x, steps_z)


def flags(width, steps_x=30, steps_z=10):
    return [*width_flags(all_widths(width)), "--steps-x", str(steps_x), "--steps-z", str(steps_z), "--device", "cuda"]


class GpuServer(Server):
    """A Server that keeps its error messages. On a GPU an idle one costs nothing: it is not stopped between turns."""

    def __init__(self, name, command):
        self.errors = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would fill up and block the program
        super().__init__(name, command, errors=self.errors)

    def iterate(self):
        timer = threading.Timer(TURN_SECONDS, self.process.kill)
        timer.start()
        try:
            return super().iterate()
        finally:
            timer.cancel()

    def end(self):
        """Returns the last line of the program's error messages, or else its exit code."""
        code = super().end()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1] if lines else f"exit code {code}"


def dualmcmc_server(width, precision, *more, **steps):
    return GpuServer("dualmcmc", [PROGRAM, "bench", "--serve", "--precision", precision, *more, *flags(width, **steps)])


def torch_sees_gpu():
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return has_torch() and subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def torch_servers(width, precision):
    """Yields one after the other: together they might not fit into the GPU's memory."""
    if torch_sees_gpu():
        for mode in MODES if width == WIDTHS[0] else MODES[:-1]:
            more = ["--precision", precision, "--mode", mode, *flags(width)]
            yield GpuServer(f"PyTorch, {mode}", [sys.executable, "bench_torch.py", "--serve", *more])


def take_turns(servers, rounds):
    """Returns the servers that ran, with their results; prints the last error of the others."""
    running = list(servers)
    for turn in range(rounds + 1):  # the first is the warm-up
        for server in list(running):
            result = server.iterate()
            if result is None:
                print(f"{server.name}: could not run ({server.end()})", flush=True)
                running.remove(server)
            elif turn > 0:
                server.results.append(result)
    for server in running:
        server.end()
    return running


def median(server, part="total"):
    return statistics.median(result.get(part, 0.0) for result in server.results)


def gemm_peak(precision):
    """TFLOP/s of a product of two 8192 x 8192 matrices; 0 without a PyTorch that sees the GPU."""
    if not torch_sees_gpu():
        return 0.0
    code = f"""
import torch, time
torch.backends.cuda.matmul.allow_tf32 = True
a = torch.randn(8192, 8192, device='cuda', dtype=torch.{'bfloat16' if precision == 'bf16' else 'float32'})
best = 1e9
for turn in range(30):
    torch.cuda.synchronize(); start = time.perf_counter()
    a @ a
    torch.cuda.synchronize(); best = min(best, time.perf_counter() - start)
print(2 * 8192**3 / best / 1e12)"""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def print_row(server, width, precision, peak, base):
    """base: dualmcmc's seconds. Executed TFLOP/s and their share of the peak are given for dualmcmc only."""
    total = median(server)
    columns = f"{nominal_gflop(all_widths(width)) / total / 1e3:10.1f}"
    if server.name == "dualmcmc":
        executed = executed_gflop(width) / total / 1e3
        columns += f"{executed:10.1f}" + (f"{executed / peak:9.2f}" if peak else "")
    columns = f"{columns:29}"
    memory = max(result.get("device_mib", 0) for result in server.results)
    print(f"{width:6} {precision:>5}  {server.name:18}{total:9.4f}{columns}{memory:9.0f}{total / base:8.2f}",
          flush=True)


def compare(width, precision, rounds, peak):
    """Prints a width's rows. Returns whether dualmcmc ran."""
    runs = [take_turns([dualmcmc_server(width, precision), peer], rounds) for peer in torch_servers(width, precision)]
    # Of a pair that did not last, the other program may have failed for want of memory, too.
    fastest = min((run for run in runs if len(run) == 2), key=lambda run: median(run[1]), default=None) \
        or take_turns([dualmcmc_server(width, precision)], rounds)
    if not fastest:
        return False
    for server in fastest:
        print_row(server, width, precision, peak, median(fastest[0]))
    for parts in take_turns([dualmcmc_server(width, precision, "--wait")], rounds):
        print(f"{'':14}parts: " + ", ".join(f"{part} {median(parts, part):.4f}" for part in PARTS[1:])
              + " (synchronised after each)", flush=True)
    return True


def paper_tables(rounds):
    print("Tables 4 and 5: seconds per iteration at widths 512/512/128, batch 100")
    print("   k_x   k_z   paper" + "".join(f"{precision:>10}" for precision in PRECISIONS))
    for (steps_x, steps_z), paper in PAPER.items():
        row = f"{steps_x:6}{steps_z:6}{paper:8.3f}"
        for precision in PRECISIONS:  # one after the other: a GPU may be set to one process at a time
            ran = take_turns([dualmcmc_server(512, precision, steps_x=steps_x, steps_z=steps_z)], rounds)
            row += f"{median(ran[0]):10.4f}" if ran else f"{'-':>10}"
        print(row, flush=True)
    print()


def main(rounds):
    paper_tables(rounds)
    columns = f"{'seconds':>9}{'TFLOP/s':>10}{'executed':>10}{'of peak':>9}{'MiB':>9}{'ratio':>8}"
    print(f"{'width':>6}{'':27}{columns}")
    peaks = {precision: gemm_peak(precision) for precision in PRECISIONS}
    print("GEMM peak, TFLOP/s: " + ", ".join(f"{precision} {peak:.0f}" for precision, peak in peaks.items()))
    ran = [compare(width, precision, rounds, peaks[precision]) for width in WIDTHS for precision in PRECISIONS]
    if not all(ran):
        sys.exit("bench: dualmcmc did not run at each width and precision")


if __name__ == "__main__":
    main(int(os.environ.get("ROUNDS", "3")))
