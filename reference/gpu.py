"""`make gpu`: everything that only a GPU can show, in one command; ends with one page, runs/gpu/report.md.

    make gpu                                      all parts
    make gpu PARTS=build,tests,bench              these alone
    make gpu MINUTES=9                            all of it in at most nine minutes: what is not done then is skipped
    make gpu LIMITS=bench=5,train=3               minutes of single parts
    CPATH=D/include LIBRARY_PATH=D/lib make gpu   with copies of the packages that the system lacks

Each part runs by itself, with a time limit, and none stops the next. A part passes, fails (with the first failing
line), or is skipped (with the reason). The page is rewritten after each part, so an interrupted run has one, too;
so has a machine without a GPU, with everything skipped. The parts' output is in runs/gpu/*.log.

Needs Python 3 alone. The exit code is 1 if a part failed.
"""
import argparse
import ctypes
import glob
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PRECISIONS = "fp32", "tf32", "bf16"
SANITIZERS = "memcheck", "racecheck", "synccheck", "initcheck"
MINUTES = {"build": 20, "tests": 15, **dict.fromkeys(SANITIZERS, 12), "steps": 10, "bench": 30, "train": 10}
TRAIN_EXTRA = 3  # minutes that `train` may take beyond those of its training: start, pictures, report
# (MiB of free memory, width): a preset of that width needs about so much at batch 100.
WIDTHS = (10000, 512), (6000, 256), (3500, 128), (0, 64)
# (the compiler's name of a header, what to install, the file in a folder of copies)
PACKAGES = [("CLI/CLI.hpp", "libcli11-dev", "CLI/CLI.hpp"),
            ("stb/stb_image.h", "libstb-dev", "stb/stb_image.h and stb/stb_image_write.h"),
            ("gtest/gtest.h", "libgtest-dev", "gtest/, and libgtest.a and libgtest_main.a in D/lib")]


class Verdict(Exception):
    """Ends a part, with a line for the page's table and, below it, what the part has to show."""

    def __init__(self, detail, markdown=""):
        super().__init__(detail)
        self.detail, self.markdown = detail, markdown


class Skipped(Verdict):
    """The part cannot run here, or not to its end; the line says why."""


class Failed(Verdict):
    """The line is the first failing one."""


# ---- running programs -----------------------------------------------------------------------------------------------


class Output:
    """What a program printed: its exit code (None: it ran out of time) and its lines."""

    def __init__(self, code, text):
        self.code, self.text = code, text
        self.lines = text.splitlines()
        self.last = next((line.strip() for line in reversed(self.lines) if line.strip()), "no output")

    def first(self, *patterns):
        """The first match of one of these regular expressions, tried in turn, or None."""
        matches = (re.search(pattern, self.text, re.M) for pattern in patterns)
        return next((match[0].strip() for match in matches if match), None)


def end_group(process):
    """Ends a program and all that it started."""
    for number, wait in (signal.SIGTERM, 5), (signal.SIGKILL, 5):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            pass


def say(text):
    """Prints a line, if the terminal is still there."""
    try:
        print("gpu: " + text, flush=True)
    except OSError:
        pass


def die_with_parent():
    """In a program about to start: if this script is killed, so is it, though not what it has started itself."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def run(command, log, seconds, environment=None):
    """Runs a command in the project's folder, as a process group of its own without a terminal, its output in the file
    `log`. Returns its Output; on any other exit (Ctrl-C) ends the group, too."""
    with open(log, "ab") as out:
        out.write(f"$ {shlex.join(command)}\n".encode())
        out.flush()
        begin = out.tell()
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                       cwd=ROOT, env={**os.environ, **(environment or {})}, start_new_session=True,
                                       preexec_fn=die_with_parent)
        except OSError as error:
            return Output(127, f"{command[0]}: {error.strerror}")
        code = None
        try:
            code = process.wait(max(0.1, seconds))
        except subprocess.TimeoutExpired:
            pass
        finally:
            printed = out.seek(0, os.SEEK_END) - begin  # what it prints because it is ended is no verdict
            end_group(process)
    with open(log, "rb+") as file:
        file.seek(begin)
        text = file.read(printed).decode(errors="replace")
        if code is None:
            file.seek(0, os.SEEK_END)
            file.write(f"\nstopped after {seconds:.0f} s\n".encode())
    return Output(code, text)


def ask(*command):
    """A short command's output, or ''."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                              errors="replace").stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


