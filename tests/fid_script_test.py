#!/usr/bin/env python3
"""Tests of reference/fid.py on stand-ins: for the program, and for torch-fidelity, pytorch-fid and clean-fid, which
pass, fail, or are missing.

    python3 tests/fid_script_test.py

The stand-ins have the interfaces of torch-fidelity 0.3, pytorch-fid 0.3 and clean-fid 0.1, as their sources show them.
Where build/dualmcmc exists, it draws and writes the images in one of the tests.
"""
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Writes 12 images by export and --count by sample; samples that are there stay. One call a line goes to calls.txt.
PROGRAM = """#!/bin/bash
(IFS='|'; echo "$*") >>"$0.calls"
command=$1; shift
count=12 kind=both
while [ $# -gt 0 ]; do
    case $1 in --out) out=$2;; --count) count=$2;; --kind) kind=$2;; esac; shift 2
done
[ -e "$0.fails.$command" ] && { echo 'dualmcmc: no' >&2; exit 1; }
[ "$command" = export ] && kinds=. || kinds=$kind
[ "$kinds" = both ] && kinds='generator revised'
for kind in $kinds; do
    mkdir -p "$out/$kind"
    for ((i = 0; i < count; i++)); do
        printf -v name '%s/%06d.png' "$out/$kind" $i
        [ -e "$name" ] || { : >"$name"; echo "$name" >>"$0.drawn"; }
        [ "$command $i" = "sample 3" ] && [ -e "$0.hangs" ] && {
            trap 'echo INT >>"$0.signals"; exit 130' INT; trap 'echo TERM >>"$0.signals"; exit 143' TERM
            : >"$0.waits"; for ((t = 0; t < 1500; t++)); do sleep 0.01; done; exit 1; }
    done
done
exit 0
"""

TORCH = """class cuda:
    def is_available(): return False
device = str
"""
TORCH_FIDELITY = """import json, os
def calculate_metrics(**settings):
    counts = [len(os.listdir(settings[name])) for name in ('input1', 'input2')]
    assert set(settings) <= {'input1', 'input2', 'cuda', 'fid', 'kid', 'isc', 'kid_subset_size', 'isc_splits'}
    assert min(counts) >= settings['kid_subset_size'], 'KID subset size cannot be smaller than the number of samples'
    with open(__file__ + '.calls', 'a') as out:
        out.write(json.dumps(settings) + '\\n')
    revised = os.path.basename(settings['input1']) == 'revised'
    return {'frechet_inception_distance': 7.25 if revised else 8.5,
            'kernel_inception_distance_mean': 0.0012, 'kernel_inception_distance_std': 0.0003,
            'inception_score_mean': 8.0, 'inception_score_std': 0.125}
"""
PYTORCH_FID = """import os, sys
a, b, flag, device = sys.argv[1:]
assert flag == '--device' and os.listdir(a) and os.listdir(b)
print('FID: ', 9.75 if device == 'cpu' else -1)
"""
CLEAN_FID = """def compute_fid(fdir1, fdir2, device): return 11.5 if device == 'cpu' else -1
def compute_kid(fdir1, fdir2, device): return 0.002
"""
MODULES = {"torch-fidelity": {"torch_fidelity.py": TORCH_FIDELITY},
           "pytorch-fid": {"pytorch_fid/__init__.py": "", "pytorch_fid/fid_score.py": "",
                           "pytorch_fid/__main__.py": PYTORCH_FID},
           "clean-fid": {"cleanfid/__init__.py": "", "cleanfid/fid.py": CLEAN_FID}}


