# dualmcmc: make · make test · make demo · make train · make toys · make bench · make gpu · make reference · make format ·
# make fuzz · make soak
#
#   V=1             print the compiler commands
#   CXX=clang++-19  the compiler, also nvcc's: g++ 11 or later, clang++ 16 or later
#   CUDA=0          leave the GPU out; CUDA=DIR: the toolkit in that folder; CUDA=1: the one that is found, the default
#   CUDA_ARCH=86    build for that compute capability alone; also sm_86, "80 90", or native: this machine's GPU
#   SYNC=1          wait for each kernel, so that an error is reported where it was made
#   MPI=0           leave MPI out, with which mpirun -np N trains on N processes; by default it is used where mpicxx is found
#   MPICXX=...      another wrapper than mpicxx, such as mpicxx.mpich; the tests then need MPIRUN=mpirun.mpich
#   WERROR=1, 0     whether warnings are errors, and a failing nvcc is one; by default with g++ 12, whose warnings are known
#   PLAIN=1         leave src/cpu/fast out: the CPU computes everything by its plainest kernels
#   REAL=double     all numbers in double precision, as proof: by the plain kernels of the CPU, in build/double
#
# Sources are compiled on all cores. The CPU's kernels are compiled once per instruction set, the GPU's by nvcc; the program chooses when it
# starts.

CXX      ?= g++
# Debian's, which has its python3-torch, unless PyTorch is found by the one on the PATH alone.
PYTHON   ?= $(shell for p in /usr/bin/python3 python3; do $$p -c 'import torch' 2>/dev/null && echo $$p && exit; done; \
              echo /usr/bin/python3)
CXXFLAGS ?= -O3
DOUBLE   := $(filter double,$(REAL))
PLAIN    := $(or $(DOUBLE),$(filter-out 0,$(PLAIN)))
SYNC     := $(filter-out 0,$(SYNC))
BUILD    := build$(if $(DOUBLE),/double,$(if $(PLAIN),/plain))
ifneq ($(filter-out float double,$(REAL)),)
$(error REAL=$(REAL): give float or double)
endif

# As many jobs as there are processors; in a container with a quota, as many as that grants.
ifeq ($(filter -j%,$(MAKEFLAGS)),)
cgroup    := /sys/fs/cgroup
MAKEFLAGS += -j$(shell { cat $(cgroup)/cpu.max || paste $(cgroup)/cpu/cpu.cfs_quota_us $(cgroup)/cpu/cpu.cfs_period_us; } 2>/dev/null | \
               awk -v n=$$(nproc) '$$1 + 0 > 0 && $$1 / $$2 <= n - 1 {n = int(($$1 + $$2 - 1) / $$2)} END {print n}')
endif

# Warnings are errors with g++ 12 and where WERROR says so; other compilers have warnings that nobody has seen yet.
# -Wno-restrict: GCC 12 warns falsely of std::string at -O3 (GCC bug 105651).
# -Wno-pass-failed: Clang names the loops that it does not vectorise; they compute the same.
# -Wno-deprecated-declarations: of its own std::stable_sort libstdc++ 12 says so with Clang 17 and later.
# -Wno-unknown-warning-option: sources switch off warnings that only GCC has.
GCC      := $(shell $(CXX) -dumpfullversion 2>/dev/null)# empty for Clang
WARNINGS := -Wall -Wextra $(if $(if $(WERROR),$(filter-out 0,$(WERROR)),$(filter 12.%,$(GCC))),-Werror) \
            $(if $(GCC),-Wno-restrict,-Wno-pass-failed -Wno-deprecated-declarations -Wno-unknown-warning-option)
FLAGS    := -std=c++20 -fopenmp $(WARNINGS) -MMD -MP -Icuda -Isrc $(CXXFLAGS) $(if $(PLAIN),-DPLAIN) \
            $(if $(DOUBLE),-DDOUBLE)

