#!/usr/bin/env python3
"""Checks what the compiler does not: includes between rooms, line and function lengths, words that must not appear.

    python3 tests/check_tree.py

Prints one line per finding and exits with 1 if there are any. Checks the formatting, too, if clang-format 14 is found.
"""
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_BYTES, MAX_LINES = 120, 60

# A room is a folder. Its files may include files of the same room and of the rooms listed here. src/main.cpp may
# include every room but cuda/gpu and src/cpu/fast.
MAY_INCLUDE = {
    "cuda": [],
    "cuda/gpu": ["cuda"],
    "src/cpu": ["cuda"],
    "src/cpu/fast": ["cuda", "src/cpu"],
    "src/ranks": [],
    "src/machine": ["cuda", "src/cpu", "src/ranks"],
    "src/engine": ["cuda", "src/machine", "src/ranks"],
    "src/method": ["cuda", "src/machine", "src/ranks", "src/engine"],
    "src/formats": [],
    "src/data": ["src/formats"],
    "src/training": ["src/ranks", "src/engine", "src/method", "src/formats", "src/data"],
    "src/experiments": ["cuda", "src/cpu", "src/machine", "src/ranks", "src/engine", "src/method", "src/formats", "src/data",
                        "src/training"],
}
FOR_ALL = {"src/check.h", "src/hash.h", "src/numbers.h", "cuda/real.h"}
WRITTEN_PAGES = {"report.md", "compare.md", "ablate.md", "NAME.md"}  # by the program and its scripts
FAST = "src/cpu/fast"  # optional (make PLAIN=1), so only one file outside may include it
EXCEPTIONS = [  # (file, beginning of the included path)
    ("src/cpu/backend.cpp", "src/cpu/fast/"),
    ("cuda/launch.h", "cuda/gpu/launch_gpu.h"),
    ("cuda/gpu/mma.h", "tests/simt/simt_mma.h"),
]
CUDA_HEADER = re.compile(r"(cuda|cublas|curand|nv)\w*(\.h|\.hpp|/.*)$|gpu/|mma\.h$")
CUDA_WORD = re.compile(r"\b(cuda[A-Z]\w*|cublas[A-Z]\w*|curand[A-Z_]\w*|__(global|device|host|shared|constant)__|"
                       r"__syncthreads|(thread|block)Idx|(block|grid)Dim|dim3)\b")


# ---- includes -------------------------------------------------------------------------------------------------------


def resolve(path, name):
    """The file in the tree that `path` includes as `name`, searched like the Makefile's -I; None if there is none."""
    for folder in (str(pathlib.PurePath(path).parent), "cuda", "src", "tests", "tests/simt"):
        candidate = (ROOT / folder / name).resolve()
        if candidate.is_file() and candidate.is_relative_to(ROOT):
            return candidate.relative_to(ROOT).as_posix()
    return None


def may_include(path, target):
    room, target_room = (str(pathlib.PurePath(p).parent) for p in (path, target))
    if any(path == file and target.startswith(start) for file, start in EXCEPTIONS):
        return True
    if target in FOR_ALL or target_room == room:
        return path not in FOR_ALL or target in FOR_ALL
    if path.startswith("tests/"):
        return target_room != FAST
    if path == "src/main.cpp":
        return target_room in MAY_INCLUDE and target_room not in ("cuda/gpu", FAST)
    return target_room in MAY_INCLUDE.get(room, [])


