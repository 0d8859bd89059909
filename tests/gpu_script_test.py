#!/usr/bin/env python3
"""Tests of reference/gpu.py (`make gpu`) and of what it calls, on a machine without a GPU: stand-ins for the tools and
programs that it runs pass, fail, hang, or are missing.

    python3 tests/gpu_script_test.py

Where build/dualmcmc and build/dualmcmc_tests exist, their real output is parsed, too.
"""
import importlib.util
import os
import pathlib
import re
import shutil
import signal
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
CIFAR10_FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
STEP = """device: CUDA, fp32: Stand-in
relative error                                                     double           CUDA, fp32
out.x_revised                                                   2.000e-14            1.000e-06
grad.netE.weight                                                3.000e-14            5.000e-05
agrees: 2 compared in double precision, 0 beyond the tolerance
CUDA, fp32: 0 beyond 0.001 of the double run
ReLUs that rounding took across their kink: 4
"""
TORCH = "class cuda:\n    def is_available(): return %s\n__version__ = '9.9'\n"
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
        above = tempfile.mkdtemp(prefix="dualmcmc_gpu_")  # CIFAR-10 is looked for there, too
        self.addCleanup(shutil.rmtree, above)
        self.root = pathlib.Path(above, "project")
        self.root.mkdir()
        for folder in "reference", "build", "bin", "data":
            (self.root / folder).mkdir()
        shutil.copy(ROOT / "reference/gpu.py", self.root / "reference/gpu.py")
        for name in "one", "two":
            (self.root / f"reference/step_{name}.safetensors").touch()
        (self.root / "reference/bench.py").write_text("print(' 512  tf32  dualmcmc  0.5')\n")
        self.cifar10(self.root / "images")
        (self.root / "data/cifar10.sh").write_text("echo 'cifar10.sh: found' >&2; echo $CIFAR10_DIR\n")
        (self.root / "torch.py").write_text(TORCH % False)
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

    def cifar10(self, folder):
        """A folder with files of the right names and sizes."""
        folder.mkdir(parents=True)
        for name in CIFAR10_FILES:
            with open(folder / name, "wb") as file:
                file.truncate(30730000)

    def real_bench(self):
        for path in (ROOT / "reference").glob("bench*.py"):
            shutil.copy(path, self.root / "reference")

    def settings(self, **environment):
        return {"PATH": str(self.root / "bin"), "CIFAR10_DIR": str(self.root / "images"), "PYTHONPATH": str(self.root),
                "LD_LIBRARY_PATH": str(self.root / "bin"), **environment}

    def start_script(self, *arguments, **options):
        return subprocess.Popen([sys.executable, "reference/gpu.py", *arguments], cwd=self.root, env=self.settings(),
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)

    def run_script(self, *arguments, **environment):
        """(exit code, the page, what was printed)"""
        settings = self.settings(**environment)
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
        self.assertEqual(list(self.verdicts(page)), [
            "build", "GPU tests", "step files against double precision", "bench", "compute-sanitizer memcheck",
            "compute-sanitizer racecheck", "compute-sanitizer synccheck", "compute-sanitizer initcheck", "training"])

    def test_a_part_that_fails_does_not_stop_the_next(self):
        # The tests are up to date where make may not look for packages.
        self.tool("make", "case \"$*\" in *'-o packages -o test-packages'*) exit 0;; esac\n"
                  "echo 'src/main.cpp:7: error: no'; exit 2")
        self.program("dualmcmc_tests", "echo 'tests/a.cpp:9: Failure'; echo '[  FAILED  ] Gpu/A.b/CUDA, where'; exit 1")
        code, page, _ = self.run_script()
        verdicts = self.verdicts(page)
        self.assertEqual(code, 1)
        self.assertEqual(verdicts["build"], ("failed", "src/main.cpp:7: error: no"))
        self.assertEqual(verdicts["GPU tests"], ("failed", "tests/a.cpp:9: Failure [ FAILED ] Gpu/A.b/CUDA"))
        self.assertEqual(verdicts["training"][0], "passed")

    def test_after_a_failed_build_no_earlier_program_is_judged(self):
        self.tool("make", "echo 'src/main.cpp:7: error: no'; exit 2")
        (self.root / "build/dualmcmc_tests").unlink()
        code, page, _ = self.run_script("--parts", "build,tests,steps,bench,train")
        verdicts = self.verdicts(page)
        self.assertEqual(code, 1)
        self.assertEqual(verdicts["GPU tests"][0], "skipped")
        for title in "step files against double precision", "bench", "training":
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
        for cuda in "", "1":  # the default
            _, page, _ = self.run_script("--parts", "build", "CUDA=" + cuda, CUDA_HOME=str(folder.parent))
            self.assertIn("V12.9.11", page)

    def test_settings_may_come_from_the_environment(self):
        _, page, _ = self.run_script("--parts", "build", CUDA="0")
        self.assertEqual(self.verdicts(page)["build"], ("skipped", "CUDA=0 leaves the GPU out"))
        _, page, _ = self.run_script("--parts", "build", CUDA_ARCH="86")
        self.assertIn("with CUDA_ARCH=86", self.verdicts(page)["build"][1])

    def test_a_part_that_crashes_or_prints_nothing_fails(self):
        for text in ("kill -SEGV $$", "exit 0", "printf 'terminate called'; exit 134"):
            self.program("dualmcmc_tests", text)
            _, page, _ = self.run_script("--parts", "tests")
            self.assertEqual(self.verdicts(page)["GPU tests"][0], "failed", text)

    def test_the_first_failing_test_with_its_values(self):
        end = "echo '[  FAILED  ] Gpu/Z.z/CUDA (0 ms)'; echo '[  FAILED  ] 2 tests, listed below:'; exit 1"
        for text, detail in (
                ("""cat <<'END'
unknown file: Failure
C++ exception with description "no memory" thrown in the test body.
[  FAILED  ] Gpu/A.b/CUDA, where GetParam() = CUDA (1 ms)
END
""" + end, 'unknown file: Failure C++ exception with description "no memory" thrown in the test body. '
                 "[ FAILED ] Gpu/A.b/CUDA"),
                ("""cat <<'END'
[       OK ] Gpu/A.a/CUDA (1 ms)
tests/a.cpp:9: Failure
Expected equality of these values:
  x
    Which is: 7
  8
tests/a.cpp:11: Failure
[  FAILED  ] Gpu/A.b/CUDA (1 ms)
END
""" + end, "tests/a.cpp:9: Failure Expected equality of these values: x Which is: 7 8 tests/a.cpp:11: Failure "
                 "[ FAILED ] Gpu/A.b/CUDA"),
                ("echo 'tests/a.cpp:9: Failure'; echo '  Which is: 7'; kill -SEGV $$",
                 "tests/a.cpp:9: Failure Which is: 7"),
                ("echo 'tests/a.cpp:9: Failure'; for i in {1..99}; do echo \"value $i\"; done;" + end, None)):
            self.program("dualmcmc_tests", text)
            _, page, _ = self.run_script("--parts", "tests")
            verdict, found = self.verdicts(page)["GPU tests"]
            self.assertEqual(verdict, "failed")
            if detail:
                self.assertEqual(found, detail)
            else:  # too long for the page: begin and end
                self.assertRegex(found, r"^tests/a.cpp:9: Failure value 1 .* \.\.\. .*\[ FAILED \] Gpu/Z\.z/CUDA$")

    def test_a_part_out_of_time_fails_with_the_failing_line_it_had_printed(self):
        # What a program prints because it is ended is no such line.
        trap = "trap 'echo \"x.cpp:1: Failure\"; echo \"y.cpp:2: error: ended\"; exit 1' TERM\n"
        hang = "\nfor i in {1..600}; do sleep 0.1; done"
        failed = "echo 'tests/a.cpp:9: Failure'; echo '[  FAILED  ] Gpu/A.b/CUDA (1 ms)'; echo 'and on'"
        line = "tests/a.cpp:9: Failure [ FAILED ] Gpu/A.b/CUDA (stopped after 1 s"
        minutes = "stopped after 1 s, when the 0.02 minutes were used up (MINUTES)"
        for text, option, verdict, detail in (
                (failed, "--limits=tests=0.02", "failed", line + ")"),
                (failed, "--minutes=0.02", "failed", line + ", when the 0.02 minutes were used up (MINUTES))"),
                ("echo 'and on'", "--limits=tests=0.02", "failed", "stopped after 1 s: and on"),
                ("echo 'and on'", "--minutes=0.02", "skipped", minutes + ": and on")):
            self.program("dualmcmc_tests", trap + text + hang)
            code, page, _ = self.run_script("--parts", "tests", option)
            self.assertEqual(self.verdicts(page)["GPU tests"], (verdict, detail))
            self.assertEqual(code, int(verdict == "failed"))
        self.tool("make", trap + "echo 'src/main.cpp:7: error: no'" + hang)
        _, page, _ = self.run_script("--parts", "build", "--limits", "build=0.02")
        self.assertEqual(self.verdicts(page)["build"], ("failed", "src/main.cpp:7: error: no (stopped after 1 s)"))

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
        self.assertEqual(code, 0)
        self.assertEqual(self.verdicts(page)["bench"], ("skipped", "the 0.03 minutes were used up (MINUTES)"))
        self.assertEqual(self.verdicts(page)["build"], ("skipped", "not asked for (PARTS)"))
        self.tool("nvidia-smi", f"sleep 2; echo '{GPU_LINE}'")  # its time counts, too
        _, page, _ = self.run_script("--minutes", "0.03", "--parts", "tests")
        self.assertEqual(self.verdicts(page)["GPU tests"], ("skipped", "the 0.03 minutes were used up (MINUTES)"))

    def test_a_bench_out_of_time_keeps_what_it_measured(self):
        (self.root / "reference/bench.py").write_text("import time\nprint('512 tf32 0.5', flush=True)\ntime.sleep(600)\n")
        _, page, _ = self.run_script("--parts", "bench", "--limits", "bench=0.03")
        self.assertEqual(self.verdicts(page)["bench"][0], "failed")
        self.assertIn("512 tf32 0.5", page)

    def test_the_real_bench_goes_on_without_a_width_that_does_not_fit(self):
        self.real_bench()
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

    def test_the_real_bench_does_not_fall_back_to_the_cpu(self):
        self.real_bench()
        self.program("dualmcmc", """case "$*" in *"--device cuda"*) echo 'dualmcmc: the GPU is in use' >&2; exit 1
esac; echo '2 threads'""")
        _, page, _ = self.run_script("--parts", "bench")
        self.assertEqual(self.verdicts(page)["bench"], ("failed", "dualmcmc: the GPU is in use"))
        self.program("dualmcmc", "exit 7")
        _, page, _ = self.run_script("--parts", "bench")
        self.assertEqual(self.verdicts(page)["bench"], ("failed", "bench: dualmcmc ended on the GPU with exit code 7"))

    def test_the_real_bench_keeps_a_width_where_one_of_pytorchs_modes_takes_the_memory(self):
        self.real_bench()
        (self.root / "torch.py").write_text("""import sys, unittest.mock
torch = sys.modules[__name__] = unittest.mock.MagicMock(__version__='9.9')
torch.cuda.is_available.return_value = True
""")
        # With mode graph beside it dualmcmc fails; with eager, not. At width 64 with both.
        (self.root / "reference/bench_torch.py").write_text("""import os, sys
hog = 'graph' in sys.argv or '--width-generator 64' in ' '.join(sys.argv)
for line in sys.stdin:
    if hog:
        open('hog', 'w').close()
    print('{"total": 0.25}', flush=True)
if hog:
    os.remove('hog')
""")
        self.program("dualmcmc", """case "$*" in *--serve*) while read -r line; do
[ -e hog ] && { echo 'dualmcmc: out of memory' >&2; exit 1; }
echo '{"total": 0.5}'; done;; esac""")
        _, page, _ = self.run_script("--parts", "bench")
        self.assertIn("dualmcmc: could not run (dualmcmc: out of memory)", page)
        self.assertEqual(self.verdicts(page)["bench"], ("passed", "with PyTorch"))
        for width, fastest in (512, "eager"), (256, "eager"), (128, "eager"), (64, None):
            self.assertRegex(page, rf"(?m)^ *{width} +tf32  dualmcmc +0\.5000")
            self.assertEqual(re.findall(rf"(?m)^ *{width} +tf32  PyTorch, (\w+)", page), [fastest] if fastest else [])

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
        (self.root / "torch.py").write_text(TORCH % True)
        for printed, detail in (("   512  tf32  PyTorch, eager  0.9", "with PyTorch"),
                                ("PyTorch, eager: could not run (out of memory)",
                                 "alone: PyTorch, eager: could not run (out of memory)")):
            (self.root / "reference/bench.py").write_text(f"print(' 512  tf32  dualmcmc  0.5')\nprint('{printed}')\n")
            _, page, _ = self.run_script("--parts", "bench")
            self.assertIn("| PyTorch | 9.9 |", page)
            self.assertEqual(self.verdicts(page)["bench"], ("passed", detail))

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
        for environment in {"CPATH": "copies"}, {"CXXFLAGS": "-O1 -Icopies"}:
            _, page, _ = self.run_script("--parts", "build,tests", **environment)
            verdict, detail = self.verdicts(page)["build"]
            self.assertEqual(verdict, "passed", detail)
            self.assertIn("no tests (missing: libgtest-dev", detail)
            self.assertIn("libgtest-dev", self.verdicts(page)["GPU tests"][1])
            self.assertEqual(self.verdicts(page)["GPU tests"][0], "skipped")
        # Where packages can be installed, GoogleTest is, too.
        self.tool("sudo", "echo yes")
        self.tool("make", """[ $1 = test-packages ] || exit 0
mkdir copies/gtest; touch copies/gtest/gtest.h
for name in gtest gtest_main; do echo '!<arch>' >copies/lib$name.a; done""")
        _, page, _ = self.run_script("--parts", "build", CPATH="copies", LIBRARY_PATH="copies")
        self.assertEqual(self.verdicts(page)["build"],
                         ("passed", "build/dualmcmc, build/dualmcmc_tests with CUDA_ARCH=90"))

    def test_sanitizers(self):
        for text, verdict, detail in (
                (None, "skipped", "compute-sanitizer not found"),
                ("echo '========= COMPUTE-SANITIZER'; echo '========= Invalid __global__ read of size 4 bytes';"
                 "echo '========= ERROR SUMMARY: 1 error'; exit 1", "failed", "========= Invalid __global__ read of size 4 bytes"),
                ("echo '========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)'", "failed", "2 hazards"),
                (f"printf '%s' '{PASSED_TESTS}'; echo '========= RACECHECK SUMMARY: 0 hazards displayed'", "passed", "7 tests"),
                (f"printf '%s' 'a.cpp:9: Failure\n[  FAILED  ] Gpu/A.b/CUDA\n';"
                 "echo '========= Target application returned an error';"
                 "echo '========= ERROR SUMMARY: 0 errors'; exit 1",
                 "failed", "a.cpp:9: Failure [ FAILED ] Gpu/A.b/CUDA"),
                ("echo '========= Error: Device not supported'; exit 1", "skipped", "Error: Device not supported")):
            if text is None:
                (self.root / "bin/compute-sanitizer").unlink()
            else:
                self.tool("compute-sanitizer", text)
            _, page, _ = self.run_script("--parts", "racecheck")
            found = self.verdicts(page)["compute-sanitizer racecheck"]
            self.assertEqual(found[0], verdict)
            self.assertIn(detail, found[1])

    def test_sanitizers_leave_out_other_kernels(self):
        for option in "--kernel-name", "--kernel-regex":
            self.tool("compute-sanitizer", f"[ $1 != --help ] || {{ echo '  {option} arg   Filter'; exit; }}\n"
                      + TOOLS["compute-sanitizer"])
            for tool, filtered in ("racecheck", True), ("synccheck", True), ("memcheck", False):
                self.run_script("--parts", tool)
                command = (self.root / f"runs/gpu/{tool}.log").read_text().splitlines()[0]
                self.assertEqual(f" {option} kns=dualmcmc " in command, filtered, command)
                self.assertEqual("--kernel" in command, filtered, command)

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
        # With --strict the device must agree, too. Of the share of parameters one in a hundred may be far.
        share = "after.netE* (share beyond 2 % of a learning rate)  0.000e+00  5.000e-03\nagrees:"
        for one, row in (("2.000e-03", "out.x_revised 2.000e-14 2.000e-03"), ("nan", "out.x_revised 2.000e-14 nan")):
            step = STEP.replace("1.000e-06", one).replace("agrees:", share).replace("fp32: 0 beyond", "fp32: 1 beyond")
            self.program("dualmcmc", f"cat <<'END'\n{step}END\nexit 1")
            _, page, _ = self.run_script("--parts", "steps")
            self.assertEqual(self.verdicts(page)["step files against double precision"][1],
                             f"one, fp32: CUDA, fp32: 1 beyond 0.001 of the double run; largest: {row}")
        self.program("dualmcmc", "case $2 in *two*) sleep 600;; esac; echo 'out.x 1.0e-3 1.0e-3  DIFFERS'; exit 1")
        _, page, _ = self.run_script("--parts", "steps", "--minutes", "0.03")
        verdict, detail = self.verdicts(page)["step files against double precision"]
        self.assertEqual(verdict, "failed")
        self.assertIn("one, fp32: out.x 1.0e-3 1.0e-3 DIFFERS (stopped after", detail)
        self.assertIn("| one | bf16 |", page)

    def test_training_takes_a_width_that_fits(self):
        for free, width in ("79000", 512), ("7000", 256), ("4000", 128), ("900", 64):
            self.tool("nvidia-smi", f"echo 'Stand-in GPU, 8.6, 80000, {free}, 580.1, GPU-1'")
            _, page, _ = self.run_script("--parts", "train")
            self.assertIn(f"widths {width}/{width}/{max(16, width // 4)}", self.verdicts(page)["training"][1])
        self.tool("nvidia-smi", TOOLS["nvidia-smi"])
        self.program("dualmcmc", f"case \"$*\" in *-ebm\\ 512*) echo 'dualmcmc: out of memory'; exit 1;; esac\n{PROGRAM}")
        _, page, _ = self.run_script("--parts", "train")
        self.assertIn("widths 256/256/64", self.verdicts(page)["training"][1])

    def test_training_takes_cifar10_where_it_is_whole(self):
        beside = self.root.parent / "shared/cifar-10-batches-bin"
        self.cifar10(beside)
        for text, note in (("echo 'cifar10.sh: found' >&2; echo $PWD/images", f"--data {self.root}/images"),
                           ("echo 'cifar10.sh: cannot get CIFAR-10'; exit 1", f"--data {beside}")):
            (self.root / "data/cifar10.sh").write_text(text)
            _, page, _ = self.run_script("--parts", "train")
            self.assertIn(note + " ", (self.root / "runs/gpu/train.log").read_text())
            self.assertIn("CIFAR-10", self.verdicts(page)["training"][1])
        os.truncate(beside / "test_batch.bin", 1000)
        _, page, _ = self.run_script("--parts", "train")  # and CIFAR10_DIR, which the script refuses
        self.assertIn("CIFAR-10 is not here", self.verdicts(page)["training"][1])
        self.assertIn("--data shapes", (self.root / "runs/gpu/train.log").read_text())

    def test_an_earlier_page_is_gone_before_the_first_part(self):
        (self.root / "runs/gpu").mkdir(parents=True)
        (self.root / "runs/gpu/report.md").write_text("**9 passed**")
        self.program("dualmcmc_tests", f"cat runs/gpu/report.md >seen; printf '%s' '{PASSED_TESTS}'")
        self.run_script("--parts", "tests")
        seen = (self.root / "seen").read_text()
        self.assertIn("0 skipped** so far", seen)
        self.assertIn("| GPU | Stand-in GPU,", seen)

    def test_interrupted_it_writes_the_page_and_ends_its_children(self):
        pids = self.root / "pids"
        self.program("dualmcmc_tests", f"echo $$ >{pids}; sleep 600")
        process = self.start_script("--parts", "tests,steps")
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
        process = self.start_script("--parts", "tests")
        self.wait_for(lambda: pids.exists() and pids.read_text().strip())
        process.kill()
        process.wait()
        self.wait_for(lambda: not runs(int(pids.read_text())))

    def test_under_nohup_it_goes_on_without_its_terminal(self):
        pids = self.root / "pids"
        self.program("dualmcmc_tests",
                     f"echo $$ >{pids}; while [ ! -e go ]; do sleep 0.1; done; printf '%s' '{PASSED_TESTS}'")
        process = self.start_script("--parts", "tests", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        self.wait_for(lambda: pids.exists() and pids.read_text().strip())
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        (self.root / "go").touch()
        self.assertEqual(process.wait(60), 0)

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


class Makefile(unittest.TestCase):
    """The real Makefile, with a folder of its own for what it writes, and stand-ins for what it calls."""

    def setUp(self):
        if not shutil.which("make"):
            self.skipTest("there is no make")
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="dualmcmc_make_"))
        self.addCleanup(shutil.rmtree, self.root)

    def tool(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n" + text + "\n")
        path.chmod(0o755)
        return path

    def make(self, *arguments, **environment):
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("MAKE", "MFLAGS", "CUDA", "PYTHON"))}
        result = subprocess.run(["make", f"BUILD={self.root}/build", *arguments], cwd=ROOT, env={**kept, **environment},
                                timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(result.returncode, 0, result.stdout)
        return result.stdout

    def test_make_gpu_leaves_the_trial_of_nvcc_to_the_make_it_starts(self):
        self.tool("cuda/bin/nvcc", f"touch {self.root}/called; exit 1")
        self.assertIn("reference/gpu.py", self.make("-n", "gpu", f"CUDA={self.root}/cuda"))
        self.assertFalse((self.root / "called").exists())
        self.make("-n", "soak", f"CUDA={self.root}/cuda")
        self.assertTrue((self.root / "called").exists())

    def test_sanitize_leaves_out_other_kernels(self):
        for option in "--kernel-name", "--kernel-regex":
            sanitizer = self.tool("sanitizer", f"[ $1 = --help ] && echo '  {option} arg  Filter' || echo called $*")
            out = self.make("-s", "sanitize", "CUDA=0", f"SANITIZER={sanitizer}",
                            "-o", f"{self.root}/build/dualmcmc_tests")
            for tool in "racecheck", "synccheck":
                self.assertIn(f"called --tool {tool} {option} kns=dualmcmc --error-exitcode 1", out)
            self.assertIn("called --tool memcheck --report-api-errors no --error-exitcode 1", out)
            self.assertIn("called --tool initcheck --error-exitcode 1", out)

    def test_python_is_one_that_has_pytorch(self):
        with_torch, without = self.tool("with/python3", "exit 0"), self.tool("without/python3", "exit 1")
        for debian, on_path, taken in ((with_torch, without, with_torch), (without, with_torch, "python3"),
                                       (with_torch, with_torch, with_torch), (without, without, without)):
            text = (ROOT / "Makefile").read_text().replace("/usr/bin/python3", str(debian))
            (self.root / "Makefile").write_text(text + "\nshow:; @echo taken $(PYTHON)\n")
            arguments = "-s", "-f", str(self.root / "Makefile"), "show", "CUDA=0"
            path = f"{on_path.parent}:{os.environ['PATH']}"
            self.assertEqual(self.make(*arguments, PATH=path), f"taken {taken}\n")
            self.assertEqual(self.make(*arguments, PATH=path, PYTHON="mine"), "taken mine\n")


class OtherScripts(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="dualmcmc_scripts_"))
        self.addCleanup(shutil.rmtree, self.root)

    def test_bf16_in_pytorch_uses_the_updated_weights(self):
        """The second x-chain starts from the generator after its update."""
        gpu = load_script()
        pythons = sys.executable, "/usr/bin/python3"
        python = next((python for python in pythons if gpu.ask(python, "-c", "import torch; print('found')")), None)
        if python is None:
            self.skipTest("PyTorch was not found")
        code = """
import sys, torch, bench_torch, dual_mcmc
x_chain, iterate, now, fresh = dual_mcmc.x_chain, dual_mcmc.DualMcmc.iterate, {}, []
def look_at_chain(x, *others):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        fresh.append(torch.equal(x, now["netG"](now["z"])))
    return x_chain(x, *others)
def look_at_iteration(loop, x, noise):
    now.update(netG=loop.nets["netG"], z=noise["prior"])
    return iterate(loop, x, noise)
dual_mcmc.x_chain, dual_mcmc.DualMcmc.iterate = look_at_chain, look_at_iteration
sys.argv[1:] = ("--precision bf16 --width-generator 4 --width-ebm 4 --width-encoder 4 --batch 4 --steps-x 2 "
                "--steps-z 2").split()
torch.manual_seed(1)
bench_torch.make_iteration(bench_torch.parse_arguments())()
print(fresh)"""
        result = subprocess.run([python, "-c", code], cwd=ROOT / "reference", stdout=subprocess.PIPE, text=True,
                                env={**os.environ, "OMP_NUM_THREADS": "1"})
        self.assertEqual(result.stdout, "[True, True]\n")

    def test_the_converter_says_how_to_load_a_file_with_objects(self):
        (self.root / "numpy.py").write_text("")
        (self.root / "safetensors_io.py").write_text("")
        (self.root / "torch.py").write_text("import pickle\ndef load(path, map_location): raise pickle.UnpicklingError("
                                            "'Weights only load failed. Re-running with `weights_only`...\\nmore')\n")
        (self.root / "authors.pth").write_text("PK")
        shutil.copy(ROOT / "reference/convert_release.py", self.root)
        command = [sys.executable, "convert_release.py", "to-safetensors", "authors.pth", "x.safetensors"]
        result = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr.count("\n"), 1)
        self.assertIn("If you trust the file: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python3 convert_release.py "
                      "to-safetensors authors.pth x.safetensors", result.stderr)

    def test_a_download_of_cifar10_removes_what_a_killed_one_left(self):
        for name, hours in ("cifar10-download.killed", 25), ("cifar10-download.other", 1), ("mine", 25):
            (self.root / "images" / name / "within").mkdir(parents=True)
            os.utime(self.root / "images" / name, (time.time() - 3600 * hours,) * 2)
        (self.root / "bin").mkdir()
        for name in "curl", "npm":
            (self.root / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
            (self.root / "bin" / name).chmod(0o755)
        environment = {**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}", "CIFAR10_DIR": ""}
        result = subprocess.run(["bash", ROOT / "data/cifar10.sh", self.root / "images"], env=environment,
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual(sorted(os.listdir(self.root / "images")), ["cifar10-download.other", "mine"])


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
                              env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
                                   "DUALMCMC": "/nowhere"}, text=True)

    def test_check_step(self):
        gpu = load_script()
        result = self.output("dualmcmc", "check-step", "reference/step_vae.safetensors", "--device", "cpu", "--strict")
        worst, finite, *_ = gpu.parse_step(result.stdout)
        self.assertEqual(result.returncode, 0)
        self.assertTrue(finite)
        for column, limit in (0, 1e-9), (1, 1e-3):
            for value in worst[column]:
                self.assertGreater(value, 0)
                self.assertLess(value, limit)

    def test_check_step_that_fails_on_the_device(self):
        gpu = load_script()
        result = self.output("dualmcmc", "check-step", "reference/step_vae.safetensors", "--device", "cpu", "--strict",
                             "--device-tolerance", "1e-12")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(gpu.Output(1, result.stdout).first(gpu.DEVICE_DIFFERS), ": [0-9]+ beyond 1e-12 of the")
        self.assertIn(gpu.parse_step(result.stdout)[3], result.stdout.splitlines())

    def test_google_test(self):
        gpu = load_script()
        result = self.output("dualmcmc_tests", "--gtest_filter=Gpu/Kernel.add/emulated*")
        passed, skipped = gpu.judge_tests(gpu.Output(result.returncode, result.stdout))
        self.assertEqual((passed, skipped), (3, 0))
        result = self.output("dualmcmc_tests", "--gtest_filter=CommandLine.HelpSucceeds")  # the program is nowhere
        failure = r"^tests/cli_test.cpp:\d+: Failure\n(.*\n)+.*\] CommandLine.HelpSucceeds$"
        with self.assertRaisesRegex(gpu.Failed, failure):
            gpu.judge_tests(gpu.Output(result.returncode, result.stdout))
        result = self.output("dualmcmc_tests", "--gtest_filter=No.such")
        with self.assertRaises(gpu.Failed):
            gpu.judge_tests(gpu.Output(result.returncode, result.stdout))


if __name__ == "__main__":
    unittest.main()