# ---- the machine ----------------------------------------------------------------------------------------------------


def gpu_by_driver():
    """[name, capability, MiB, MiB free, driver] by the driver's own library, for machines without nvidia-smi."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    name, number, device = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
    memory = ctypes.c_size_t()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0) or cuda.cuDeviceGetName(name, 256, device):
        return None
    attributes = []
    for which in 75, 76:  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        cuda.cuDeviceGetAttribute(ctypes.byref(number), which, device)
        attributes.append(str(number.value))
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    cuda.cuDriverGetVersion(ctypes.byref(number))
    mib, version = str(memory.value >> 20), f"{number.value // 1000}.{number.value % 1000 // 10}"
    return [name.value.decode(), ".".join(attributes), mib, mib, f"for CUDA {version}"]


class Machine:
    """What is here: the GPU that the program would use, compilers, versions; and why no part can run, or ''."""

    def __init__(self):
        self.gpu = self.find_gpu()
        self.nvcc = self.find_nvcc()
        self.cores = len(os.sched_getaffinity(0))
        self.python = self.find_torch()
        self.missing = self.why_not()
        self.lines = self.describe()

    @staticmethod
    def find_nvcc():
        """Where the Makefile looks for it."""
        if (given := os.environ.get("CUDA", "")) not in ("", "0", "1"):
            return shutil.which(os.path.join(given, "bin/nvcc"))
        folders = [os.environ["CUDA_HOME"]] if os.environ.get("CUDA_HOME") else []
        folders += ["/usr/local/cuda", *sorted(glob.glob("/usr/local/cuda-*"))]
        return next(filter(None, map(shutil.which, ["nvcc", *(folder + "/bin/nvcc" for folder in folders)])), None)

    @staticmethod
    def find_gpu():
        """[name, capability, MiB, MiB free, driver] of the GPU that the program would take, or None."""
        fields = "name,compute_cap,memory.total,memory.free,driver_version,uuid"
        cards = [line.split(", ") for line in
                 ask("nvidia-smi", "--query-gpu=" + fields, "--format=csv,noheader,nounits").splitlines()]
        cards = [card for card in cards if len(card) == 6]
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # nvidia-smi's
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        first = None if visible is None else visible.split(",")[0].strip()
        if first in ("", "-1"):
            return None
        if first and first.isdigit():
            cards = cards[int(first):]
        elif first:
            cards = [card for card in cards if card[5].startswith(first)] or cards
        return cards[0][:5] if cards else gpu_by_driver()

    def find_torch(self):
        """The first Python whose PyTorch sees a GPU, or None."""
        for python in dict.fromkeys(filter(None, [os.environ.get("PYTHON"), sys.executable, shutil.which("python3"),
                                                  "/usr/bin/python3"])):
            if self.gpu and ask(python, "-c", "import torch; print(torch.cuda.is_available())") == "True":
                return python
        return None

    def why_not(self):
        if not self.gpu:
            return ("no NVIDIA GPU found: nvidia-smi lists none, and the driver's library does not find one, either"
                    if os.environ.get("CUDA_VISIBLE_DEVICES") is None else
                    f"no NVIDIA GPU found with CUDA_VISIBLE_DEVICES='{os.environ['CUDA_VISIBLE_DEVICES']}'")
        if float(re.sub(r"[^0-9.]", "", self.capability) or 0) < 8:
            return f"the {self.gpu[0]} has compute capability {self.capability}; 8.0 or later is needed"
        if os.environ.get("CUDA") == "0":
            return "CUDA=0 leaves the GPU out"
        if not self.nvcc:
            return "nvcc not found: install the CUDA Toolkit and put its bin folder on PATH, or give CUDA=FOLDER"
        release = re.search(r"release (\d+)", ask(self.nvcc, "--version"))
        if not release:
            return f"{self.nvcc} does not run"
        if int(release[1]) < 12:
            return f"nvcc is CUDA {release[1]}'s, which cannot compile C++20: install CUDA 12 or later"
        return ""

    @property
    def capability(self):
        return self.gpu[1]

    @property
    def width(self):
        """The largest width of the networks that fits the free memory."""
        free = int(re.sub(r"\D", "", self.gpu[3]) or 0)
        return next(width for needed, width in WIDTHS if free >= needed)

    def describe(self):
        """The page's first table."""
        model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
                     platform.machine()) if os.path.exists("/proc/cpuinfo") else platform.machine()
        gpu = f"{self.gpu[0]}, compute capability {self.gpu[1]}, {self.gpu[2]} MiB ({self.gpu[3]} free)" \
            if self.gpu else "none"
        version = re.search(r"release [^\n]*", ask(self.nvcc, "--version")) if self.nvcc else None
        torch = ask(self.python, "-c", "import torch; print(torch.__version__)") if self.python else "none with a GPU"
        commit = ask("git", "-C", ROOT, "log", "-1", "--format=%h %cs")
        changed = " with changes" if ask("git", "-C", ROOT, "status", "--porcelain", "-uno") else ""
        compiler = ask(*shlex.split(os.environ.get("CXX", "g++")), "--version").splitlines() or ["none"]
        return [("GPU", gpu), ("driver", self.gpu[4] if self.gpu else "none"),
                ("nvcc", version[0] if version else "none"), ("PyTorch", torch),
                ("processor", f"{model}, {self.cores} cores"), ("compiler", compiler[0]),
                ("system", f"{platform.system()} {platform.release()}"), ("Python", platform.python_version()),
                ("commit", (commit or "not a git checkout") + changed), ("date", time.strftime("%Y-%m-%d %H:%M"))]