def check_includes(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not match:
            continue
        quote, name = match.groups()
        target = resolve(path, name) if quote == '"' else None
        if path.startswith("src/") and CUDA_HEADER.match(name):
            yield f"{path}:{number}: includes {name}; only cuda/ may use CUDA"
        elif quote == '"' and not target:
            yield f"{path}:{number}: includes {name}, which is not in the tree"
        elif target and not may_include(path, target):
            yield f"{path}:{number}: {pathlib.PurePath(path).parent} may not include {target}"


# ---- functions ------------------------------------------------------------------------------------------------------

# Comments, raw strings, strings and characters. An apostrophe after a digit is a digit separator.
NOT_CODE = re.compile(r'//(?:[^\n\\]|\\.|\\\n)*|/\*.*?\*/|R"([^(\s]*)\(.*?\)\1"|"(?:[^"\\\n]|\\.)*"'
                      r"|(?<![0-9a-fA-F])'(?:[^'\\\n]|\\.)+'", re.S)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", re.M | re.S)
TOKEN = re.compile(r"#\w*|\w+|->|::|&&|[^\w\s]")
SPECIFIERS = {"const", "noexcept", "override", "final", "mutable", "try", "&", "&&"}
ATTRIBUTES = {"alignas", "__attribute__", "__align__", "__launch_bounds__"}


def blank(text):
    """Only the line breaks of `text`."""
    return "\n" * text.count("\n")


def code_of(text):
    """`text` with the same lines, but no comments, empty strings, and only #if, #else and #endif of the directives."""
    text = NOT_CODE.sub(lambda m: (" " if m[0][0] == "/" else '""') + blank(m[0]), text)

    def directive(match):
        word = re.match(r"\s*#\s*(\w*)", match[0])[1]
        kept = {"if": "#if", "ifdef": "#if", "ifndef": "#if", "elif": "#else", "else": "#else", "endif": "#endif"}
        return kept.get(word, "") + blank(match[0])

    return DIRECTIVE.sub(directive, text)


def tokens_of(code):
    line, position = 1, 0
    for match in TOKEN.finditer(code):
        line += code.count("\n", position, match.start())
        position = match.start()
        yield match[0], line


def without_template(head):
    """`head`, a list of (token, line), without a leading template <...>."""
    while head and head[0][0] == "template":
        depth = 0
        for i, (token, _) in enumerate(head):
            depth += (token == "<") - (token == ">")
            if token == ">" and depth == 0:
                break
        head = head[i + 1:]
    return head


def outside_parentheses(head):
    """The tokens of `head`, with each outermost parenthesised group replaced by ()."""
    words, depth = [], 0
    for token, _ in head:
        depth -= token == ")"
        if depth == 0:
            words.append("()" if token == ")" else token)
            if token == "(":
                words.pop()
        depth += token == "("
    return words


def opens(head):
    """What the brace after `head` opens: a "scope" (namespace or class), a "function" or an "initialiser"."""
    words = outside_parentheses(without_template(head))
    if "namespace" in words or words == ["extern", '"', '"']:
        return "scope"
    for i, word in enumerate(words):
        if word in ("class", "struct", "union", "enum"):
            return "scope"
        if word == "()" and words[i - 1] not in ATTRIBUTES:
            break
    else:
        return "initialiser"
    # f() const, f() -> T, f() requires C, or the last of a constructor's initialisers: f() : a(), b{}.
    after = words[i + 1:]
    while after and after[-1] in SPECIFIERS:
        after.pop()
    if not after or after[-1] in ("()", "}") or "->" in after or "requires" in after:
        return "function"
    return "initialiser"


def functions_of(code):
    """(name, first line, last line) of each function, from its return type to its closing brace. Lambdas and local
    classes count as part of the enclosing function. Yields (None, line, line) where braces do not match."""
    stack = []     # per open brace: what it opened, the head before it, and the parentheses open there
    branches = []  # per open #if: the state before it, from which each branch starts
    head, depth = [], 0
    for token, line in tokens_of(code):
        inside = any(kind == "function" for kind, _, _ in stack)
        if token == "#if":
            branches.append((list(stack), list(head), depth))
        elif token == "#else" and branches:
            stack, head, depth = list(branches[-1][0]), list(branches[-1][1]), branches[-1][2]
        elif token == "#endif" and branches:
            branches.pop()
        elif token == "{":
            kind = "nested" if inside else opens(head) if depth == 0 else "initialiser"
            stack.append((kind, head, depth))
            head, depth = [], 0
        elif token == "}":
            if not stack:
                yield None, line, line
                return
            kind, before, depth = stack.pop()
            if kind == "function":
                yield name_of(before), without_template(before)[0][1], line
            # An initialiser's brace does not end the declaration: f(Options o = {}), C() : a{1} {}.
            head = before + [("}", line)] if kind == "initialiser" else []
        elif inside:
            continue
        elif token == ";" and depth == 0 or token == ":" and [t for t, _ in head] in (["public"], ["private"],
                                                                                      ["protected"]):
            head = []
        else:
            depth += (token == "(") - (token == ")")
            head.append((token, line))
    if stack:
        yield None, line, line


def name_of(head):
    """The word before the parameters; for tests TEST(Suite, name)."""
    words = [token for token, _ in without_template(head)]
    at = next((i for i, word in enumerate(words) if word == "(" and words[i - 1] not in ATTRIBUTES), len(words))
    name = "".join(words[words.index("operator"):at]) if "operator" in words else words[at - 1]
    if name == "]":
        return "a lambda"
    return f"{name}({words[at + 1]}, {words[at + 3]})" if name.startswith("TEST") else name


def check_functions(path, code):
    for name, first, last in functions_of(code):
        if name is None:
            yield f"{path}:{first}: braces do not match"
        elif last - first + 1 > MAX_LINES:
            yield f"{path}:{first}: {name} has {last - first + 1} lines, more than {MAX_LINES}"


# ---- words and lines ------------------------------------------------------------------------------------------------


def check_lines(path, data):
    for number, line in enumerate(data.split(b"\n"), 1):
        if len(line) > MAX_BYTES:
            yield f"{path}:{number}: {len(line)} bytes, more than {MAX_BYTES}"


def check_citations(path, text, pages):
    for number, line in enumerate(text.split("\n"), 1):
        for name in re.findall(r"[\w-]+\.md\b", line):
            if name not in pages | WRITTEN_PAGES:
                yield f"{path}:{number}: cites {name}, which is not in the tree"


def check_cuda_words(path, code):
    for number, line in enumerate(code.split("\n"), 1):
        for match in CUDA_WORD.finditer(line):
            yield f"{path}:{number}: {match[0]}; only cuda/ may use CUDA"


# ---- formatting -----------------------------------------------------------------------------------------------------


def clang_format_14():
    for name in ("clang-format-14", "clang-format"):
        program = shutil.which(name)
        if program and re.search(r"version 14\.", subprocess.run([program, "--version"], capture_output=True,
                                                                 text=True).stdout):
            return program
    return None


def check_formatting(paths):
    """One finding per file: the first line that clang-format would change."""
    program = clang_format_14()
    if not program:
        print("check_tree.py: clang-format 14 not found, formatting not checked", file=sys.stderr)
        return
    result = subprocess.run([program, "--dry-run", "-Werror", *paths], cwd=ROOT, capture_output=True, text=True)
    seen = set()
    for path, number in re.findall(r"^(\S+?):(\d+):\d+: error:", result.stderr, re.M):
        if path not in seen:
            yield f"{path}:{number}: clang-format would change this; run make format"
        seen.add(path)
    if result.returncode and not seen:
        yield f"clang-format failed: {' '.join(result.stderr.split())}"


# ---- all checks -----------------------------------------------------------------------------------------------------


def files(folders, endings):
    found = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in endings and p.is_file()]
    return sorted(p.relative_to(ROOT).as_posix() for p in found)


def findings():
    sources = files(["src", "cuda", "tests"], {".h", ".cpp", ".cu", ".cuh"})
    for path in sources:
        data = (ROOT / path).read_bytes()
        text = data.decode("utf-8", "replace")
        code = code_of(text)
        yield from check_includes(path, text)
        yield from check_lines(path, data)
        yield from check_functions(path, code)
        if path.startswith("src/"):
            yield from check_cuda_words(path, code)
    prose = files(["src", "tests", "reference", "data"], {".md", ".py", ".sh"}) + ["README.md", "Makefile"]
    pages = {pathlib.PurePath(path).name for path in prose if path.endswith(".md")}
    for path in sources + prose:
        yield from check_citations(path, (ROOT / path).read_text(errors="replace"), pages)
    yield from check_formatting(sources)


def main():
    count = 0
    for finding in findings():
        print(finding)
        count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
