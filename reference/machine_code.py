"""What nvcc makes of the GPU's kernels, without a GPU: registers, and instructions of the machine code (SASS) for sm_80 and sm_90.

    python3 reference/machine_code.py

Fails where the tensor cores' kernel has no instructions of theirs, or where a kernel keeps numbers in local memory. Instructions are 16
bytes, whose lowest 12 bits say which they are; `cuobjdump -sass`, where it is installed, prints them in full. That the numbers below are
right shows in their counts, which are those of the loops that cuda/gpu_mma.h unrolls.
"""
import collections
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = {0x23C: "HMMA", 0x83B: "LDSM", 0xFAE: "LDGSTS", 0x983: "LDL", 0x387: "STL", 0x987: "STL"}
# A step's products and fragments, and copies: for two steps before the loop and one in it. By a block's columns.
UNROLLED = {128: {"HMMA": 2 * 4 * 8, "LDSM": 2 * (4 + 4), "LDGSTS": 3 * (4 + 4)}, 64: {"HMMA": 2 * 2 * 8, "LDSM": 2 * (2 + 4), "LDGSTS": 3 * (4 + 2)}}


def kernels(cubin):
    """Yields (mangled name, instructions) of each kernel in an ELF file."""
    offset, = struct.unpack_from("<Q", cubin, 40)
    count, names = struct.unpack_from("<HH", cubin, 60)
    sections = [struct.unpack_from("<IIQQQQ", cubin, offset + 64 * i) for i in range(count)]
    for name, _, _, _, start, size in sections:
        begin = sections[names][4] + name
        title = cubin[begin:cubin.index(0, begin)].decode()
        if title.startswith(".text."):
            words = struct.iter_unpack("<HHIQ", cubin[start:start + size])
            yield title[len(".text."):], collections.Counter(NAMES.get(word[0] & 0xFFF, "other") for word in words)


def compile_for(architecture, source, folder):
    """The cubin, and each kernel's registers."""
    cubin = pathlib.Path(folder) / "code.cubin"
    made = subprocess.run([NVCC, "-x", "cu", "-std=c++20", "-O3", "--extended-lambda", "-I", ROOT / "cuda", "-DGPU", "-DDEVICE_NAMESPACE=cuda",
                           '-DDEVICE_NAME="CUDA"', f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v", "-o", cubin, source],
                          check=True, stderr=subprocess.PIPE, text=True).stderr
    return cubin.read_bytes(), dict(re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", made, re.S))


def main():
    if not NVCC:
        sys.exit("there is no nvcc: put the CUDA Toolkit's on the path")
    wrong = []
    for architecture in 80, 90:
        for source in sorted((ROOT / "cuda").glob("gpu_*.cu")) + [ROOT / "cuda" / "kernels.cu"]:
            with tempfile.TemporaryDirectory() as folder:
                cubin, registers = compile_for(architecture, source, folder)
            found = list(kernels(cubin))
            local = [name for name, code in found if code["LDL"] + code["STL"]]
            most = max((int(registers[name]) for name, _ in found), default=0)
            print(f"sm_{architecture} {source.name}: {len(found)} kernels, at most {most} registers, {len(local)} with local memory")
            wrong += local
            for name, code in found:
                if "run_sum" not in name:
                    continue
                kind, columns = "TF32" if "Tf32" in name else "bf16", 128 if "Li128E" in name else 64
                print(f"  run_sum, {kind}, {columns} columns: {registers[name]} registers, " + ", ".join(f"{code[key]} {key}" for key in UNROLLED[columns]))
                wrong += [f"{name}: {key}" for key, count in UNROLLED[columns].items() if code[key] != count]
    if wrong:
        sys.exit("not as it should be: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
