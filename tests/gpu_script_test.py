#!/usr/bin/env python3
"""Tests of reference/gpu.py (`make gpu`) on a machine without a GPU: stand-ins for the tools and programs that it runs
pass, fail, hang, or are missing.

    python3 tests/gpu_script_test.py

Where build/dualmcmc and build/dualmcmc_tests exist, their real output is parsed, too.
"""
import importlib.util
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The first g++ on the PATH that is not a compiler cache's link: such a link looks for the compiler on the PATH, which the
# tests replace.
COMPILER = next((path for folder in os.get_exec_path() if (path := shutil.which("g++", path=folder))
                 and os.path.basename(os.path.realpath(path)) not in ("ccache", "distcc", "sccache")), None)
if COMPILER is None:
    sys.exit("these tests need g++ on the PATH")

GPU_LINE = "Stand-in GPU, 9.0, 80000, 79000, 580.1, GPU-77aa"
PASSED_TESTS = "[==========] 7 tests from 1 test suite ran.\n[  PASSED  ] 7 tests.\n"
STEP = """device: CUDA, fp32: Stand-in
relative error                                                     double           CUDA, fp32
out.x_revised                                                   2.000e-14            1.000e-06
grad.netE.weight                                                3.000e-14            5.000e-05
agrees: 2 compared in double precision, 0 beyond the tolerance
ReLUs that rounding took across their kink: 4
"""
# What each stand-in does, as a shell script.
TOOLS = {
    "nvidia-smi": f"echo '{GPU_LINE}'",
    "nvcc": "echo 'Cuda compilation tools, release 13.0, V13.0.88'",
    "make": "echo made $*",
    "compute-sanitizer": f"printf '%s' '{PASSED_TESTS}'; echo '========= ERROR SUMMARY: 0 errors'",
}
PROGRAM = f"""case $1 in
check-step) cat <<'END'
{STEP}END
;;
train) for last; do :; done
mkdir -p $last/samples; touch $last/samples/iteration-7-samples.png $last/samples/iteration-7-reconstructions.png
echo '7/10  epoch 1  0.10 s/it'; echo 'iteration 7: statistics distance: generator 50.0' ;;
esac
"""


def runs(pid):
    """Whether a process is there, and not a dead one that nobody has waited for."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def load_script():
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "reference/gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Project(unittest.TestCase):
    """Each test has a project's folder of its own, with the script and stand-ins, and a PATH with nothing else but
    links to the ordinary tools."""

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="dualmcmc_gpu_"))
        self.addCleanup(shutil.rmtree, self.root)
        for folder in "reference", "build", "bin", "data":
            (self.root / folder).mkdir()
        shutil.copy(ROOT / "reference/gpu.py", self.root / "reference/gpu.py")
        for name in "one", "two":
            (self.root / f"reference/step_{name}.safetensors").touch()
        (self.root / "reference/bench.py").write_text("print(' 512  tf32  dualmcmc  0.5')\n")
        (self.root / "data/data_batch_1.bin").touch()
        (self.root / "torch.py").write_text("class cuda:\n    def is_available(): return False\n__version__ = '9.9'\n")
        for name in "bash", "sh", "cat", "mkdir", "touch", "sleep", "as", "ld", "env":
            os.symlink(shutil.which(name), self.root / "bin" / name)
        os.symlink(COMPILER, self.root / "bin/g++")
        (self.root / "bin/libcuda.so.1").touch()  # no driver, even where there is one
        for name, script in TOOLS.items():
            self.tool(name, script)
        self.program("dualmcmc", PROGRAM)
        self.program("dualmcmc_tests", f"printf '%s' '{PASSED_TESTS}'")

    def script(self, path, text):
        if path.is_symlink() or path.exists():
            path.unlink()
        path.write_text("#!/bin/bash\n" + text + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def tool(self, name, text):
        self.script(self.root / "bin" / name, text)

    def program(self, name, text):
        self.script(self.root / "build" / name, text)

    def run_script(self, *arguments, **environment):
        """(exit code, the page, what was printed)"""
        settings = {"PATH": str(self.root / "bin"), "CIFAR10_DIR": str(self.root / "data"),
                    "PYTHONPATH": str(self.root), "LD_LIBRARY_PATH": str(self.root / "bin"), **environment}
        result = subprocess.run([sys.executable, "reference/gpu.py", *arguments], cwd=self.root, env=settings, timeout=120,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        page = self.root / "runs/gpu/report.md"
        return result.returncode, page.read_text() if page.exists() else "", result.stdout

    def wait_for(self, condition):
        for _ in range(600):
            if condition():
                return
            time.sleep(0.1)
        self.fail("waited for a minute in vain")

    def verdicts(self, page):
        """{title: (verdict, detail)} of the page's table of parts."""
        table = page.split("| part | verdict |")[1].split("\n\n")[0]
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
        return {row[0]: (row[1], row[2]) for row in rows}