# -fno-math-errno -fno-trapping-math: without them sqrt and x > 0 ? x : s x are not vectorised; NaN and infinity stay what they are.
# Smallest instruction set first: of an inline standard function in several objects the linker keeps the first.
# AMX is AVX-512 and one more file.
ISAS         := sse2 avx2 avx512
MARCH_sse2   := x86-64
MARCH_avx2   := x86-64-v3
MARCH_avx512 := x86-64-v4
AMX_FLAGS    := -mavx512bf16 -mamx-tile -mamx-bf16

# The GPU, if nvcc can be used: src/machine/toolkit.sh tries it, and says in one line why not. The host's compiler is CXX
# without ccache and without flags. (make's sub-make that only counts finds the answer there.)
NVCC      := $(firstword $(if $(filter-out 1,$(CUDA)),$(CUDA)/bin/nvcc,$(shell command -v nvcc 2>/dev/null) \
               $(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc /usr/local/cuda-*/bin/nvcc)))
HOST_CXX  := $(firstword $(foreach word,$(CXX),$(if $(filter ccache distcc icecc sccache -%,$(notdir $(word))),,$(word))))
comma     := ,
NVFLAGS   := -x cu -std=c++20 -O3 --extended-lambda $(if $(filter-out 0,$(WERROR)),-Werror all-warnings) -Xcompiler -Wall$(comma)-Wextra \
             -ccbin $(HOST_CXX) $(if $(SYNC),-DSYNC)
# Goals that compile nothing need no trial: make gpu starts a make with settings of its own.
COMPILING := $(filter-out gpu format clean,$(or $(MAKECMDGOALS),all))
ifeq ($(DOUBLE)$(filter 0,$(CUDA))$(if $(COMPILING),,none),)
ifndef DRY
MISTAKE := $(shell mkdir -p $(BUILD); sh src/machine/toolkit.sh '$(BUILD)' '$(NVCC)' '$(HOST_CXX)' '$(or $(CUDA_ARCH),80 90)' '$(NVFLAGS)')
$(if $(MISTAKE),$(error $(MISTAKE)))
endif
include $(BUILD)/toolkit.mk
endif
NVFLAGS   += $(GPU_CODE) -MMD -MP -Icuda

# MPI, where its compiler wrapper is found; one file is compiled with what the wrapper would add (Open MPI, MPICH).
MPICXX    := $(firstword $(shell command -v mpicxx 2>/dev/null))
MPI       ?= $(MPICXX)
WITH_MPI  := $(if $(filter-out 0,$(MPI)),$(MPICXX))
MPI_FLAGS := $(if $(WITH_MPI),-DWITH_MPI -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX $(shell $(MPICXX) --showme:compile 2>/dev/null || \
               $(MPICXX) -compile_info | tr ' ' '\n' | grep '^-I'))
MPI_LIBS  := $(if $(WITH_MPI),$(shell $(MPICXX) --showme:link 2>/dev/null || $(MPICXX) -link_info | cut -d' ' -f2-))
MPI_SAYS  := $(if $(WITH_MPI),(mpirun -np N: N processes),(one process: $(if $(filter 0,$(MPI)),MPI=0,no mpicxx found)))

# ---- what is made of what -----------------------------------------------------------------------------------------------------------

COMMON    := cuda/kernels.cu
GPU_ONLY  := $(wildcard cuda/gpu/*.cu)
NVCC_MADE := $(if $(GPU_WORKS),$(patsubst %.cu,$(BUILD)/nvcc/%.o,$(COMMON) $(GPU_ONLY)))
NO_GPU    := $(BUILD)/cuda/no_gpu.o
AMX       := src/cpu/fast/amx.cpp
CPU_ONLY  := $(filter-out $(AMX),$(wildcard src/cpu/*.cpp) $(if $(PLAIN),,$(wildcard src/cpu/fast/*.cpp)))
SOURCES   := $(filter-out src/cpu/% $(if $(DOUBLE),,%_double.cpp),$(wildcard src/*.cpp src/*/*.cpp)) cuda/constant_weights.cpp
KERNELS   := $(foreach isa,$(ISAS),$(patsubst %,$(BUILD)/$(isa)/%.o,$(basename $(COMMON) $(CPU_ONLY)))) \
             $(if $(PLAIN),,$(AMX:%.cpp=$(BUILD)/avx512/%.o)) \
             $(NVCC_MADE) $(NO_GPU)
