"""FID, KID and IS of a checkpoint in one command, computed by the field's own programs.

    python3 reference/fid.py runs/paper/checkpoints/iteration-NNNNNN.safetensors
    python3 reference/fid.py CHECKPOINT --kind revised --count 10000 --out DIR

It takes the first of torch-fidelity (FID, KID, IS), pytorch-fid (FID) and clean-fid (FID, KID) that this Python has.
Then it writes the training images (`dualmcmc export`), draws the samples (`dualmcmc sample`), and prints one table.
After an interruption the same command goes on from the images that are there.

    OUT/real/        the training images; real.txt says whose
    OUT/generator/   g(z)
    OUT/revised/     the same, revised by the EBM
    OUT/fid.txt      the table

None of the three programs was available so far: tests/fid_script_test.py runs this script on stand-ins for them. At
their first use they download the weights of the Inception network.
"""
import argparse
import ctypes
import importlib
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
USUAL_COUNT = 50000  # of samples, in papers
KID_SUBSET = 1000    # images, torch-fidelity's default
IS_SPLITS = 10       # likewise


class Failed(Exception):
    """What the user must know, as one line."""


class Interrupted(Exception):
    """By the signal of this number, during a program."""


def one_line(error):
    return " ".join(f"{type(error).__name__}: {error}".split())


# ---- the programs that compute the FID: each has its results as {column: text}, the FID always ----------------------


class TorchFidelity:
    package, module, note = "torch-fidelity", "torch_fidelity", ""

    def measure(self, images, real, smallest, cuda):
        scores = importlib.import_module(self.module).calculate_metrics(
            input1=images, input2=real, cuda=cuda, fid=True, kid=True, isc=True,
            kid_subset_size=min(KID_SUBSET, smallest), isc_splits=min(IS_SPLITS, smallest))
        kid, spread = (1e3 * scores[f"kernel_inception_distance_{part}"] for part in ("mean", "std"))
        isc, isc_spread = (scores[f"inception_score_{part}"] for part in ("mean", "std"))
        return {"FID": scores["frechet_inception_distance"], "KID x 1e3": f"{kid:.3f} ± {spread:.3f}",
                "IS": f"{isc:.3f} ± {isc_spread:.3f}"}


class PytorchFid:
    package, module, note = "pytorch-fid", "pytorch_fid.fid_score", "pytorch-fid computes neither KID nor IS."

    def measure(self, images, real, smallest, cuda):
        command = [sys.executable, "-m", "pytorch_fid", images, real, "--device", "cuda" if cuda else "cpu"]
        text = run(command, "pytorch-fid", stdout=subprocess.PIPE)
        found = re.search(r"^FID:\s*(\S+)", text, re.M)
        if not found:
            raise Failed(f"pytorch-fid printed no FID: {text.strip() or 'nothing'}")
        return {"FID": float(found[1])}


class CleanFid:
    package, module = "clean-fid", "cleanfid.fid"
    note = "clean-fid resizes with filters of its own, so its FID is comparable with clean-fid's alone; it has no IS."

    def measure(self, images, real, smallest, cuda):
        fid, torch = importlib.import_module(self.module), importlib.import_module("torch")
        device = torch.device("cuda" if cuda else "cpu")
        return {"FID": float(fid.compute_fid(images, real, device=device)),
                "KID x 1e3": f"{1e3 * fid.compute_kid(images, real, device=device):.3f}"}


EVALUATORS = TorchFidelity, PytorchFid, CleanFid