# ---- packages -------------------------------------------------------------------------------------------------------


def missing_packages():
    """The entries of PACKAGES that the compiler does not find where it, CPATH, LIBRARY_PATH and CXXFLAGS say."""
    compiler = shlex.split(os.environ.get("CXX", "g++") + " " + os.environ.get("CXXFLAGS", ""))

    def compiles(source, *flags):
        try:
            return subprocess.run([*compiler, "-x", "c++", "-", *flags], input=source, text=True, cwd=ROOT,
                                  capture_output=True, timeout=120).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False

    gone = [package for package in PACKAGES
            if not compiles(f"#if !__has_include(<{package[0]}>)\n#error\n#endif\n", "-E")]
    if PACKAGES[2] not in gone and not compiles("int main() {}\n", "-o", "/dev/null", "-lgtest", "-lgtest_main",
                                                "-lpthread"):
        gone.append(PACKAGES[2])
    return gone


def may_install():
    """Whether `make packages` can install without asking for a password."""
    if not shutil.which("apt-get"):
        return False
    return os.geteuid() == 0 or ask("sudo", "-n", "echo", "yes") == "yes"


def how_to_get(packages):
    names = " ".join(package for _, package, _ in packages)
    files = "; ".join(file for _, _, file in packages)
    return (f"missing: {names}. With root: apt-get install {names}. Without: put copies into a folder D ({files}; "
            "headers in D/include), and run CPATH=D/include LIBRARY_PATH=D/lib make gpu")


# ---- parts: each returns (detail, markdown), or throws Skipped or Failed --------------------------------------------


