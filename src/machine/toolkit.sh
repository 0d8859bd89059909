#!/bin/sh
# For the Makefile: tries CUDA's compiler once, before the build relies on it.
#
#   toolkit.sh BUILD NVCC COMPILER "ARCHITECTURES" "FLAGS"
#
# Compiles and links cuda/trial.cu. Writes BUILD/toolkit.mk, which says how to compile and link, or nothing where nvcc
# cannot be used: one line on stderr then says why and what to do. Where the paths lie is what nvcc itself says, since
# toolkits come in several layouts. What the user must correct (CUDA_ARCH) is printed on stdout.
build=$1 nvcc=$2 compiler=$3 architectures=$4 flags=$5
log=$build/toolkit.log

leave_out() {
    echo "building without the GPU: $* (CUDA=0 leaves it out without this line)" >&2
    : > "$build/toolkit.mk"
    exit
}

# The line of the log that says most.
reason() {
    { grep -iE 'error|fatal|unsupported' "$log" || tail -n 1 "$log"; } | head -n 1 | cut -c 1-200
}

[ -n "$nvcc" ] ||
    leave_out "no nvcc on the PATH or in /usr/local/cuda; install CUDA 12 or later, or name its folder with CUDA=DIR"
"$nvcc" --version > "$log" 2>&1 || leave_out "$nvcc does not run ($(reason)); name another toolkit's folder with CUDA=DIR"
release=$(sed -n 's/.*release \([0-9.]*\).*/\1/p' "$log")
[ "${release%%.*}" -ge 12 ] 2>/dev/null ||
    leave_out "nvcc ${release:-of unknown version} ($nvcc) is too old, C++20 needs CUDA 12 or later;" \
        "name a newer toolkit's folder with CUDA=DIR"

wrong_architectures() {
    echo "CUDA_ARCH=$architectures: $*"
    exit
}

# The GPUs of this machine, such as 86 90; none if nvcc says that it falls back to a default.
native() {
    "$nvcc" -arch=native --dryrun -x cu /dev/null > "$log" 2>&1
    grep -q 'Cannot find valid GPU' "$log" ||
        sed -n 's/.*-D__CUDA_ARCH_LIST__=\([0-9,]*\).*/\1/p' "$log" | head -n 1 | tr ',' '\n' | sed 's/0$//'
}

# Code for each compute capability, and PTX for later ones.
code=
for architecture in $(echo "$architectures" | tr ',;' '  '); do
    numbers=$(echo "$architecture" | sed -E 's/^(sm_|compute_)//; s/^([0-9]+)\.([0-9])/\1\2/')
    [ "$numbers" != native ] || numbers=$(native)
    [ -n "$numbers" ] ||
        wrong_architectures "nvcc finds no GPU in this machine; give its compute capability, such as 86"
    for number in $numbers; do
        echo "$number" | grep -qE '^([89][0-9]|1[0-9][0-9])[af]?$' || wrong_architectures \
            "give compute capabilities of 8.0 or later, such as 86, sm_86 or \"80 90\", or native (this machine's GPU)"
        code="$code${code:+ }-gencode arch=compute_$number,code=[sm_$number,compute_$number]"
    done
done

# Tried once for the same tools, settings and search paths.
tried="# $nvcc $release, $("$compiler" --version 2>/dev/null | head -n 1), $flags $code, $CPATH:$LIBRARY_PATH"
[ "$(head -n 1 "$build/toolkit.mk" 2>/dev/null)" != "$tried" ] || exit 0

# The words of a variable that nvcc prints, such as LIBRARIES= "-L/a" "-L/b".
words() { "$nvcc" --dryrun -x cu /dev/null 2>&1 | sed -n "s/^#\\$ $1=//p" | xargs; }
libraries="$(words LIBRARIES) -lcudart_static -ldl -lrt -lpthread"

if ! "$nvcc" $flags $code -c cuda/trial.cu -o "$build/toolkit.o" > "$log" 2>&1; then
    if grep -qiE 'unsupported (gnu|clang|compiler)|host compiler' "$log"; then
        leave_out "nvcc $release ($nvcc) refuses the compiler $compiler ($(reason)); give one that it takes, such as CXX=g++-12"
    fi
    leave_out "nvcc $release ($nvcc) fails ($(reason)); $log has all that it says, CUDA=DIR names another toolkit"
fi
"$compiler" "$build/toolkit.o" $libraries -o "$build/toolkit" > "$log" 2>&1 ||
    leave_out "the CUDA runtime of $nvcc does not link ($(reason)); install libcudart_static.a, or name its folder with" \
        "LIBRARY_PATH=DIR"
cat > "$build/toolkit.mk" <<END
$tried
GPU_WORKS     := 1
GPU_CODE      := $code
GPU_INCLUDES  := $(words INCLUDES)
GPU_LIBRARIES := $libraries
END