EMULATED  := $(if $(DOUBLE),,$(patsubst %.cu,$(BUILD)/simt/%.o,$(COMMON) $(filter-out cuda/gpu/cublas.cu,$(GPU_ONLY))))
# The emulated GPU once more, in a namespace of its own, with a call before each load and store (tests/traffic_test.cpp).
COUNTED   := $(EMULATED:$(BUILD)/simt/%=$(BUILD)/counted/%)
# The step of check-step once more, in double precision and in a namespace of its own, with what it needs.
PROOF     := $(if $(DOUBLE),,$(wildcard src/machine/*.cpp src/ranks/*.cpp src/engine/*.cpp src/method/*.cpp) src/check.cpp src/formats/files.cpp \
             src/formats/foreign.cpp src/formats/safetensors.cpp src/training/checkpoint.cpp src/training/config.cpp \
             src/experiments/check_step.cpp src/experiments/check_step_double.cpp src/experiments/relu_signs.cpp \
             src/experiments/step_file.cpp cuda/constant_weights.cpp cuda/no_gpu.cpp)
PROOF_CPU := $(if $(DOUBLE),,$(COMMON) $(filter-out src/cpu/fast/%,$(CPU_ONLY)))
# Tests that compute in double, likewise.
PROOF_OF_TESTS := $(if $(DOUBLE),,$(BUILD)/proof/tests/rounding_cases.o $(BUILD)/proof/tests/trajectory_test.o)
PROVING   := $(PROOF:%.cpp=$(BUILD)/proof/%.o) \
             $(foreach isa,$(ISAS),$(patsubst %,$(BUILD)/proof/$(isa)/%.o,$(basename $(PROOF_CPU))))
LIBRARY   := $(filter-out $(BUILD)/src/main.o,$(SOURCES:%.cpp=$(BUILD)/%.o)) $(KERNELS) $(PROVING)
# In double precision all that computes the method; rounding_test.cpp is float against double.
TESTS     := $(patsubst %.cpp,$(BUILD)/%.o,$(if $(DOUBLE),$(patsubst %,tests/%_test.cpp,data evaluation formats gradient \
             kernels langevin method networks ops random ranks reference trajectory) tests/rounding_cases.cpp, \
             $(filter-out tests/trajectory_test.cpp,$(wildcard tests/*.cpp))))

.PHONY: all test fuzz soak sanitize gpu demo train toys bench reference format packages test-packages clean
all: $(BUILD)/dualmcmc

# Of a clone, for --version.
REVISION := $(if $(wildcard .git),$(shell git describe --always --dirty --exclude '*' 2>/dev/null))

# ---- progress: a line a file, in place of the command -------------------------------------------------------------------------------

# What is compiled depends on a file that holds its settings, so that it is compiled anew when they change. (Written here,
# not by a rule, which make -n would not run; make -n itself leaves them alone, and so do goals that compile nothing.)
# Whether warnings are errors changes no object.
COUNTING := $(findstring n,$(firstword -$(MAKEFLAGS)))
# $(call keep_settings,file,settings)
keep_settings = echo '$(2)' | cmp -s - $(1) || { test -n '$(COUNTING)' -a -e $(1) || echo '$(2)' > $(1); }
ifneq ($(and $(COMPILING),$(if $(DRY),,1)),)
$(shell mkdir -p $(BUILD); : > $(BUILD)/progress)
$(shell $(call keep_settings,$(BUILD)/settings,$(CXX) $(filter-out -Werror,$(FLAGS))))
$(shell $(call keep_settings,$(BUILD)/nvcc-settings,$(if $(GPU_WORKS),$(NVCC) $(filter-out -Werror all-warnings,$(NVFLAGS)))))
$(shell $(call keep_settings,$(BUILD)/mpi-settings,$(MPI_FLAGS) $(MPI_LIBS)))
$(shell $(call keep_settings,$(BUILD)/revision,$(REVISION)))
TOTAL := $(shell DRY=1 $(MAKE) -n --no-print-directory $(MAKEOVERRIDES) $(MAKECMDGOALS) 2>/dev/null | grep -c '^n=.*progress')
endif
# $(call step,what): prints it with its number among all that is to be done.
step = @n=$$(echo >> $(BUILD)/progress; wc -l < $(BUILD)/progress); printf '[%d/%d] %s\n' $$n $(TOTAL) '$(1)'; mkdir -p $(@D)
Q    := $(if $(V),,@)

# ---- rules --------------------------------------------------------------------------------------------------------------------------

# All objects, of the GPU's only what there is: an object that nvcc could not make is empty, and one stands in for all.
linked = $(filter-out $(NVCC_MADE) $(NO_GPU),$(filter %.o,$^)) $(if $(NVCC_MADE),$$(for object in $(NVCC_MADE); do \
  test -s $$object || exec echo $(NO_GPU); done; echo $(NVCC_MADE)) $(GPU_LIBRARIES),$(NO_GPU))

$(BUILD)/dualmcmc: $(BUILD)/src/main.o $(LIBRARY) $(BUILD)/nvcc-settings
	$(call step,$@ $(MPI_SAYS))
	$(Q)$(CXX) $(FLAGS) $(linked) $(MPI_LIBS) -o $@

$(BUILD)/dualmcmc_tests: $(TESTS) $(PROOF_OF_TESTS) $(LIBRARY) $(EMULATED) $(COUNTED) $(BUILD)/nvcc-settings
	$(call step,$@)
	$(Q)$(CXX) $(FLAGS) $(linked) $(MPI_LIBS) -lgtest -lgtest_main -o $@

$(BUILD)/%.o: %.cpp $(BUILD)/settings | packages
	$(call step,$<)
	$(Q)$(CXX) $(FLAGS) -c $< -o $@

# Only what computes by itself needs -O3; the rest calls kernels, and compiles in half the time.
HOT  := $(addprefix src/experiments/,toys.cpp density2d.cpp annealing.cpp statistics.cpp statistics_distance.cpp) \
        src/formats/png.cpp src/formats/picture.cpp $(wildcard src/data/*.cpp)
COLD := $(patsubst %.cpp,$(BUILD)/%.o,$(filter-out $(HOT),$(SOURCES)))
$(COLD) $(TESTS) $(PROOF_OF_TESTS) $(PROOF:%.cpp=$(BUILD)/proof/%.o): FLAGS += -O1

$(BUILD)/src/ranks/ranks.o $(BUILD)/tests/ranks_test.o: FLAGS += $(MPI_FLAGS)
$(BUILD)/src/ranks/ranks.o $(BUILD)/tests/ranks_test.o: $(BUILD)/mpi-settings
$(BUILD)/tests/gpu_test.o: FLAGS += -U_FORTIFY_SOURCE
$(BUILD)/tests/curand_test.o: FLAGS += $(patsubst -I%,-idirafter %,$(GPU_INCLUDES))
$(TESTS): | test-packages
$(BUILD)/src/main.o: FLAGS += -DREVISION='"$(REVISION)"'
$(BUILD)/src/main.o: $(BUILD)/revision

$(PROVING) $(PROOF_OF_TESTS): FLAGS += -DDOUBLE -DPLAIN -Ddualmcmc=dualmcmc_double
$(BUILD)/proof/%.o: %.cpp $(BUILD)/settings | packages
	$(call step,$< (double))
	$(Q)$(CXX) $(FLAGS) -c $< -o $@

# $(1): the folder of the objects and the instruction set, $(2): the sources' ending, $(3): the instruction set.
define kernel_rule
$(BUILD)/$(1)/%.o: %.$(2) $(BUILD)/settings | packages
	$$(call step,$$< ($(1)))
	$$(Q)$$(CXX) -x c++ $$(FLAGS) -fno-math-errno -fno-trapping-math -march=$$(MARCH_$(3)) -DDEVICE_NAMESPACE=cpu_$(3) \
	  -DDEVICE_NAME='"CPU, $(3)"' -c $$< -o $$@
endef
$(foreach isa,$(ISAS),$(foreach of,cu cpp,$(foreach folder,$(isa) proof/$(isa),$(eval $(call kernel_rule,$(folder),$(of),$(isa))))))
$(AMX:%.cpp=$(BUILD)/avx512/%.o): FLAGS += $(AMX_FLAGS)

# An emulated GPU for the tests: the same sources, with tests/simt for CUDA's headers. (The emulator switches threads by longjmp, which
# some systems' default _FORTIFY_SOURCE rejects.)
$(BUILD)/simt/%.o: %.cu $(BUILD)/settings | packages
	$(call step,$< (emulated GPU))
	$(Q)$(CXX) -x c++ $(FLAGS) -U_FORTIFY_SOURCE -Itests/simt -DGPU -DDEVICE_NAMESPACE=simt -DDEVICE_NAME='"emulated GPU"' \
	  -c $< -o $@

$(BUILD)/counted/%.o: %.cu $(BUILD)/settings | packages
	$(call step,$< (counted))
	$(Q)$(CXX) -x c++ $(FLAGS) -O1 -fsanitize=thread --param tsan-instrument-func-entry-exit=0 -U_FORTIFY_SOURCE -Itests/simt \
	  -DGPU -DDEVICE_NAMESPACE=counted -DDEVICE_NAME='"counted GPU"' -c $< -o $@

# What nvcc fails on is tried again by the next make.
$(shell find $(BUILD)/nvcc -name '*.o' -empty -delete 2>/dev/null)
$(BUILD)/nvcc/cuda/gpu/cublas.o: NVFLAGS += -DCUDA_LIBRARIES='"$(subst $(eval ) ,:,$(patsubst -L%,%,$(filter -L%,$(GPU_LIBRARIES))))"'
$(BUILD)/nvcc/%.o: %.cu $(BUILD)/nvcc-settings
	$(call step,$< (nvcc))
	$(Q)$(NVCC) $(NVFLAGS) -DGPU -DDEVICE_NAMESPACE=cuda -DDEVICE_NAME='"CUDA$(if $(SYNC), with SYNC)"' -c $< -o $@ || { $(if $(filter-out 0,$(WERROR)),exit 1;) \
	  echo "building without the GPU: nvcc fails on $<, see above; CUDA=0 leaves it out, CUDA=DIR names another toolkit" >&2; : > $@; }

# What a fresh machine lacks, from the system's packages; nothing is done where the compiler finds all (in CPATH or by -I
# in CXXFLAGS, too). The preprocessor prints the packages of the headers that it does not find.
define HEADERS
#if defined __clang__ ? __clang_major__ < 16 : __GNUC__ < 11
#error this compiler is too old: give CXX=g++-11 or later, or CXX=clang++-16 or later
#endif
#if !__has_include(<omp.h>)
libomp-__clang_major__-dev
#endif
#if !__has_include(<CLI/CLI.hpp>)
libcli11-dev
#endif
#if !__has_include(<stb/stb_image_write.h>)
libstb-dev
#endif
endef
export HEADERS

packages:
	@missing=$$(echo "$$HEADERS" | $(CXX) $(CXXFLAGS) -std=c++20 -fopenmp -E -P -x c++ -) || exit 1; \
	missing=$$(echo "$$missing" | tr -d ' '); test -z "$$missing" || $(call install,$$missing)

# GoogleTest, header and library, is wanted by the tests alone.
test-packages: | packages
	@printf '#if !__has_include(<gtest/gtest.h>)\n#error\n#endif\n' | \
	  $(CXX) $(CXXFLAGS) -std=c++20 -fopenmp -x c++ - -lgtest_main -lgtest -o /dev/null 2>/dev/null || $(call install,libgtest-dev)

# $(call install,packages)
install = { if command -v apt-get >/dev/null; then \
    echo "installing from the system's packages:" $(1); \
    if [ "$$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi; \
    $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq $(1) >/dev/null; \
  else false; fi || { echo "missing:" $(1) "(Debian's names; headers CLI/CLI.hpp, stb/stb_image_write.h, gtest/gtest.h, omp.h):" \
    "install them with your package manager, or point to copies, CPATH=DIR for headers and LIBRARY_PATH=DIR for libraries" >&2; exit 1; }; }

# ---- commands -----------------------------------------------------------------------------------------------------------------------

# OMP_WAIT_POLICY: several programs run at a time here; idle threads must not spin.
test: $(BUILD)/dualmcmc $(BUILD)/dualmcmc_tests
	OMP_WAIT_POLICY=passive DUALMCMC=$(BUILD)/dualmcmc $(BUILD)/dualmcmc_tests --gtest_brief=1

# Every reader of files and of numbers under libFuzzer, AddressSanitizer and UBSan, FUZZ_SECONDS each (clang 14 or later).
FUZZ_CXX     ?= clang++
FUZZ_SECONDS ?= 60
FUZZ_FLAGS   := -std=c++20 -gline-tables-only -O1 -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all \
                -MMD -MP -Icuda -Isrc -Itests/fuzz/no_openmp
FUZZ_NAMES   := $(patsubst tests/fuzz/fuzz_%.cpp,%,$(wildcard tests/fuzz/fuzz_*.cpp))
FUZZ_LIBRARY := $(patsubst %.cpp,$(BUILD)/fuzz/%.o,$(wildcard src/check.cpp src/formats/*.cpp src/data/*.cpp src/ranks/*.cpp \
                src/engine/*.cpp src/method/*.cpp) $(addprefix src/machine/,device_sum.cpp memory.cpp pool.cpp) \
                $(addprefix src/training/,config.cpp checkpoint.cpp metrics.cpp) \
                $(addprefix src/experiments/,csv.cpp report.cpp grid_files.cpp step_file.cpp) cuda/constant_weights.cpp \
                tests/fuzz/no_kernels.cpp)
$(BUILD)/fuzz/%.o: %.cpp | packages
	$(call step,$< (fuzz))
	$(Q)$(FUZZ_CXX) $(FUZZ_FLAGS) -c $< -o $@
$(BUILD)/fuzz/fuzz_%: $(BUILD)/fuzz/tests/fuzz/fuzz_%.o $(FUZZ_LIBRARY)
	$(call step,$@)
	$(Q)$(FUZZ_CXX) $(FUZZ_FLAGS) -fsanitize=fuzzer $^ -o $@
$(BUILD)/fuzz/write_seeds: $(BUILD)/fuzz/tests/fuzz/write_seeds.o $(FUZZ_LIBRARY)
	$(call step,$@)
	$(Q)$(FUZZ_CXX) $(FUZZ_FLAGS) $^ -o $@
.SECONDARY: $(FUZZ_NAMES:%=$(BUILD)/fuzz/tests/fuzz/fuzz_%.o)
fuzz: $(FUZZ_NAMES:%=$(BUILD)/fuzz/fuzz_%) $(BUILD)/fuzz/write_seeds
	tests/fuzz/run.sh $(BUILD)/fuzz $(FUZZ_SECONDS) $(FUZZ_NAMES)

# Kills tiny trainings at random moments and resumes them; counts kills, lost iterations and bits that differ.
soak: $(BUILD)/dualmcmc
	$(PYTHON) tests/soak.py $(BUILD)/dualmcmc $(SOAK)

# Each tool on its tests, whatever the others found. The two that follow shared memory are slow: convolutions and
# reductions have all of it.
TOOLS        := memcheck racecheck synccheck initcheck
CHECKED      := Gpu/*CUDA*
CHECKED_FEW  := Gpu/Kernel.*conv*CUDA*:Gpu/Kernel.*sum*CUDA*:Gpu/Kernel.*batch*CUDA*:Gpu/Kernel.*spectral*CUDA*
filter_of     = $(if $(filter racecheck synccheck,$(1)),$(CHECKED_FEW),$(CHECKED))
SANITIZER    := $(firstword $(wildcard $(addsuffix compute-sanitizer,$(dir $(NVCC)) /usr/local/cuda/bin/)) compute-sanitizer)
# The program asks what it may not have, and copes. cuBLAS's own kernels are no verdict on it. (CUDA 12.3 renamed the
# option.)
flags_of      = $(if $(filter memcheck,$(1)),--report-api-errors no) $(if $(filter racecheck synccheck,$(1)), \
                $$($(SANITIZER) --help | grep -om1 -E -e '--kernel-(name|regex)') kns=dualmcmc)
sanitize: $(BUILD)/dualmcmc_tests
	failed=""; $(foreach tool,$(TOOLS),echo $(tool) && $(SANITIZER) --tool $(tool) $(call flags_of,$(tool)) \
	  --error-exitcode 1 $(BUILD)/dualmcmc_tests --gtest_filter='$(call filter_of,$(tool))' \
	  || failed="$$failed $(tool)";) \
	test -z "$$failed" || { echo "compute-sanitizer found errors:$$failed" >&2; exit 1; }

# Build, tests, step files, bench, sanitizers and a short training on a GPU; always writes runs/gpu/report.md.
gpu:
	@$(or $(shell command -v python3),$(PYTHON)) reference/gpu.py $(if $(PARTS),--parts '$(PARTS)') \
	  $(if $(MINUTES),--minutes '$(MINUTES)') $(if $(LIMITS),--limits '$(LIMITS)') $(MAKEOVERRIDES)

demo: $(BUILD)/dualmcmc
	rm -rf runs/demo
	$(BUILD)/dualmcmc train --preset demo --out runs/demo
	@echo "Look at the newest pictures in runs/demo/samples:" && ls -t runs/demo/samples | head -2

train: $(BUILD)/dualmcmc
	CIFAR10_DIR="$$(bash data/cifar10.sh)" && export CIFAR10_DIR && \
	OMP_PROC_BIND=true $(BUILD)/dualmcmc train --preset cifar10-small --out runs/cifar10-small \
	  $(if $(wildcard runs/cifar10-small/checkpoints/iteration-*.safetensors),--resume)

toys: $(BUILD)/dualmcmc
	$(BUILD)/dualmcmc toys --out runs/toys

bench: $(BUILD)/dualmcmc
	$(PYTHON) reference/bench.py

reference:
	@$(PYTHON) -c 'import scipy, torch' 2>/dev/null || { echo "this needs PyTorch and SciPy: Debian's python3-torch and \
	python3-scipy, or PYTHON=... of one that has them" >&2; exit 1; }
	cd reference && for script in write_*.py; do $(PYTHON) $$script || exit 1; done

# clang-format 14, with .clang-format.
format:
	clang-format -i $$(git ls-files 'src/*.h' 'src/*.cpp' 'cuda/*.h' 'cuda/*.cuh' 'cuda/*.cu' 'cuda/*.cpp' 'tests/*.h' 'tests/*.cpp')

clean:
	rm -rf build

-include $(foreach depth,* */* */*/* */*/*/* */*/*/*/*,$(wildcard $(BUILD)/$(depth).d))