class Session:
    """One run: the machine, the options, and the parts' results."""

    def __init__(self, machine, folder, limits, overrides):
        self.machine, self.folder, self.limits, self.overrides = machine, folder, limits, overrides
        self.build_failed = False
        self.cut = ""  # why a part has less time than its own limit

    def log(self, part):
        return os.path.join(self.folder, part + ".log")

    def run(self, part, command, seconds, failing, shown=lambda output: "", environment=None):
        """Runs a command of a part. Out of time, it ends the part: as failed if it has printed one of the `failing`
        lines or has had the part's own limit, else as skipped. `shown` makes of its output what the page shows then."""
        output = run(command, self.log(part), seconds, environment)
        if output.code is None:
            line = output.first(*failing)
            stopped = f"stopped after {seconds:.0f} s" + (f", when {self.cut}" if self.cut else "")
            verdict = Skipped if self.cut and not line else Failed
            raise verdict(f"{line} ({stopped})" if line else f"{stopped}: {output.last}", shown(output))
        return output

    def program(self, name="dualmcmc"):
        """The path of a program that the build makes. Throws Skipped if it is not there, or not of this source."""
        path = os.path.join(ROOT, "build", name)
        if not os.path.exists(path):
            gone = [package for package in missing_packages() if name.endswith("tests") or package != PACKAGES[2]]
            raise Skipped(f"build/{name} is not built" + (": " + how_to_get(gone) if gone else ""))
        up_to_date = ["make", "-q", "-o", "packages", "-o", "test-packages", f"build/{name}", *self.make_variables()]
        if self.build_failed and run(up_to_date, self.log("build"), 60).code != 0:
            raise Skipped(f"the build failed, and build/{name} is an earlier one")
        return path

    def make_variables(self):
        """Of the build: for this GPU, unless the user says otherwise. Warnings of compilers newer than the project's are
        no verdict on it."""
        architecture = os.environ.get("CUDA_ARCH") or self.machine.capability.replace(".", "")
        return list(dict.fromkeys(["WERROR=0", "CUDA_ARCH=" + architecture, *self.overrides]))


BUILD_ERRORS = r".*\b(?:[Ee]rror|fatal) *:.*", r".*\*\*\*.*"


def part_build(session, seconds):
    variables = session.make_variables()
    gone = missing_packages()
    if gone and may_install():  # which fails on a machine without a network
        run(["make", "test-packages", *variables], session.log("build"), min(300, seconds / 2))
        gone = missing_packages()
    if gone and gone != [PACKAGES[2]]:
        raise Failed(how_to_get(gone))
    targets = ["build/dualmcmc"] + ([] if gone else ["build/dualmcmc_tests"])
    # -k: the program does not wait for tests that do not compile.
    command = ["make", "-k", f"-j{session.machine.cores}", *targets, *variables]
    session.build_failed = True
    output = session.run("build", command, seconds, BUILD_ERRORS)
    if output.code:
        raise Failed(output.first(*BUILD_ERRORS) or output.last)
    if (left_out := output.first("^building without the GPU: .*")):  # which make copes with
        raise Failed(left_out)
    session.build_failed = False
    without = f"; no tests ({how_to_get(gone)})" if gone else ""
    return f"{', '.join(targets)} with {' '.join(variables[1:])}{without}", ""


# GoogleTest's lines: "file:line: Failure", the values or the exception's text, "[  FAILED  ] Suite.name". The last is
# missing where the program ended before.
FAILURE = r"^(?:\S+:\d+|unknown file): Failure\n"
FAILING_TEST = (FAILURE + r"(?:.*\n)*?\[  FAILED  \] [^\s,]+", FAILURE + r"(?:.*\n?){4}", r"^\[  FAILED  \].*",
                r".*what\(\).*", r".*terminate.*")


def judge_tests(output):
    """GoogleTest's verdict: (passed, skipped), or Failed, or Skipped where no test ran on the GPU."""
    counts = {word: int(number)
              for word, number in re.findall(r"^\[  (PASSED|SKIPPED|FAILED) +\] (\d+) tests?", output.text, re.M)}
    if output.code or counts.get("FAILED") or "PASSED" not in counts:
        raise Failed(output.first(*FAILING_TEST) or output.last)
    if counts["PASSED"] == 0:
        reason = re.search(r"^\S+: Skipped\n(.*)", output.text, re.M)
        if not reason:
            raise Failed("no test ran: the build has no tests of a GPU")
        raise Skipped(f"no test ran: {reason[1]}")
    return counts["PASSED"], counts.get("SKIPPED", 0)