def installed(module):
    try:
        return importlib.util.find_spec(module.split(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def find_evaluator():
    """The first program that loads: installed is not enough, as it may lack PyTorch."""
    broken = []
    for evaluator in filter(lambda one: installed(one.module), EVALUATORS):
        try:
            importlib.import_module("torch")
            importlib.import_module(evaluator.module)
        except Exception as error:
            broken.append(f"{evaluator.package} is installed but does not load ({one_line(error)})")
            continue
        for line in broken:
            say(f"{line}; taking {evaluator.package}")
        return evaluator()
    raise Failed(f"{'; '.join(broken) or 'no program that computes the FID is installed'}: "
                 f"{sys.executable} -m pip install torch-fidelity (or pytorch-fid, or clean-fid)")


def with_version(package):
    metadata = importlib.import_module("importlib.metadata")
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


# ---- running programs -----------------------------------------------------------------------------------------------


def say(text):
    print("fid: " + text, file=sys.stderr, flush=True)


LIBC = ctypes.CDLL(None)


def end_with_parent():
    """In a program about to start: it gets SIGTERM when this script dies."""
    LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def run(command, name, stdout=None):
    """Runs a program, and returns what it printed if `stdout` is a pipe. It has a process group of its own, so that
    each Ctrl-C reaches it once, from here: `sample` ends after its batch at the first and at once at the second."""
    received, process = [], None

    def hand_on(number, _):
        received.append(number)
        if process:
            process.send_signal(number)

    signals = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
               if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, hand_on) for number in signals}
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, start_new_session=True,
                                   preexec_fn=end_with_parent, text=True, errors="replace")
        text = process.communicate()[0]
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise Interrupted(received[0])
    if process.returncode:
        how = f"exit code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        raise Failed(f"{name} failed ({how}), see above")
    return text


# ---- the images -----------------------------------------------------------------------------------------------------


def settings_of(path):
    """The settings in a checkpoint: the metadata of a safetensors file, {name: text}."""
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > os.path.getsize(path):
                raise ValueError
            metadata = json.loads(file.read(size)).get("__metadata__", {})
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}")
    except (ValueError, AttributeError, struct.error):
        raise Failed(f"{path}: not a checkpoint, which is a .safetensors file")
    return metadata


def read_text(path):
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def write_text(path, text):
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def images_in(folder):
    return sum(name.endswith(".png") for name in os.listdir(folder))


def write_real_images(arguments, settings):
    """OUT/real, the training images. It appears complete or not at all; real.txt says whose images they are."""
    real, part, note = (os.path.join(arguments.out, name) for name in ("real", "real.part", "real.txt"))
    data, architecture = arguments.data, settings.get("architecture", "cifar10")
    seed = settings.get("seed", "1") if data == "shapes" else "1"  # it matters for drawn images alone
    whose = f"{os.path.abspath(data) if os.path.exists(data) else data}, {architecture}, seed {seed}\n"
    if os.path.exists(real):
        found = read_text(note) if os.path.exists(note) else "unknown images"
        if found != whose:
            raise Failed(f"{real} holds images of {found.strip()}, not of {whose.strip()}: delete it or give another "
                         "--out")
        return real
    shutil.rmtree(part, ignore_errors=True)  # of an interrupted run
    write_text(note, whose)
    run([arguments.program, "export", "--data", data, "--split", "train", "--architecture", architecture, "--seed",
         seed, "--out", part], "dualmcmc export")
    os.rename(part, real)
    return real


def draw_samples(arguments):
    """{kind: folder} of complete samples. `sample` goes on where it was interrupted."""
    run([arguments.program, "sample", "--model", arguments.checkpoint, "--count", str(arguments.count), "--kind",
         arguments.kind, "--data", arguments.data, "--device", arguments.device, "--out", arguments.out],
        "dualmcmc sample")
    kinds = ("generator", "revised") if arguments.kind == "both" else (arguments.kind,)
    folders = {kind: os.path.join(arguments.out, kind) for kind in kinds}
    for folder in folders.values():
        if images_in(folder) != arguments.count:
            raise Failed(f"{folder} holds {images_in(folder)} images, not {arguments.count}")
    return folders


# ---- the table ------------------------------------------------------------------------------------------------------


