#!/usr/bin/env python3
"""Kills a tiny training again and again, resumes it each time, and compares what it leaves with an uninterrupted run.

    python3 tests/soak.py build/dualmcmc [--kills 50] [--seed 1] [--iterations 200]

SIGKILL comes at a random moment after the start: in start-up, in an iteration, while a checkpoint, metrics.csv or a
picture is written. Counts, and prints as the last line:

    kills        how often the program was killed
    lost         iterations that a resumed run had to repeat beyond those since the last checkpoint that was due
    bits         that differ between the final checkpoints, and between the columns of metrics.csv that no clock decides

Exits with 0 if nothing was lost and no bit differs.
"""
import argparse
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

EVERY = 3  # iterations between checkpoints
KILLS_PER_RUN = 10  # a new run has its start-up and its first checkpoint killed, too
FLAGS = ["--preset", "demo", "--minutes", "0", "--width-generator", "2", "--width-ebm", "2", "--width-encoder", "1",
         "--latent", "2", "--batch", "2", "--steps-x", "1", "--steps-z", "1", "--sampler-batch", "4",
         "--start-z", "persistent", "--checkpoint-every", str(EVERY), "--eval-every", "40"]
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")


def command(program, run, iterations):
    flags = ["--resume"] if newest(run) is not None else FLAGS
    return [program, "train", *flags, "--iterations", str(iterations), "--out", str(run)]


def newest(run):
    """The iteration of the newest checkpoint; None if there is none."""
    names = [re.fullmatch(r"iteration-(\d{6,})\.safetensors", path.name) for path in run.glob("checkpoints/*")]
    found = [int(name[1]) for name in names if name]
    return max(found) if found else None


def iterations_seen(run):
    """The last whole row of metrics.csv: iterations that were done, whether or not a checkpoint holds them."""
    try:
        rows = (run / "metrics.csv").read_text().split("\n")[1:-1]
    except FileNotFoundError:
        return 0
    return int(rows[-1].split(",")[0]) if rows else 0


def read_checkpoint(path):
    """Its tensors by name, as bytes."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    del header["__metadata__"]
    at = 8 + length
    return {name: data[at + t["data_offsets"][0]:at + t["data_offsets"][1]] for name, t in header.items()}


def different_bits(a, b):
    if a.keys() != b.keys():
        return max(1, 8 * abs(sum(map(len, a.values())) - sum(map(len, b.values()))))
    return sum((int.from_bytes(a[name], "little") ^ int.from_bytes(b[name], "little")).bit_count() for name in a)


def timeless(run):
    """metrics.csv without the columns of seconds."""
    rows = [row.split(",") for row in (run / "metrics.csv").read_text().splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if not name.startswith("seconds")]
    return {"metrics": "\n".join(",".join(row[i] for i in kept if i < len(row)) for row in rows).encode()}


def train_to_the_end(program, run, iterations):
    result = subprocess.run(command(program, run, iterations), env=ENVIRONMENT, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"soak: the training in {run} did not go on (exit code {result.returncode}): {result.stderr}")


def kill_once(program, run, iterations, longest, dice):
    """Starts or resumes, kills after a random time; returns whether it was killed before it ended by itself."""
    with subprocess.Popen(command(program, run, iterations), env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True) as process:
        try:
            process.wait(timeout=dice.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        if process.returncode != 0:
            sys.exit(f"soak: a resumed training failed (exit code {process.returncode}): {process.stderr.read()}")
        return False


def kill_and_compare(program, folder, kills, iterations, longest, dice):
    """A run that is killed so many times; returns the iterations lost and the bits that differ from a whole run."""
    run, whole, killed, lost, step = folder / "killed", folder / "whole", 0, 0, iterations
    while killed < kills:
        if not kill_once(program, run, iterations, longest, dice):
            iterations += step
            continue
        killed += 1
        checkpoint, seen = newest(run), iterations_seen(run)
        due = seen // EVERY * EVERY
        # The row of an iteration is written before its checkpoint: that one may still be missing.
        lost += max(0, due - (checkpoint or 0) - (EVERY if seen == due else 0))
        print(f"  kill {killed}: at iteration {seen}, newest checkpoint {checkpoint}", flush=True)
    for path in run, whole:
        train_to_the_end(program, path, iterations)
    last = f"checkpoints/iteration-{iterations:06d}.safetensors"
    bits = different_bits(read_checkpoint(run / last), read_checkpoint(whole / last))
    bits += different_bits(timeless(run), timeless(whole))
    left = [str(path.relative_to(run)) for path in run.rglob("*.tmp")]
    print(f"{iterations} iterations, {kills} kills: {lost} iterations lost, {bits} bits differ"
          + (f"; left-over files: {', '.join(left)}" if left else ""), flush=True)
    return lost, bits


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the moments; they also depend on the machine")
    parser.add_argument("--iterations", type=int, default=200, help="added whenever a training ends before the kills")
    options = parser.parse_args()
    program, dice = str(pathlib.Path(options.program).resolve()), random.Random(options.seed)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dualmcmc-soak-"))
    try:
        start = time.monotonic()
        train_to_the_end(program, folder / "start-up", 1)
        longest = 2 * (time.monotonic() - start) + 0.2  # so that about half the kills come after the start-up
        lost = bits = 0
        for first in range(0, options.kills, KILLS_PER_RUN):
            kills = min(KILLS_PER_RUN, options.kills - first)
            counts = kill_and_compare(program, folder / str(first), kills, options.iterations, longest, dice)
            lost, bits = lost + counts[0], bits + counts[1]
        print(f"{options.kills} kills, {lost} iterations lost, {bits} bits differ")
        sys.exit(1 if lost or bits else 0)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