def part_tests(session, seconds):
    command = [session.program("dualmcmc_tests"), "--gtest_filter=Gpu/*CUDA*"]
    passed, skipped = judge_tests(session.run("tests", command, seconds, FAILING_TEST))
    return f"{passed} tests" + (f", {skipped} skipped" if skipped else ""), ""


def sanitizer_filter(tool):
    """A small set: what has shared memory and barriers, and for the two quicker tools the rest of the kernels. The exact
    convolutions are the same functions in all three precisions."""
    few = "Gpu/Kernel.*conv*CUDA*:Gpu/Kernel.*sum*CUDA*:Gpu/Kernel.*batch*CUDA*:Gpu/Kernel.*spectral*CUDA*"
    tests = few if tool in ("racecheck", "synccheck") else "Gpu/Kernel.*CUDA*:Gpu/GpuChains.*CUDA*"
    return tests + "-Gpu/Kernel.exact_convolutions/CUDAtf32:Gpu/Kernel.exact_convolutions/CUDAbf16"


SANITIZER_ERRORS = r"^========= (?!COMPUTE-SANITIZER|Target application|\w+ SUMMARY).*\S", *FAILING_TEST


def part_sanitizer(session, seconds, tool):
    toolkit = os.path.join(os.path.dirname(session.machine.nvcc), "compute-sanitizer")
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(toolkit)
    if not sanitizer:
        raise Skipped("compute-sanitizer not found: it comes with the CUDA Toolkit")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "1", session.program("dualmcmc_tests"),
               "--gtest_filter=" + sanitizer_filter(tool)]
    if tool == "memcheck":
        command[3:3] = ["--report-api-errors", "no"]  # the program asks what it may not have, and copes
    elif tool in ("racecheck", "synccheck"):  # cuBLAS's own kernels are no verdict on this program
        option = re.search("--kernel-(name|regex)", ask(sanitizer, "--help"))  # CUDA 12.3 renamed it
        command[3:3] = [option[0], "kns=dualmcmc"] if option else []
    output = session.run(tool, command, seconds, SANITIZER_ERRORS)
    if (unsupported := output.first("^========= .*Device not supported.*")):
        raise Skipped(unsupported)
    found = re.search(r"^========= (?:ERROR|RACECHECK) SUMMARY: (.*)", output.text, re.M)
    if output.code or not found or not re.match(r"0 (errors|hazards)", found[1]):
        raise Failed(output.first(*SANITIZER_ERRORS, ".*SUMMARY.*") or output.last)
    passed, _ = judge_tests(output)
    return f"{passed} tests, {found[1]}", ""


def parse_step(text):
    """check-step's output: the worst relative errors of outputs and of gradients, first of double against the file,
    then of the device against double; whether all lines are finite; the number of crossed ReLUs; the row of the
    device's largest error."""
    worst = [[0.0, 0.0], [0.0, 0.0]]
    finite, largest, largest_row = True, -1.0, ""
    for row, name, double, device in re.findall(r"^((\S.*?) +([-+.\w]+) +([-+.\w]+)(?:  DIFFERS)?)$", text, re.M):
        try:
            values = float(double), float(device)
        except ValueError:
            continue
        for column, value in enumerate(values):
            finite = finite and math.isfinite(value)
            if not name.startswith("after."):  # parameters are counted, not compared
                kind = int(name.startswith("grad."))
                worst[column][kind] = max(worst[column][kind], value)
        error = values[1] / 10 if "(share" in name else values[1]  # of parameters one in a hundred may be far
        error = error if math.isfinite(error) else math.inf
        if error > largest:
            largest, largest_row = error, row
    crossed = re.search(r"rounding took across their kink: (\d+)", text)
    return worst, finite and largest_row != "", int(crossed[1]) if crossed else 0, largest_row


