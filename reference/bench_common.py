"""What bench.py and bench_gpu.py share: a server that runs iterations on request, the programs' flags, FLOP counts.

FLOP are nominal: the MACs of the authors' networks, two operations each, however a program computes them.
"""
import importlib.util
import json
import os
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.join(HERE, "../build/dualmcmc")
PARTS = ("total", "x_chain", "z_chain", "generator", "encoder", "ebm")


def has_torch():
    return importlib.util.find_spec("torch") is not None


def width_flags(widths):
    generator, ebm, encoder = widths
    return ["--width-generator", str(generator), "--width-ebm", str(ebm), "--width-encoder", str(encoder)]


class Server:
    """A program that runs one iteration for each input line and answers with its seconds, as one line of JSON."""

    def __init__(self, name, command, environment=None, errors=None):
        self.name, self.results = name, []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                        text=True, cwd=HERE, env=environment)

    def iterate(self):
        """Returns the answer, or None if the program has ended."""
        try:
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        for line in self.process.stdout:
            if '"total"' in line:  # skips PyTorch's first line, which only says that it is ready
                return json.loads(line)
        return None

    def end(self):
        """Closes the program's input, waits for it and returns its exit code."""
        self.process.communicate()  # ignores a broken pipe
        return self.process.returncode


def encoder_macs(width, latent):
    """One forward pass, one image."""
    return 1024 * 27 * width + 3 * 256 * 16 * 2 * width**2 + 16 * 8 * width * 2 * latent


def iteration_gflop(ebm, generator, encoder, batch, steps_x, steps_z):
    """One iteration with the second x-chain, from the MACs of each network's forward pass on one image.

    The gradient of an input or of a weight costs as much as the forward pass.
    """
    # EBM: both x-chains, forward and backward; E(x) for the log; both terms of Eq. 7, with weight gradients.
    ebm_passes = 2 * 2 * steps_x + 1 + 6
    # Generator: z-chain, forward and backward; g(z) for both x-chains; both terms of Eq. 10, with weight gradients.
    generator_passes = 2 * steps_z + 2 + 6
    # Encoder: start of the z-chain; both terms of Eq. 15, with weight gradients.
    encoder_passes = 1 + 6
    macs = ebm_passes * ebm + generator_passes * generator + encoder_passes * encoder
    return 2e-9 * batch * macs


def nominal_gflop(widths, batch=100, steps_x=30, steps_z=10, latent=128):
    """One iteration with the second x-chain; 148 TFLOP at the paper's settings."""
    generator, ebm, encoder = widths
    ebm_macs = 1024 * (27 * ebm + 9 * ebm**2) + 256 * (3 * ebm + 19 * ebm**2) + 4 * 64 * 9 * ebm**2
    generator_macs = latent * 16 * generator + (64 + 256 + 1024) * 19 * generator**2 + 1024 * 27 * generator
    return iteration_gflop(ebm_macs, generator_macs, encoder_macs(encoder, latent), batch, steps_x, steps_z)