class Project(unittest.TestCase):
    """Each test has a folder of its own, whose name has spaces, with a project, a run and a folder of modules. Python
    runs without the site's packages."""

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="dualmcmc fid "))
        self.addCleanup(shutil.rmtree, self.root)
        for folder in "reference", "build", "modules", "a run/checkpoints", "my data":
            (self.root / folder).mkdir(parents=True)
        shutil.copy(ROOT / "reference/fid.py", self.root / "reference")
        self.program = self.root / "build/dualmcmc"
        self.program.write_text(PROGRAM)
        self.program.chmod(0o755)
        self.checkpoint = self.root / "a run/checkpoints/iteration-000007.safetensors"
        self.out = self.root / "a run/fid/iteration-000007"
        self.write_checkpoint(data="my data")

    def write_checkpoint(self, **settings):
        header = json.dumps({"__metadata__": {"architecture": "cifar10", "seed": "5", **settings}}).encode()
        self.checkpoint.write_bytes(struct.pack("<Q", len(header)) + header)

    def install(self, *packages):
        (self.root / "modules/torch.py").write_text(TORCH)
        for package in packages:
            for name, text in MODULES[package].items():
                path = self.root / "modules" / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)

    def command(self, *arguments):
        def hear_interrupts():  # a shell's background jobs, such as these tests, ignore them
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        return ([sys.executable, "-S", "reference/fid.py", self.checkpoint, *arguments],
                {"cwd": self.root, "preexec_fn": hear_interrupts, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                 "text": True,
                 "env": {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.root / "modules"),
                         "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}})

    def run_script(self, *arguments):
        """(exit code, what it printed, its last line on stderr)"""
        command, settings = self.command(*arguments)
        result = subprocess.run(command, timeout=60, **settings)
        return result.returncode, result.stdout, (result.stderr.splitlines() or [""])[-1]

    def beside_program(self, suffix):
        """A file of the program's stand-in."""
        return self.program.with_name(self.program.name + suffix)

    def lines(self, suffix):
        """What the stand-in has noted."""
        path = self.beside_program(suffix)
        return path.read_text().splitlines() if path.exists() else []

    def calls(self):
        """The settings of each call of torch-fidelity's stand-in."""
        return [json.loads(line) for line in (self.root / "modules/torch_fidelity.py.calls").read_text().splitlines()]

    def rows(self, printed):
        """{kind: its other columns} of the table."""
        return {line.split()[0]: line.split()[1:] for line in printed.splitlines()
                if line.startswith(("generator", "revised"))}


class FidScript(Project):
    """The script, on stand-ins."""

    def test_torch_fidelity(self):
        self.install("torch-fidelity", "pytorch-fid", "clean-fid")
        code, printed, error = self.run_script("--count", "20")
        self.assertEqual(code, 0, error)
        self.assertIn("iteration-000007.safetensors against 12 training images of my data, by torch-fidelity on the "
                      "CPU\n", printed)
        self.assertEqual(self.rows(printed), {"generator": "20 8.500 1.200 ± 0.300 8.000 ± 0.125".split(),
                                              "revised": "20 7.250 1.200 ± 0.300 8.000 ± 0.125".split()})
        self.assertIn("KID is over subsets of 12 images, not of 1000.", printed)
        self.assertIn("compare it with that of 20 samples alone", printed)
        self.assertEqual((self.out / "fid.txt").read_text(), printed)
        export, sample = (line.split("|") for line in self.lines(".calls"))
        self.assertEqual(export, ["export", "--data", "my data", "--split", "train", "--architecture", "cifar10",
                                  "--seed", "1", "--out", f"{self.out}/real.part"])
        self.assertEqual(sample, ["sample", "--model", str(self.checkpoint), "--count", "20", "--kind", "both",
                                  "--data", "my data", "--device", "auto", "--out", str(self.out)])
        self.assertEqual(len(self.calls()), 2)
        for kind, call in zip(("generator", "revised"), self.calls()):
            self.assertEqual(call, {"input1": f"{self.out}/{kind}", "input2": f"{self.out}/real", "cuda": False,
                                    "fid": True, "kid": True, "isc": True, "kid_subset_size": 12, "isc_splits": 10})

    def test_a_count_below_the_kid_subset_and_one_above(self):
        self.install("torch-fidelity")
        script = self.root / "reference/fid.py"
        script.write_text(script.read_text().replace("KID_SUBSET = 1000", "KID_SUBSET = 8"))
        for count, subset in ("3", 3), ("8", 8), ("9", 8):
            code, printed, error = self.run_script("--count", count, "--kind", "revised")
            self.assertEqual(code, 0, error)
            self.assertEqual(self.calls()[-1]["kid_subset_size"], subset)
            self.assertEqual("KID is over subsets" in printed, subset == 3)

    def test_pytorch_fid(self):
        self.install("pytorch-fid", "clean-fid")
        code, printed, error = self.run_script("--count", "4", "--kind", "revised")
        self.assertEqual(code, 0, error)
        self.assertEqual(self.rows(printed), {"revised": ["4", "9.750", "–", "–"]})
        self.assertIn("by pytorch-fid", printed)
        self.assertIn("computes neither KID nor IS", printed)

    def test_clean_fid(self):
        self.install("clean-fid")
        code, printed, error = self.run_script("--count", "4", "--kind", "generator")
        self.assertEqual(code, 0, error)
        self.assertEqual(self.rows(printed), {"generator": ["4", "11.500", "2.000", "–"]})
        self.assertIn("comparable with clean-fid's alone", printed)

    def test_nothing_installed_stops_it_before_any_image(self):
        code, printed, error = self.run_script()
        self.assertEqual((code, printed, self.lines(".calls")), (1, "", []))
        self.assertRegex(error, "^fid: no program that computes the FID is installed: .*pip install torch-fidelity")
        self.assertFalse(self.out.exists())

    def test_what_does_not_load_is_passed_over_and_said(self):
        self.install("torch-fidelity", "clean-fid")
        (self.root / "modules/torch_fidelity.py").write_text("import torchvision_\n")
        command, settings = self.command("--count", "4")
        result = subprocess.run(command, **settings)
        self.assertEqual(result.returncode, 0)
        self.assertIn("by clean-fid", result.stdout)
        self.assertIn("torch-fidelity is installed but does not load (ModuleNotFoundError: No module named "
                      "'torchvision_'); taking clean-fid", result.stderr)
        (self.root / "modules/torch.py").unlink()
        code, printed, error = self.run_script("--count", "4", "--out", "other")
        self.assertEqual((code, printed), (1, ""))
        self.assertIn("clean-fid is installed but does not load", error)
        self.assertFalse((self.root / "other").exists())

    def test_a_program_that_fails(self):
        self.install("torch-fidelity")
        for command in "export", "sample":
            self.beside_program(".fails." + command).touch()
            code, printed, error = self.run_script("--count", "4")
            self.assertEqual((code, printed), (1, ""))
            self.assertEqual(error, f"fid: dualmcmc {command} failed (exit code 1), see above")
            self.beside_program(".fails." + command).unlink()
        self.program.write_text(PROGRAM.replace("i < count", "i < count - 1"))
        code, _, error = self.run_script("--count", "6", "--kind", "revised")
        self.assertEqual((code, error), (1, f"fid: {self.out}/revised holds 5 images, not 6"))
        self.assertFalse((self.out / "fid.txt").exists())

    def test_an_evaluator_that_fails_keeps_the_images(self):
        self.install("torch-fidelity")
        path = self.root / "modules/torch_fidelity.py"
        for text, message in (("raise OSError('no network')",
                               "torch-fidelity failed (OSError: no network); the images are complete"),
                              ("return {**found, 'frechet_inception_distance': float('nan')}", "the FID nan")):
            path.write_text(TORCH_FIDELITY.replace("    return {", "    found = {") + "    " + text + "\n")
            code, printed, error = self.run_script("--count", "4", "--kind", "revised")
            self.assertEqual((code, printed), (1, ""))
            self.assertIn(message, error)
        path.write_text(TORCH_FIDELITY)
        code, printed, _ = self.run_script("--count", "4", "--kind", "revised")
        self.assertEqual(self.rows(printed)["revised"][:2], ["4", "7.250"])
        self.assertEqual(len(self.lines(".drawn")), 12 + 4)

    def test_interrupted_and_run_again(self):
        self.install("torch-fidelity")
        hangs, waits = self.beside_program(".hangs"), self.beside_program(".waits")
        hangs.touch()
        for number, name in (signal.SIGINT, "INT"), (signal.SIGTERM, "TERM"):
            command, settings = self.command("--count", "6", "--kind", "revised")
            process = subprocess.Popen(command, **settings)
            while not waits.exists() and process.poll() is None:
                time.sleep(0.01)
            waits.unlink()
            process.send_signal(number)
            printed, error = process.communicate(timeout=60)
            self.assertEqual((process.returncode, printed), (128 + number, ""))
            self.assertIn("interrupted; run the same command again to continue", error)
        self.assertEqual(self.lines(".signals"), ["INT", "TERM"], "once each")
        self.assertEqual(len(self.lines(".drawn")), 12 + 4)
        hangs.unlink()
        code, printed, error = self.run_script("--count", "6", "--kind", "revised")
        self.assertEqual(code, 0, error)
        self.assertEqual(self.rows(printed)["revised"][:2], ["6", "7.250"])
        self.assertEqual(len(self.lines(".drawn")), 12 + 6, "no image is drawn twice")
        self.assertEqual([line.split("|")[0] for line in self.lines(".calls")], ["export"] + 3 * ["sample"])

    def test_killed_it_takes_its_program_with_it(self):
        self.install("torch-fidelity")
        hangs, waits = self.beside_program(".hangs"), self.beside_program(".waits")
        hangs.touch()
        command, settings = self.command("--count", "6")
        process = subprocess.Popen(command, **settings)
        while not waits.exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.communicate()  # until its program has closed the pipes, too
        for _ in range(100):
            if self.lines(".signals"):
                break
            time.sleep(0.01)
        self.assertEqual(self.lines(".signals"), ["TERM"])

    def test_training_images_of_other_data_are_not_taken(self):
        self.install("torch-fidelity")
        real = self.out / "real"
        (self.out / "real.part").mkdir(parents=True)  # as if export had been killed
        (self.out / "real.part/000099.png").touch()
        self.assertEqual(self.run_script("--count", "4")[0], 0)
        self.assertEqual(len(list(real.iterdir())), 12)
        self.assertEqual(self.run_script("--count", "4", "--data", str(self.root / "my data"))[0], 0)
        code, _, error = self.run_script("--count", "4", "--data", "shapes")
        self.assertEqual(code, 1)
        self.assertIn(f"{real} holds images of {self.root}/my data, cifar10, seed 1, not of shapes, cifar10, seed 5",
                      error)
        (self.out / "real.txt").unlink()
        self.assertIn("holds images of unknown images", self.run_script("--count", "4")[2])

    def test_what_was_not_trained_is_not_drawn(self):
        self.install("torch-fidelity")
        for settings, kinds in (({"learn-ebm": "false"}, ["generator"]), ({"learn-generator": "false"}, ["revised"]),
                                ({"architecture": "celeba64"}, ["generator", "revised"])):
            shutil.rmtree(self.out, ignore_errors=True)
            self.write_checkpoint(data="my data", **settings)
            code, printed, error = self.run_script("--count", "4")
            self.assertEqual(code, 0, error)
            self.assertEqual(list(self.rows(printed)), kinds)
        self.assertIn("--architecture|celeba64", self.lines(".calls")[-2])

    def test_mistakes_are_named_before_any_image(self):
        self.install("torch-fidelity")
        (self.root / "text").write_text("no checkpoint at all")
        blocked = self.root / "blocked"
        blocked.touch()
        for arguments, message in ((["--count", "1"], "--count 1: must be at least 2"),
                                   (["--program", "text"], "is not a program; build it first: make"),
                                   (["--program", "my data"], "is not a program; build it first: make"),
                                   (["--out", "blocked/below"], "--out")):
            code, _, error = self.run_script(*arguments)
            self.assertEqual(code, 1)
            self.assertIn(message, error)
        self.write_checkpoint()
        self.assertIn("give --data", self.run_script()[2])
        for text, message in ((b"no checkpoint at all", "not a checkpoint"), (b"", "not a checkpoint"),
                              (b"\2\0\0\0\0\0\0\0[]", "not a checkpoint"), (None, "No such file")):
            self.checkpoint.write_bytes(text) if text is not None else self.checkpoint.unlink()
            code, _, error = self.run_script()
            self.assertEqual(code, 1)
            self.assertIn(message, error)
        self.assertEqual(self.run_script("--kind", "none")[0], 2)
        self.assertEqual(self.lines(".calls"), [])


class RealProgram(Project):
    """The program draws and writes the images; torch-fidelity is a stand-in."""

    def test_the_real_program(self):
        program = ROOT / "build/dualmcmc"
        if not program.exists():
            self.skipTest("build/dualmcmc is not built")
        self.install("torch-fidelity")
        header = "{'descr': '|u1', 'fortran_order': False, 'shape': (12, 32, 32, 3), }".ljust(117) + "\n"
        (self.root / "images.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() +
                                               bytes(index % 251 for index in range(12 * 32 * 32 * 3)))
        widths = "--width-generator 2 --width-ebm 2 --width-encoder 1 --latent 3 --batch 2 --steps-x 1 --steps-z 1"
        subprocess.run([program, "train", "--preset", "demo", *widths.split(), "--sampler-steps", "2", "--iterations",
                        "1", "--device", "cpu", "--data", "images.npy", "--out", "trained"], check=True,
                       **self.command()[1])
        self.checkpoint = self.root / "trained/checkpoints/iteration-000001.safetensors"
        flags = "--program", program, "--device", "cpu", "--count"
        for count in "5", "7", "7":
            code, printed, error = self.run_script(*flags, count)
            self.assertEqual(code, 0, error)
            self.assertIn("against 12 training images of images.npy", printed)
            self.assertEqual([columns[0] for columns in self.rows(printed).values()], [count, count])
        out = self.root / "trained/fid/iteration-000001"
        for folder, count in ("real", 12), ("generator", 7), ("revised", 7):
            self.assertEqual(len(list((out / folder).glob("0000??.png"))), count)
        code, _, error = self.run_script(*flags, "4")
        self.assertEqual((code, error), (1, "fid: dualmcmc sample failed (exit code 1), see above"))


if __name__ == "__main__":
    unittest.main()