STEP_DIFFERS = r".*DIFFERS$"
DEVICE_DIFFERS = r".*: [1-9]\d* beyond .* of the double run$"


def part_steps(session, seconds):
    """fp32 must agree with the double run within check-step's tolerance; TF32 and bf16, which may take ReLUs across
    their kink, are shown beside it, and must be finite."""
    end, wrong = time.monotonic() + seconds, []
    rows = ["| step | precision | double against the file | GPU against double: outputs, gradients | ReLUs crossed | |",
            "|---|---|---|---|---|---|"]
    files = sorted(glob.glob(os.path.join(ROOT, "reference", "step_*.safetensors")))
    program = session.program()
    try:
        for path in files:
            for precision in PRECISIONS:
                command = [program, "check-step", path, "--device", "cuda", "--precision", precision]
                command.append("--strict" if precision == "fp32" else "--fast")
                output = session.run("steps", command, end - time.monotonic(), (STEP_DIFFERS, DEVICE_DIFFERS),
                                     lambda _: "\n".join(rows))
                worst, finite, crossed, largest_row = parse_step(output.text)
                step = os.path.basename(path)[5:-12]
                good = "agrees" if precision == "fp32" else "finite"
                if output.code or not finite:
                    good = "failed"
                    device = filter(None, (output.first(DEVICE_DIFFERS), largest_row))
                    wrong.append(f"{step}, {precision}: "
                                 + (output.first(STEP_DIFFERS) or "; largest: ".join(device) or output.last))
                rows.append(f"| {step} | {precision} | {max(worst[0]):.0e} | {worst[1][0]:.0e}, {worst[1][1]:.0e} | "
                            f"{crossed} | {good} |")
    except Verdict as out_of_time:
        if not wrong:
            raise
        wrong[0] += f" ({out_of_time})"
    if not files:
        raise Failed("reference/step_*.safetensors: there are no step files")
    if wrong:
        raise Failed(wrong[0], "\n".join(rows))
    return f"{len(files)} step{'s' * (len(files) > 1)} in {', '.join(PRECISIONS)}", "\n".join(rows)


PROGRAM_ERRORS = "^bench: .*", "^dualmcmc: .*"


def part_bench(session, seconds):
    session.program()

    def table(output):
        return f"```\n{output.text.strip()}\n```" if output.text.strip() else ""

    python = session.machine.python or sys.executable
    output = session.run("bench", [python, "reference/bench.py", "--gpu", "--rounds", "3"], seconds, PROGRAM_ERRORS,
                         table, {"PYTHONUNBUFFERED": "1"})
    if output.code:
        raise Failed(output.first(*PROGRAM_ERRORS) or output.last, table(output))
    if output.first(r"^ *\d+ +\w+  PyTorch"):  # a row of its table
        return "with PyTorch", table(output)
    return f"alone: {output.first('^PyTorch.*') or 'no PyTorch that sees the GPU'}", table(output)


