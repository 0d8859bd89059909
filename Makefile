# dualmcmc: make · make test · make demo · make train · make toys · make bench · make reference · make format
#
#   V=1             print the compiler commands
#   CUDA=0          leave the GPU out; CUDA_ARCH=86: build for that compute capability alone; SYNC=1: wait for each kernel, so that an
#                   error is reported where it was made
#   PLAIN=1         leave src/cpu/fast out: the CPU computes everything by its plainest kernels
#   REAL=double     all numbers in double precision, as proof: by the plain kernels of the CPU, in build/double
#
# Sources are compiled on all cores. The CPU's kernels are compiled once per instruction set, the GPU's by nvcc; the program chooses when it
# starts.

CXX      ?= g++
PYTHON   ?= /usr/bin/python3
CXXFLAGS ?= -O3
DOUBLE   := $(filter double,$(REAL))
PLAIN    := $(or $(DOUBLE),$(filter-out 0,$(PLAIN)))
SYNC     := $(filter-out 0,$(SYNC))
BUILD    := build$(if $(DOUBLE),/double,$(if $(PLAIN),/plain))
ifneq ($(filter-out float double,$(REAL)),)
$(error REAL=$(REAL): give float or double)
endif

ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif

# -Wno-restrict: GCC 12 warns falsely of std::string at -O3 (GCC bug 105651).
FLAGS := -std=c++20 -fopenmp -Wall -Wextra -Werror -Wno-restrict -MMD -MP -Icuda -Isrc $(CXXFLAGS) \
         $(if $(PLAIN),-DPLAIN) $(if $(DOUBLE),-DDOUBLE)

# -fno-math-errno -fno-trapping-math: without them sqrt and x > 0 ? x : s x are not vectorised; NaN and infinity stay what they are.
# Smallest instruction set first: of an inline standard function in several objects the linker keeps the first.
# AMX is AVX-512 and one more file.
ISAS         := sse2 avx2 avx512
MARCH_sse2   := x86-64
MARCH_avx2   := x86-64-v3
MARCH_avx512 := x86-64-v4
AMX_FLAGS    := -mavx512bf16 -mamx-tile -mamx-bf16

# The GPU, where nvcc is found. Its toolkit's folder is what nvcc itself says: the nvcc on the path may be a script or a link.
NVCC     := $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA     ?= $(if $(NVCC),$(shell $(NVCC) --dryrun -x cu /dev/null 2>&1 | sed -n 's/^.. TOP=//p'))
GPU      := $(if $(DOUBLE),,$(filter-out 0,$(CUDA)))
comma    := ,
CODE     := $(if $(CUDA_ARCH),-arch=sm_$(CUDA_ARCH),-gencode arch=compute_80$(comma)code=sm_80 \
              -gencode arch=compute_90$(comma)code=[sm_90$(comma)compute_90])
NVFLAGS  := -x cu -std=c++20 -O3 --extended-lambda -Werror all-warnings -Xcompiler -Wall,-Wextra -MMD -MP -Icuda $(CODE) \
            $(if $(SYNC),-DSYNC)
LIBS     := $(if $(GPU),-L$(GPU)/lib64 -lcudart_static -ldl -lrt -lpthread)

# ---- what is made of what -----------------------------------------------------------------------------------------------------------

COMMON    := cuda/kernels.cu
GPU_ONLY  := $(wildcard cuda/gpu/*.cu)
ONCE      := src/cpu/instruction_sets.cpp
AMX       := src/cpu/fast/amx.cpp
CPU_ONLY  := $(filter-out $(ONCE) $(AMX),$(wildcard src/cpu/*.cpp) $(if $(PLAIN),,$(wildcard src/cpu/fast/*.cpp)))
SOURCES   := $(filter-out src/cpu/% $(if $(DOUBLE),,%_double.cpp),$(wildcard src/*.cpp src/*/*.cpp)) $(ONCE) cuda/constant_weights.cpp
KERNELS   := $(foreach isa,$(ISAS),$(patsubst %,$(BUILD)/$(isa)/%.o,$(basename $(COMMON) $(CPU_ONLY)))) \
             $(if $(PLAIN),,$(AMX:%.cpp=$(BUILD)/avx512/%.o)) \
             $(if $(GPU),$(patsubst %.cu,$(BUILD)/nvcc/%.o,$(COMMON) $(GPU_ONLY)),$(BUILD)/cuda/no_gpu.o)
