"""Checks the machine code (SASS) that nvcc generates for the GPU kernels, for sm_80 and sm_90; needs no GPU.

    python3 reference/check_sass.py

Prints the numbers of kernels and registers by file. Fails if a kernel uses local memory, if one that locates pixels
divides in 64 bits, or if the implicit GEMM of the convolutions does not have as many tensor-core and copy instructions
as its unrolled loops require, or loads in a row (cuda/gpu/mma.h). An instruction is 16 bytes; its lowest 12 bits are the
opcode. NVIDIA does not document the opcodes below; `cuobjdump -sass`, where it is installed, names the instructions.
"""
import collections
import itertools
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
ROOT = pathlib.Path(__file__).resolve().parent.parent
GPU_ONLY = sorted((ROOT / "cuda" / "gpu").glob("*.cu"))
COMMON = [ROOT / "cuda" / "kernels.cu"]  # also compiled for the CPU
ARCHITECTURES = 80, 90
OPCODES = {0x23C: "HMMA", 0x83B: "LDSM", 0xFAE: "LDGSTS", 0x983: "LDL", 0x387: "STL", 0x987: "STL", 0x981: "LDG",
           0x986: "STG", 0x945: "BSSY", 0x947: "BRA"}
# In the mangled names of kernels that divide an index into image, row and column for every thread; those for channels in
# fours where there are two.
LOCATES_PIXELS = re.compile(r"fill_paddedILi4E|fill_box_filteredILi4E|gather_vectorsILi4E|avg_pool2|upsample2")
IMPLICIT_GEMM = "implicit_gemm", "run_sum"  # what its mangled name contains, now and formerly
# By the columns of a thread block's tile. HMMA and LDSM (ldmatrix): of one K tile, in two halves. LDGSTS (cp.async): of
# three K tiles, two before the main loop and one in it. LDG8: eight loads with no branch and no store between them; masks
# or biases, and residuals, of each row of the epilogue.
UNROLLED = {128: {"HMMA": 2 * 4 * 8, "LDSM": 2 * (4 + 4), "LDGSTS": 3 * (4 + 4), "LDG8": 2 * 4 * 2},
            64: {"HMMA": 2 * 2 * 8, "LDSM": 2 * (2 + 4), "LDGSTS": 3 * (4 + 2), "LDG8": 2 * 2 * 2}}


def kernels(cubin):
    """Yields (mangled name, {instruction: count}) for each kernel in an ELF file; DIV64 counts subroutines for 64-bit
    divisions, which nvcc puts beside the kernel that calls them."""
    offset, = struct.unpack_from("<Q", cubin, 40)
    count, names = struct.unpack_from("<HH", cubin, 60)
    sections = [struct.unpack_from("<IIQQQQ", cubin, offset + 64 * i) for i in range(count)]

    def string(table, at):
        begin = sections[table][4] + at
        return cubin[begin:cubin.index(0, begin)].decode()

    titles = [string(names, section[0]) for section in sections]
    symbols, strings = titles.index(".symtab"), titles.index(".strtab")
    divisions = collections.Counter()  # by section
    for name, _, _, section, _, _ in struct.iter_unpack("<IBBHQQ", cubin[sections[symbols][4]:][:sections[symbols][5]]):
        divisions[section] += bool(re.search(r"_(div|rem)_[su]64$", string(strings, name)))
    for i, (title, (_, _, _, _, start, size)) in enumerate(zip(titles, sections)):
        if title.startswith(".text."):
            words = struct.iter_unpack("<HHIQ", cubin[start:start + size])
            sequence = [OPCODES.get(word[0] & 0xFFF, "other") for word in words]
            code = collections.Counter(sequence)
            marks = (opcode for opcode in sequence if opcode in ("LDG", "STG", "BSSY", "BRA"))
            code["LDG8"] = sum(len(list(run)) // 8 for opcode, run in itertools.groupby(marks) if opcode == "LDG")
            code["DIV64"] = divisions[i]
            yield title[len(".text."):], code


def compile_for(architecture, source, folder):
    """Returns the cubin and {kernel: registers}."""
    cubin = pathlib.Path(folder) / "code.cubin"
    command = [NVCC, "-x", "cu", "-std=c++20", "-O3", "--extended-lambda", "-I", ROOT / "cuda",
               "-DGPU", "-DDEVICE_NAMESPACE=cuda", '-DCUDA_LIBRARIES=""', '-DDEVICE_NAME="CUDA"',
               f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v", "-o", cubin, source]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"{result.stderr}\ncheck_sass: nvcc could not compile {source}")
    registers = re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", result.stderr, re.S)
    return cubin.read_bytes(), {name: int(count) for name, count in registers}


def check_file(architecture, source):
    """Prints a line for the file and one for each implicit GEMM. Returns the number of these and a list of failures."""
    with tempfile.TemporaryDirectory() as folder:
        cubin, registers = compile_for(architecture, source, folder)
    found = list(kernels(cubin))
    wrong = [f"{name}: local memory" for name, code in found if code["LDL"] + code["STL"]]
    wrong += [f"{name}: 64-bit divisions" for name, code in found if code["DIV64"] and LOCATES_PIXELS.search(name)]
    most = max((registers[name] for name, _ in found), default=0)
    print(f"sm_{architecture} {source.name}: {len(found)} kernels, at most {most} registers, "
          f"{len(wrong)} that fail", flush=True)
    gemms = [(name, code) for name, code in found if any(part in name for part in IMPLICIT_GEMM)]
    for name, code in gemms:
        element, columns = "TF32" if "Tf32" in name else "bf16", 128 if "Li128E" in name else 64
        counts = ", ".join(f"{code[key]} {key}" for key in UNROLLED[columns])
        print(f"  implicit GEMM, {element}, {columns} columns: {registers[name]} registers, {counts}")
        wrong += [f"{name}: {code[key]} {key}, expected {count}"
                  for key, count in UNROLLED[columns].items() if code[key] != count]
    return len(gemms), wrong


def main():
    if not NVCC:
        sys.exit("check_sass: nvcc not found; install the CUDA Toolkit and put its bin folder on PATH")
    wrong = []
    for architecture in ARCHITECTURES:
        gemms = 0
        for source in GPU_ONLY + COMMON:
            its_gemms, its_wrong = check_file(architecture, source)
            gemms, wrong = gemms + its_gemms, wrong + its_wrong
        if gemms == 0:
            wrong.append(f"sm_{architecture}: no implicit GEMM kernel found")
    if wrong:
        sys.exit("check_sass: failed:\n  " + "\n  ".join(wrong))


if __name__ == "__main__":
    main()