def is_cifar10(folder):
    """Whether its six files are there and whole."""
    files = [os.path.join(folder, name) for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")]
    return all(os.path.isfile(file) and os.path.getsize(file) == 30730000 for file in files)


def data_set(session, seconds):
    """(flags, note): CIFAR-10, or images that the program draws."""
    output = run(["bash", "data/cifar10.sh"], session.log("train"), min(300, seconds / 3))
    beside = [os.path.abspath(os.path.join(ROOT, place, "cifar-10-batches-bin")) for place in ("../shared", "shared")]
    folder = next(filter(is_cifar10, [*output.lines[-1:], *beside]), None)
    if folder:
        return ["--data", folder], "CIFAR-10"
    return ["--data", "shapes"], "images that the program draws: CIFAR-10 is not here (set CIFAR10_DIR)"


def pictures(session, folder):
    links = []
    for kind in "samples", "reconstructions":
        found = sorted(glob.glob(os.path.join(folder, "samples", f"*-{kind}.png")))
        links += [f"![{kind}]({os.path.relpath(found[-1], session.folder)})"] if found else []
    return "\n\n".join(links)


def part_train(session, seconds):
    begin = time.monotonic()
    folder = os.path.join(session.folder, "train")
    shutil.rmtree(folder, ignore_errors=True)
    flags, note = data_set(session, seconds)
    width = session.machine.width
    while True:
        left = seconds - (time.monotonic() - begin)
        minutes = max(0.25, left / 60 - TRAIN_EXTRA)
        encoder = max(16, width // 4)
        widths = ["--width-generator", str(width), "--width-ebm", str(width), "--width-encoder", str(encoder)]
        command = [session.program(), "train", "--preset", "cifar10", "--device", "cuda", *flags, *widths, "--minutes",
                   f"{minutes:.2f}", "--out", folder]
        output = session.run("train", command, left, PROGRAM_ERRORS, lambda _: pictures(session, folder))
        if output.code and "out of memory" in output.text and width > 64:
            width //= 2  # the estimate was wrong, or another program took the memory
            shutil.rmtree(folder, ignore_errors=True)
            continue
        break
    shown = pictures(session, folder)
    if output.code:
        raise Failed(output.first(*PROGRAM_ERRORS) or output.last, shown)
    progress = [line for line in output.lines if re.match(r"\d+/\d+ ", line)]
    distances = [line for line in output.lines if "statistics distance" in line]
    summary = "```\n" + "\n".join(progress[-1:] + distances[-1:]) + "\n```\n\n" if progress else ""
    return f"{minutes:.1f} minutes at widths {width}/{width}/{encoder}, {note}", summary + shown


# What says most for its minutes comes first.
PARTS = {"build": part_build, "tests": part_tests, "steps": part_steps, "bench": part_bench,
         **{tool: lambda session, seconds, tool=tool: part_sanitizer(session, seconds, tool) for tool in SANITIZERS},
         "train": part_train}
TITLES = {"build": "build", "tests": "GPU tests", "steps": "step files against double precision", "bench": "bench",
          "train": "training", **{tool: f"compute-sanitizer {tool}" for tool in SANITIZERS}}


# ---- the page -------------------------------------------------------------------------------------------------------


def one_line(text):
    text = " ".join(text.replace("|", "\\|").split())
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-95:]}"  # a failing test's name is at the end


def write_report(folder, machine, results, note=""):
    """results: {part: (verdict, detail, markdown, seconds)}."""
    counts = {word: sum(result[0] == word for result in results.values()) for word in ("passed", "failed", "skipped")}
    page = ["# GPU report", "", "**" + ", ".join(f"{n} {word}" for word, n in counts.items()) + "**" + note, "",
            "| machine | |", "|---|---|", *(f"| {name} | {one_line(value)} |" for name, value in machine.lines), "",
            "| part | verdict | | seconds | output |", "|---|---|---|---|---|"]
    for part, (verdict, detail, _, seconds) in results.items():
        log = f"[{part}.log]({part}.log)" if os.path.exists(os.path.join(folder, part + ".log")) else ""
        page.append(f"| {TITLES[part]} | {verdict} | {one_line(detail)} | {seconds:.0f} | {log} |")
    for part, (_, _, markdown, _) in results.items():
        if markdown:
            page += ["", f"## {TITLES[part][0].upper()}{TITLES[part][1:]}", "", markdown]
    temporary = os.path.join(folder, "report.md.part")
    with open(temporary, "w") as out:
        out.write("\n".join(page) + "\n")
    os.replace(temporary, os.path.join(folder, "report.md"))
    return counts


def run_part(session, part, seconds):
    """(verdict, detail, markdown, seconds)"""
    started = time.monotonic()
    verdict, markdown = "passed", ""
    try:
        detail, markdown = PARTS[part](session, seconds)
    except Verdict as end:
        verdict = "skipped" if isinstance(end, Skipped) else "failed"
        detail, markdown = end.detail, end.markdown
    except Exception as error:  # a fault of this script must not stop the next part
        verdict, detail = "failed", f"{type(error).__name__}: {error}"
    return verdict, detail, markdown, time.monotonic() - started