class GpuScript(Project):
    """The script, on stand-ins."""

    def test_all_parts_pass(self):
        code, page, printed = self.run_script()
        self.assertEqual(code, 0, printed)
        self.assertIn("**9 passed, 0 failed, 0 skipped**", page)
        for text in ("Stand-in GPU", "580.1", "release 13.0", "CUDA_ARCH=90", "7 tests", "| one | bf16 | 3e-14 | 1e-06, 5e-05 "
                     "| 4 | finite |", "| two | fp32 | 3e-14 | 1e-06, 5e-05 | 4 | agrees |", "512  tf32", "7/10  epoch 1",
                     "![samples](train/samples/iteration-7-samples.png)", "widths 512/512/128, CIFAR-10"):
            self.assertIn(text, page)
        self.assertTrue((self.root / "runs/gpu/train/samples/iteration-7-samples.png").exists(), "a link that leads nowhere")

    def test_a_part_that_fails_does_not_stop_the_next(self):
        self.tool("make", "[ $1 = -q ] && exit 0; echo 'src/main.cpp:7: error: no'; exit 2")
        self.program("dualmcmc_tests", "echo 'tests/a.cpp:9: Failure'; echo '[  FAILED  ] Gpu/A.b/CUDA, where'; exit 1")
        code, page, _ = self.run_script()
        verdicts = self.verdicts(page)
        self.assertEqual(code, 1)
        self.assertEqual(verdicts["build"], ("failed", "src/main.cpp:7: error: no"))
        self.assertEqual(verdicts["GPU tests"], ("failed", "tests/a.cpp:9: Failure (Gpu/A.b/CUDA)"))
        self.assertEqual(verdicts["training"][0], "passed")

    def test_after_a_failed_build_no_earlier_program_is_judged(self):
        self.tool("make", "echo 'src/main.cpp:7: error: no'; exit 2")
        (self.root / "build/dualmcmc_tests").unlink()
        code, page, _ = self.run_script("--parts", "build,tests,steps,train")
        verdicts = self.verdicts(page)
        self.assertEqual(code, 1)
        self.assertEqual(verdicts["GPU tests"][0], "skipped")
        for title in "step files against double precision", "training":
            self.assertEqual(verdicts[title], ("skipped", "the build failed, and build/dualmcmc is an earlier one"))

    def test_a_build_that_leaves_the_gpu_out_fails(self):
        reason = "building without the GPU: nvcc fails on cuda/kernels.cu, see above"
        self.tool("make", f"[ $1 = -q ] && exit 0; echo '{reason}' >&2; echo made")
        code, page, _ = self.run_script("--parts", "build,tests")
        self.assertEqual(code, 1)
        self.assertEqual(self.verdicts(page)["build"], ("failed", reason))

    def test_nvcc_where_the_makefile_finds_it(self):
        (self.root / "bin/nvcc").unlink()
        folder = self.root / "toolkit/bin"
        folder.mkdir(parents=True)
        self.script(folder / "nvcc", "echo 'Cuda compilation tools, release 12.9, V12.9.11'")
        _, page, _ = self.run_script("--parts", "build", CUDA_HOME=str(folder.parent))
        self.assertEqual(self.verdicts(page)["build"][0], "passed")
        self.assertIn("V12.9.11", page)

    def test_a_part_that_crashes_or_prints_nothing_fails(self):
        for text in ("kill -SEGV $$", "exit 0", "printf 'terminate called'; exit 134"):
            self.program("dualmcmc_tests", text)
            _, page, _ = self.run_script("--parts", "tests")
            self.assertEqual(self.verdicts(page)["GPU tests"][0], "failed", text)

    def test_a_part_that_hangs_is_ended_with_its_children(self):
        pids = self.root / "pids"
        self.program("dualmcmc_tests", f"trap '' TERM; (trap '' TERM; sleep 600) & echo $! >{pids}; echo 'the last line'; wait")
        begin = time.monotonic()
        code, page, _ = self.run_script("--parts", "tests,steps", "--limits", "tests=0.02")
        self.assertLess(time.monotonic() - begin, 60)
        self.assertEqual(code, 1)
        self.assertRegex(self.verdicts(page)["GPU tests"][1], "stopped after 1 s: the last line")
        self.assertEqual(self.verdicts(page)["step files against double precision"][0], "passed")
        self.assertFalse(runs(int(pids.read_text())), "a child of the part still runs")

    def test_what_a_part_leaves_running_is_ended(self):
        pids = self.root / "pids"
        self.program("dualmcmc_tests", f"sleep 600 & echo $! >{pids}; printf '%s' '{PASSED_TESTS}'")
        _, page, _ = self.run_script("--parts", "tests")
        self.assertEqual(self.verdicts(page)["GPU tests"][0], "passed")
        self.assertFalse(runs(int(pids.read_text())))

    def test_the_whole_runs_time(self):
        self.program("dualmcmc_tests", "sleep 600")
        code, page, _ = self.run_script("--minutes", "0.03", "--parts", "tests,bench,train")
        self.assertEqual(code, 1)
        self.assertEqual(self.verdicts(page)["bench"], ("skipped", "the 0.03 minutes were used up (MINUTES)"))
        self.assertEqual(self.verdicts(page)["build"], ("skipped", "not asked for (PARTS)"))

    def test_a_bench_out_of_time_keeps_what_it_measured(self):
        (self.root / "reference/bench.py").write_text("import time\nprint('512 tf32 0.5', flush=True)\ntime.sleep(600)\n")
        _, page, _ = self.run_script("--parts", "bench", "--limits", "bench=0.03")
        self.assertEqual(self.verdicts(page)["bench"][0], "failed")
        self.assertIn("512 tf32 0.5", page)

    def test_the_real_bench_goes_on_without_a_width_that_does_not_fit(self):
        for path in (ROOT / "reference").glob("bench*.py"):
            shutil.copy(path, self.root / "reference")
        seconds = '{"total": 0.5, "x_chain": 0.3, "z_chain": 0.1, "device_mib": 100}'
        self.program("dualmcmc", f"""case "$*" in *"-ebm 512"*) echo 'dualmcmc: out of memory' >&2; exit 1;; esac
case "$*" in *--serve*) while read -r line; do echo '{seconds}'; done;; esac""")
        _, page, _ = self.run_script("--parts", "bench")
        self.assertEqual(self.verdicts(page)["bench"],
                         ("failed", "bench: dualmcmc did not run at each width and precision"))
        self.assertIn("dualmcmc: could not run (dualmcmc: out of memory)", page)
        self.assertRegex(page, r"(?m)^ +30 +10 +1\.594 +- +-$")
        for width in 256, 128, 64:
            self.assertRegex(page, rf"(?m)^ *{width} +bf16  dualmcmc +0\.5000")

    def test_without_a_gpu_all_is_skipped_and_said(self):
        for arguments, changes, reason in (
                ((), {"nvidia-smi": None}, "no NVIDIA GPU found"),
                ((), {"nvidia-smi": "echo No devices were found"}, "no NVIDIA GPU found"),
                ((), {"nvidia-smi": "echo 'NVIDIA-SMI has failed'; exit 9"}, "no NVIDIA GPU found"),
                ((), {"nvidia-smi": "echo 'Old GPU, 7.5, 8000, 8000, 470.1, GPU-1'"}, "compute capability 7.5; 8.0 or later"),
                ((), {"nvcc": "echo 'release 11.8, V11.8.89'"}, "nvcc is CUDA 11's, which cannot compile C++20"),
                ((), {"nvcc": "exit 1"}, "bin/nvcc does not run"),
                (("CUDA=0",), {}, "CUDA=0 leaves the GPU out"),
                (("CUDA=/nowhere",), {}, "nvcc not found")):
            for name, script in {**TOOLS, **changes}.items():
                self.tool(name, script or "exit 127")
            code, page, printed = self.run_script(*arguments)
            self.assertEqual(code, 0, printed)
            self.assertIn("0 passed, 0 failed, 9 skipped", page)
            for part, (verdict, detail) in self.verdicts(page).items():
                self.assertEqual(verdict, "skipped", part)
                self.assertIn(reason, detail)
            self.assertFalse((self.root / "runs/gpu/build.log").exists())

    def test_pytorch_that_sees_the_gpu_is_the_peer(self):
        (self.root / "torch.py").write_text("class cuda:\n    def is_available(): return True\n__version__ = '9.9'\n")
        _, page, _ = self.run_script("--parts", "bench")
        self.assertIn("| PyTorch | 9.9 |", page)
        self.assertEqual(self.verdicts(page)["bench"], ("passed", "with PyTorch"))

    def test_cuda_visible_devices(self):
        self.tool("nvidia-smi", f"echo 'First, 8.0, 1, 1, 5, GPU-1'; echo '{GPU_LINE}'; echo 'Third, 8.0, 1, 1, 5, GPU-3'")
        self.program("dualmcmc_tests", f"echo order $CUDA_DEVICE_ORDER; printf '%s' '{PASSED_TESTS}'")
        for visible, name in (("0", "First"), ("1", "Stand-in GPU"), ("1,0", "Stand-in GPU"), ("GPU-77", "Stand-in GPU")):
            _, page, _ = self.run_script("--parts", "tests", CUDA_VISIBLE_DEVICES=visible)
            self.assertIn(f"| GPU | {name},", page)
            self.assertIn("order PCI_BUS_ID", (self.root / "runs/gpu/tests.log").read_text())
        _, page, _ = self.run_script("--parts", "tests", CUDA_VISIBLE_DEVICES="7")
        self.assertIn("no NVIDIA GPU found with CUDA_VISIBLE_DEVICES='7'", page)
        _, page, _ = self.run_script(CUDA_VISIBLE_DEVICES="")
        self.assertIn("no NVIDIA GPU found with CUDA_VISIBLE_DEVICES=''", page)

    def test_missing_packages_and_how_to_point_to_copies(self):
        # A compiler that knows no package but those in CPATH.
        self.tool("g++", f'exec {COMPILER} -nostdinc "$@"')
        self.tool("sudo", "exit 1")
        for apt_get in False, True:  # without it, and where it does not help, even if this runs as root
            if apt_get:
                self.tool("apt-get", "exit 1")
            _, page, _ = self.run_script("--parts", "build,bench")
            verdict, detail = self.verdicts(page)["build"]
            self.assertEqual(verdict, "failed")
            for text in ("libcli11-dev", "libstb-dev", "libgtest-dev", "CPATH=D/include LIBRARY_PATH=D/lib make gpu"):
                self.assertIn(text, detail)
            self.assertEqual(self.verdicts(page)["bench"][0], "passed")
        for name in "CLI/CLI.hpp", "stb/stb_image.h":
            path = self.root / "copies" / name
            path.parent.mkdir(parents=True)
            path.touch()
        (self.root / "build/dualmcmc_tests").unlink()
        _, page, _ = self.run_script("--parts", "build,tests", CPATH=str(self.root / "copies"))
        verdict, detail = self.verdicts(page)["build"]
        self.assertEqual(verdict, "passed", detail)
        self.assertIn("no tests (missing: libgtest-dev", detail)
        self.assertIn("libgtest-dev", self.verdicts(page)["GPU tests"][1])
        self.assertEqual(self.verdicts(page)["GPU tests"][0], "skipped")

    def test_sanitizers(self):
        for text, verdict, detail in (
                (None, "skipped", "compute-sanitizer not found"),
                ("echo '========= COMPUTE-SANITIZER'; echo '========= Invalid __global__ read of size 4 bytes';"
                 "echo '========= ERROR SUMMARY: 1 error'; exit 1", "failed", "========= Invalid __global__ read of size 4 bytes"),
                ("echo '========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)'", "failed", "2 hazards"),
                (f"printf '%s' '{PASSED_TESTS}'; echo '========= RACECHECK SUMMARY: 0 hazards displayed'", "passed", "7 tests"),
                ("echo '========= Error: Device not supported'; exit 1", "failed", "Device not supported")):
            if text is None:
                (self.root / "bin/compute-sanitizer").unlink()
            else:
                self.tool("compute-sanitizer", text)
            _, page, _ = self.run_script("--parts", "racecheck")
            found = self.verdicts(page)["compute-sanitizer racecheck"]
            self.assertEqual(found[0], verdict)
            self.assertIn(detail, found[1])

    def test_steps_that_differ_or_are_not_finite(self):
        for text, line in ((STEP.replace("5.000e-05", "nan"), "nan"), (STEP.replace("1.000e-06", "inf"), "one, fp32"),
                           ("", "no output")):
            self.program("dualmcmc", f"cat <<'END'\n{text}END")
            _, page, _ = self.run_script("--parts", "steps")
            verdict, detail = self.verdicts(page)["step files against double precision"]
            self.assertEqual(verdict, "failed")
            self.assertIn(line, detail)
        self.program("dualmcmc", "echo 'out.x_revised 1.0e-3 1.0e-3  DIFFERS'; exit 1")
        _, page, _ = self.run_script("--parts", "steps")
        self.assertIn("one, fp32: out.x_revised 1.0e-3 1.0e-3 DIFFERS",
                      self.verdicts(page)["step files against double precision"][1])

    def test_training_takes_a_width_that_fits(self):
        for free, width in ("79000", 512), ("7000", 256), ("4000", 128), ("900", 64):
            self.tool("nvidia-smi", f"echo 'Stand-in GPU, 8.6, 80000, {free}, 580.1, GPU-1'")
            _, page, _ = self.run_script("--parts", "train")
            self.assertIn(f"widths {width}/{width}/{max(16, width // 4)}", self.verdicts(page)["training"][1])
        self.tool("nvidia-smi", TOOLS["nvidia-smi"])
        self.program("dualmcmc", f"case \"$*\" in *-ebm\\ 512*) echo 'dualmcmc: out of memory'; exit 1;; esac\n{PROGRAM}")
        _, page, _ = self.run_script("--parts", "train")
        self.assertIn("widths 256/256/64", self.verdicts(page)["training"][1])

    def test_interrupted_it_writes_the_page_and_ends_its_children(self):
        pids = self.root / "pids"
        self.program("dualmcmc_tests", f"echo $$ >{pids}; sleep 600")
        settings = {"PATH": str(self.root / "bin"), "PYTHONPATH": str(self.root), "LD_LIBRARY_PATH": str(self.root / "bin")}
        process = subprocess.Popen([sys.executable, "reference/gpu.py", "--parts", "tests,steps"], cwd=self.root,
                                   env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait_for(lambda: pids.exists() and pids.read_text().strip())
        process.terminate()
        self.assertEqual(process.wait(60), 130)
        page = (self.root / "runs/gpu/report.md").read_text()
        self.assertEqual(self.verdicts(page)["GPU tests"], ("failed", "interrupted"))
        self.assertEqual(self.verdicts(page)["step files against double precision"][0], "skipped")
        self.assertFalse(runs(int(pids.read_text())))

    def test_killed_it_takes_its_program_with_it(self):
        pids = self.root / "pids"
        self.program("dualmcmc_tests", f"echo $$ >{pids}; exec sleep 600")
        settings = {"PATH": str(self.root / "bin"), "PYTHONPATH": str(self.root), "LD_LIBRARY_PATH": str(self.root / "bin")}
        process = subprocess.Popen([sys.executable, "reference/gpu.py", "--parts", "tests"], cwd=self.root, env=settings,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait_for(lambda: pids.exists() and pids.read_text().strip())
        process.kill()
        process.wait()
        self.wait_for(lambda: not runs(int(pids.read_text())))

    def test_mistakes_in_the_options_are_named(self):
        for arguments, text in ((["--parts", "test"], "there is no part 'test'"), (["--minutes", "0"], "MINUTES=0"),
                                (["--limits", "bench"], "'bench': give PART=MINUTES"),
                                (["--limits", "benches=3"], "'benches=3': give PART=MINUTES")):
            code, _, printed = self.run_script(*arguments)
            self.assertEqual(code, 2)
            self.assertIn(text, printed)

    def test_lists_may_have_spaces_and_repeat(self):
        _, page, _ = self.run_script("--parts", "tests, bench tests", "--limits", "tests=1 bench=2", "CUDA_ARCH=90")
        self.assertIn("**2 passed, 0 failed, 7 skipped**", page)


# The real program on the CPU in place of the GPU, and a training that takes seconds.
REAL_PROGRAM = """words=()
for word; do
    case $word in cuda) words+=(cpu);; fp32|tf32|bf16) words+=(auto);; *) words+=("$word");; esac
done
case $1 in train) words=(train --preset demo --width-generator 2 --width-ebm 2 --width-encoder 2 --batch 6 --steps-x 2
  --steps-z 2 --iterations 2 --log-every 1 --device cpu --out "${words[-1]}");; esac
exec '%s' "${words[@]}"
"""


class RealPrograms(Project):
    """What the programs really print is understood; the emulated GPU and the CPU stand in for the GPU."""

    def test_all_parts(self):
        for name in "dualmcmc", "dualmcmc_tests":
            if not (ROOT / "build" / name).exists():
                self.skipTest(f"build/{name} is not built")
        for name in "one", "two":
            (self.root / f"reference/step_{name}.safetensors").unlink()
        shutil.copy(ROOT / "reference/step_vae.safetensors", self.root / "reference")
        self.program("dualmcmc", REAL_PROGRAM % (ROOT / "build/dualmcmc"))
        self.program("dualmcmc_tests", f"exec '{ROOT}/build/dualmcmc_tests' --gtest_filter='Gpu/Kernel.add/emulated*'")
        self.tool("compute-sanitizer", """while [[ $1 == --* ]]; do shift 2; done; "$@"; code=$?
echo '========= ERROR SUMMARY: 0 errors'; exit $code""")
        code, page, printed = self.run_script("--parts", "tests,memcheck,steps,train", OMP_NUM_THREADS="1")
        self.assertEqual(code, 0, printed + page)
        verdicts = self.verdicts(page)
        self.assertEqual(verdicts["GPU tests"], ("passed", "3 tests"))
        self.assertEqual(verdicts["compute-sanitizer memcheck"], ("passed", "3 tests, 0 errors"))
        self.assertEqual(verdicts["step files against double precision"], ("passed", "1 step in fp32, tf32, bf16"))
        self.assertIn("2/2  epoch", page)
        links = re.findall(r"!\[\w+\]\((.*?)\)", page)
        self.assertEqual(len(links), 2)
        for link in links:
            self.assertTrue((self.root / "runs/gpu" / link).exists(), link)

    def output(self, name, *arguments):
        program = ROOT / "build" / name
        if not program.exists():
            self.skipTest(f"build/{name} is not built")
        return subprocess.run([program, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, text=True)

    def test_check_step(self):
        gpu = load_script()
        result = self.output("dualmcmc", "check-step", "reference/step_vae.safetensors", "--device", "cpu", "--strict")
        worst, finite, _ = gpu.parse_step(result.stdout)
        self.assertEqual(result.returncode, 0)
        self.assertTrue(finite)
        for column, limit in (0, 1e-9), (1, 1e-3):
            for value in worst[column]:
                self.assertGreater(value, 0)
                self.assertLess(value, limit)

    def test_google_test(self):
        gpu = load_script()
        result = self.output("dualmcmc_tests", "--gtest_filter=Gpu/Kernel.add/emulated*")
        passed, skipped = gpu.judge_tests(gpu.Output(result.returncode, result.stdout, 0))
        self.assertEqual((passed, skipped), (3, 0))
        result = self.output("dualmcmc_tests", "--gtest_filter=No.such")
        with self.assertRaises(gpu.Failed):
            gpu.judge_tests(gpu.Output(result.returncode, result.stdout, 0))


if __name__ == "__main__":
    unittest.main()