def table(rows):
    """Texts in columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (row[0].ljust(widths[0]) + "".join("  " + text.rjust(width) for text, width in zip(row[1:], widths[1:]))
             for row in rows)
    return "\n".join(lines)


def measure(arguments, evaluator, folders, real):
    """The text of the table."""
    torch = importlib.import_module("torch")
    cuda = not arguments.device.startswith("cpu") and torch.cuda.is_available()
    if arguments.device == "cuda" and not cuda:
        say("PyTorch sees no GPU; the Inception network runs on the CPU")
    training_images = images_in(real)
    smallest = min(arguments.count, training_images)
    rows = []
    for kind, folder in folders.items():
        say(f"{evaluator.package}: {kind}")
        try:
            scores = evaluator.measure(folder, real, smallest, cuda)
        except (Failed, Interrupted):
            raise
        except Exception as error:
            raise Failed(f"{evaluator.package} failed ({one_line(error)}); the images are complete, and the same "
                         "command goes on from them")
        if not math.isfinite(scores["FID"]):
            raise Failed(f"{evaluator.package} gives the {kind} images the FID {scores['FID']}")
        scores["FID"] = f"{scores['FID']:.3f}"
        rows.append([kind, str(arguments.count), *(scores.get(name, "–") for name in ("FID", "KID x 1e3", "IS"))])
    notes = [evaluator.note]
    if smallest < KID_SUBSET and evaluator.package == "torch-fidelity":
        notes.append(f"KID is over subsets of {smallest} images, not of {KID_SUBSET}.")
    if arguments.count < USUAL_COUNT:
        notes.append(f"The FID of fewer samples is higher: compare it with that of {arguments.count} samples alone.")
    head = (f"{os.path.basename(arguments.checkpoint)} against {training_images} training images of {arguments.data}, "
            f"by {with_version(evaluator.package)} on the {'GPU' if cuda else 'CPU'}")
    return "\n".join([head, table([["", "images", "FID", "KID x 1e3", "IS"], *rows]), *filter(None, notes)]) + "\n"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint, .safetensors")
    parser.add_argument("--count", type=int, default=USUAL_COUNT, help="samples of each kind; default: %(default)s")
    parser.add_argument("--kind", choices=("revised", "generator", "both"),
                        help="which samples; default: both, or what the model's training taught")
    parser.add_argument("--data", help="as in `dualmcmc train`; default: what the model was trained on")
    parser.add_argument("--out", help="folder of all images; default: fid/NAME-OF-THE-CHECKPOINT in the model's run")
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "dualmcmc"), help="default: build/dualmcmc")
    parser.add_argument("--device", default="auto", help="as in `dualmcmc sample`; with cpu the Inception network does "
                        "not use a GPU either; default: %(default)s")
    return parser.parse_args()


def prepare(arguments):
    """Checks what can be checked before any image is drawn, and fills in the defaults. Returns the model's settings and
    the evaluator."""
    if arguments.count < 2:
        raise Failed(f"--count {arguments.count}: must be at least 2")
    settings = settings_of(arguments.checkpoint)
    if not arguments.kind:
        arguments.kind = "generator" if settings.get("learn-ebm") == "false" else \
            "revised" if settings.get("learn-generator") == "false" else "both"
    arguments.data = arguments.data or settings.get("data")
    if not arguments.data:
        raise Failed("the checkpoint does not name the data it was trained on; give --data")
    arguments.program = os.path.abspath(arguments.program)
    if not os.access(arguments.program, os.X_OK) or os.path.isdir(arguments.program):
        raise Failed(f"{arguments.program} is not a program; build it first: make")
    if not arguments.out:
        folder, name = os.path.split(os.path.abspath(arguments.checkpoint))
        run_folder = os.path.dirname(folder) if os.path.basename(folder) == "checkpoints" else folder
        arguments.out = os.path.join(run_folder, "fid", os.path.splitext(name)[0])
    arguments.out = os.path.abspath(arguments.out)
    evaluator = find_evaluator()
    try:
        os.makedirs(arguments.out, exist_ok=True)
    except OSError as error:
        raise Failed(f"--out {arguments.out}: {error.strerror}")
    return settings, evaluator


def main():
    for stream in sys.stdout, sys.stderr:
        stream.reconfigure(errors="backslashreplace")
    arguments = parse_arguments()
    try:
        settings, evaluator = prepare(arguments)
        real = write_real_images(arguments, settings)
        text = measure(arguments, evaluator, draw_samples(arguments), real)
        write_text(os.path.join(arguments.out, "fid.txt"), text)
        print(text, end="", flush=True)
        return 0
    except Failed as error:
        say(str(error))
        return 1
    except (Interrupted, KeyboardInterrupt) as error:
        say("interrupted; run the same command again to continue")
        return 128 + (error.args[0] if isinstance(error, Interrupted) else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