def limits_of(text, parser):
    """{part: minutes} from "part=minutes,..."."""
    limits = dict(MINUTES)
    for item in filter(None, re.split(r"[,\s]+", text)):
        part, _, minutes = item.partition("=")
        try:
            limits[part] = float(minutes)
        except ValueError:
            limits[part] = 0
        if part not in PARTS or limits[part] <= 0:
            parser.error(f"LIMITS: '{item}': give PART=MINUTES, with a part of {', '.join(PARTS)}")
    return limits


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated; default: all")
    parser.add_argument("--minutes", type=float, help="at most, for all parts together")
    parser.add_argument("--limits", default="", help="minutes of single parts: PART=MINUTES,...")
    parser.add_argument("--out", default=os.path.join(ROOT, "runs", "gpu"), help="folder of the page")
    parser.add_argument("overrides", nargs="*", help="variables for make, such as CUDA_ARCH=90")
    arguments = parser.parse_args()
    arguments.parts = list(dict.fromkeys(filter(None, re.split(r"[,\s]+", arguments.parts))))
    for part in arguments.parts:
        if part not in PARTS:
            parser.error(f"PARTS: there is no part '{part}'; give some of {', '.join(PARTS)}")
    if arguments.minutes is not None and not arguments.minutes > 0:
        parser.error(f"MINUTES={arguments.minutes:g}: must be above 0")
    arguments.limits = limits_of(arguments.limits, parser)
    return arguments


def main():
    begin = time.monotonic()
    arguments = parse_arguments()
    # The make that started this must not pass its jobs and options on to the one that builds.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
        os.environ.pop(name, None)
    for number in signal.SIGTERM, signal.SIGHUP:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)
    folder = os.path.abspath(arguments.out)
    os.makedirs(folder, exist_ok=True)
    for part in PARTS:  # of an earlier run
        if os.path.exists(os.path.join(folder, part + ".log")):
            os.remove(os.path.join(folder, part + ".log"))
    own = ("PARTS=", "MINUTES=", "LIMITS=")
    overrides = [text for text in arguments.overrides if "=" in text and not text.startswith(own)]
    os.environ.update(text.split("=", 1) for text in overrides)  # as make does
    machine = Machine()
    write_report(folder, machine, {}, " so far")  # in place of an earlier run's
    session = Session(machine, folder, arguments.limits, overrides)
    results, interrupted = {}, False
    for part in PARTS:
        if part not in arguments.parts:
            results[part] = "skipped", "not asked for (PARTS)", "", 0
    for part in arguments.parts:
        seconds = 60 * (arguments.limits[part] + (TRAIN_EXTRA if part == "train" else 0))
        session.cut = ""
        if arguments.minutes and (left := 60 * arguments.minutes - (time.monotonic() - begin)) < seconds:
            seconds, session.cut = left, f"the {arguments.minutes:g} minutes were used up (MINUTES)"
        if machine.missing or seconds <= 0 or interrupted:
            reason = machine.missing or ("the run was interrupted" if interrupted else session.cut)
            results[part] = "skipped", reason, "", 0
            continue
        say(f"{TITLES[part]}, at most {seconds / 60:.1f} minutes")
        try:
            results[part] = run_part(session, part, seconds)
        except KeyboardInterrupt:
            interrupted = True
            results[part] = "failed", "interrupted", "", 0
        say(f"{TITLES[part]}: {results[part][0]} ({one_line(results[part][1])})")
        write_report(folder, machine, {part: results[part] for part in PARTS if part in results}, " so far")
    note = f": {machine.missing}" if machine.missing else " (interrupted)" if interrupted else ""
    counts = write_report(folder, machine, {part: results[part] for part in PARTS}, note)
    if machine.missing:
        say(f"everything is skipped: {machine.missing}")
    say(f"{', '.join(f'{n} {word}' for word, n in counts.items())}: {os.path.join(folder, 'report.md')}")
    return 130 if interrupted else 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