EMULATED  := $(if $(DOUBLE),,$(patsubst %.cu,$(BUILD)/simt/%.o,$(COMMON) $(filter-out cuda/gpu/cublas.cu,$(GPU_ONLY))))
# The step of check-step once more, in double precision and in a namespace of its own, with what it needs.
PROOF     := $(if $(DOUBLE),,$(wildcard src/engine/*.cpp src/method/*.cpp) src/formats/files.cpp src/formats/safetensors.cpp \
             src/training/checkpoint.cpp src/training/config.cpp src/experiments/check_step.cpp \
             src/experiments/check_step_double.cpp src/experiments/relu_signs.cpp cuda/constant_weights.cpp cuda/no_gpu.cpp $(ONCE))
PROOF_CPU := $(if $(DOUBLE),,$(COMMON) $(filter-out src/cpu/fast/%,$(CPU_ONLY)))
PROVING   := $(PROOF:%.cpp=$(BUILD)/proof/%.o) \
             $(foreach isa,$(ISAS),$(patsubst %,$(BUILD)/proof/$(isa)/%.o,$(basename $(PROOF_CPU))))
LIBRARY   := $(filter-out $(BUILD)/src/main.o,$(SOURCES:%.cpp=$(BUILD)/%.o)) $(KERNELS) $(PROVING)
# In double precision those whose tolerances are double's.
TESTS     := $(patsubst %.cpp,$(BUILD)/%.o,$(if $(DOUBLE),$(addprefix tests/,gradient_test.cpp ops_test.cpp reference_test.cpp), \
             $(wildcard tests/*.cpp)))

.PHONY: all test sanitize demo train toys bench reference format packages clean
all: $(BUILD)/dualmcmc

# ---- progress: a line a file, in place of the command -------------------------------------------------------------------------------

# What is compiled depends on a file that holds its settings, so that it is compiled anew when they change. (Written here,
# not by a rule, which make -n would not run; make -n itself leaves them alone.)
COUNTING := $(findstring n,$(firstword -$(MAKEFLAGS)))
# $(call keep_settings,file,settings)
keep_settings = echo '$(2)' | cmp -s - $(1) || { test -n '$(COUNTING)' -a -e $(1) || echo '$(2)' > $(1); }
ifndef DRY
$(shell mkdir -p $(BUILD); : > $(BUILD)/progress)
$(shell $(call keep_settings,$(BUILD)/settings,$(CXX) $(FLAGS)))
$(shell $(call keep_settings,$(BUILD)/nvcc-settings,$(NVCC) $(NVFLAGS) $(GPU)))
TOTAL := $(shell DRY=1 $(MAKE) -n --no-print-directory $(MAKEOVERRIDES) $(MAKECMDGOALS) 2>/dev/null | grep -c '^n=.*progress')
endif
# $(call step,what): prints it with its number among all that is to be done.
step = @n=$$(echo >> $(BUILD)/progress; wc -l < $(BUILD)/progress); printf '[%d/%d] %s\n' $$n $(TOTAL) '$(1)'; mkdir -p $(@D)
Q    := $(if $(V),,@)

# ---- rules --------------------------------------------------------------------------------------------------------------------------

$(BUILD)/dualmcmc: $(BUILD)/src/main.o $(LIBRARY) $(BUILD)/nvcc-settings
	$(call step,$@)
	$(Q)$(CXX) $(FLAGS) $(filter %.o,$^) $(LIBS) -o $@

$(BUILD)/dualmcmc_tests: $(TESTS) $(LIBRARY) $(EMULATED) $(BUILD)/nvcc-settings
	$(call step,$@)
	$(Q)$(CXX) $(FLAGS) $(filter %.o,$^) $(LIBS) -lgtest -lgtest_main -o $@

$(BUILD)/%.o: %.cpp $(BUILD)/settings | packages
	$(call step,$<)
	$(Q)$(CXX) $(FLAGS) -c $< -o $@

# Only what computes by itself needs -O3; the rest calls kernels, and compiles in half the time.
HOT  := $(addprefix src/experiments/,toys.cpp density2d.cpp annealing.cpp statistics.cpp sliced_wasserstein.cpp) \
        src/formats/png.cpp $(wildcard src/data/*.cpp)
COLD := $(patsubst %.cpp,$(BUILD)/%.o,$(filter-out $(HOT),$(SOURCES)))
$(COLD) $(TESTS) $(PROOF:%.cpp=$(BUILD)/proof/%.o): FLAGS += -O1

$(BUILD)/tests/gpu_test.o: FLAGS += -U_FORTIFY_SOURCE
$(BUILD)/tests/curand_test.o: FLAGS += $(if $(GPU),-idirafter $(GPU)/include)

$(PROVING): FLAGS += -DDOUBLE -DPLAIN -Ddualmcmc=dualmcmc_double
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

$(BUILD)/nvcc/%.o: %.cu $(BUILD)/nvcc-settings
	$(call step,$< (nvcc))
	$(Q)$(GPU)/bin/nvcc $(NVFLAGS) -DGPU -DDEVICE_NAMESPACE=cuda -DDEVICE_NAME='"CUDA"' -c $< -o $@

# What a fresh machine lacks, from the system's packages; nothing is done where all is there.
packages:
	@missing=""; \
	test -e /usr/include/CLI/CLI.hpp || missing="$$missing libcli11-dev"; \
	test -e /usr/include/stb/stb_image_write.h || missing="$$missing libstb-dev"; \
	test -e /usr/include/gtest/gtest.h || missing="$$missing libgtest-dev"; \
	if [ -n "$$missing" ]; then \
	  echo "installing from the system's packages:$$missing"; \
	  if [ "$$(id -u)" = 0 ]; then sudo=""; else sudo=sudo; fi; \
	  $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq $$missing >/dev/null \
	    || { echo "could not install$$missing: install them with your package manager, then run make again" >&2; exit 1; }; \
	fi

# ---- commands -----------------------------------------------------------------------------------------------------------------------

# OMP_WAIT_POLICY: several programs run at a time here; idle threads must not spin.
test: $(BUILD)/dualmcmc $(BUILD)/dualmcmc_tests
	OMP_WAIT_POLICY=passive DUALMCMC=$(BUILD)/dualmcmc $(BUILD)/dualmcmc_tests --gtest_brief=1

sanitize: $(BUILD)/dualmcmc_tests
	compute-sanitizer --report-api-errors no --error-exitcode 1 $(BUILD)/dualmcmc_tests --gtest_filter='Gpu/*CUDA*'

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
