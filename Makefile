# dualmcmc: make · make test · make demo · make train · make toys · make bench · make reference
#
# The kernels in cuda/*.cu are compiled once per instruction set and, by nvcc, for GPUs; the program chooses when it starts.

CXX      ?= g++
PYTHON   ?= /usr/bin/python3
CXXFLAGS ?= -O3
# -Wno-restrict: GCC 12 warns falsely of std::string at -O3 (GCC bug 105651).
FLAGS    := -std=c++20 -fopenmp -Wall -Wextra -Werror -Wno-restrict -MMD -MP -Icuda -Isrc $(CXXFLAGS)

# -fno-math-errno -fno-trapping-math: without them sqrt and x > 0 ? x : s x are not vectorised; NaN and infinity stay what they are.
# Fewer instructions first: where two objects hold the same inline function of the standard library, the linker takes the first one's.
ISAS         := sse2 avx2 avx512 amx
MARCH_sse2   := x86-64
MARCH_avx2   := x86-64-v3
MARCH_avx512 := x86-64-v4
MARCH_amx    := x86-64-v4 -mavx512bf16 -mamx-tile -mamx-bf16

# GPUs, where nvcc is found: cuda/gpu_*.cu are their own bodies, the SHARED ones serve every device. CUDA=0: without; CUDA_ARCH=86: for
# that compute capability alone; SYNC=1: waits for each kernel, so that an error is reported where it was made. The toolkit's folder is what
# nvcc itself says: the nvcc on the path may be a script or a link that lies elsewhere.
NVCC     := $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA     ?= $(if $(NVCC),$(shell $(NVCC) --dryrun -x cu /dev/null 2>&1 | sed -n 's/^.. TOP=//p'))
GPU      := $(filter-out 0,$(CUDA))
comma    := ,
CODE     := $(if $(CUDA_ARCH),-arch=sm_$(CUDA_ARCH),-gencode arch=compute_80$(comma)code=sm_80 -gencode arch=compute_90$(comma)code=[sm_90$(comma)compute_90])
NVFLAGS  := -x cu -std=c++20 -O3 --extended-lambda -Werror all-warnings -Xcompiler -Wall,-Wextra -MMD -MP -Icuda $(CODE) $(if $(SYNC),-DSYNC)
NVDIR    := build/cuda$(if $(SYNC),-sync)$(if $(CUDA_ARCH),-$(CUDA_ARCH))
LIBS     := $(if $(GPU),-L$(GPU)/lib64 -lcudart_static -ldl -lrt -lpthread)

SHARED   := cuda/kernels.cu cuda/backend.cu
OWN      := $(wildcard cuda/gpu_*.cu)
KERNELS  := $(foreach isa,$(ISAS),$(patsubst cuda/%.cu,build/$(isa)/%.o,$(filter-out $(OWN),$(wildcard cuda/*.cu)))) \
            $(if $(GPU),$(patsubst cuda/%.cu,$(NVDIR)/%.o,$(SHARED) $(OWN)),build/cuda/no_gpu.o)
SIMT     := $(patsubst cuda/%.cu,build/simt/%.o,$(SHARED) $(filter-out cuda/gpu_cublas.cu,$(OWN)))
SOURCES  := $(wildcard src/*.cpp src/experiments/*.cpp)
LIBRARY  := $(filter-out build/src/main.o,$(SOURCES:%.cpp=build/%.o)) $(KERNELS)
TESTS    := $(patsubst %.cpp,build/%.o,$(wildcard tests/*.cpp))

.PHONY: all test sanitize demo train toys bench reference packages clean
all: build/dualmcmc

build/dualmcmc: build/src/main.o $(LIBRARY)
	$(CXX) $(FLAGS) $^ $(LIBS) -o $@

build/dualmcmc_tests: $(TESTS) $(LIBRARY) $(SIMT)
	$(CXX) $(FLAGS) $^ $(LIBS) -lgtest -lgtest_main -o $@

build/%.o: %.cpp | packages
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) -c $< -o $@

build/tests/gpu_test.o: FLAGS += -U_FORTIFY_SOURCE
build/tests/curand_test.o: FLAGS += $(if $(GPU),-idirafter $(GPU)/include)

define kernel_rule
build/$(1)/%.o: cuda/%.cu | packages
	@mkdir -p $$(@D)
	$$(CXX) -x c++ $$(FLAGS) -fno-math-errno -fno-trapping-math -march=$$(MARCH_$(1)) -DDEVICE_NAMESPACE=cpu_$(1) -DDEVICE_NAME='"CPU, $(1)"' -c $$< -o $$@
endef
$(foreach isa,$(ISAS),$(eval $(call kernel_rule,$(isa))))

# A GPU that the host plays, for the tests: the same sources, with tests/simt in the place of CUDA's headers. (Its threads change by
# longjmp, to which some systems' default _FORTIFY_SOURCE objects.)
build/simt/%.o: cuda/%.cu | packages
	@mkdir -p $(@D)
	$(CXX) -x c++ $(FLAGS) -U_FORTIFY_SOURCE -Itests/simt -DGPU -DDEVICE_NAMESPACE=simt -DDEVICE_NAME='"GPU played by the host"' -c $< -o $@

$(NVDIR)/%.o: cuda/%.cu
	@mkdir -p $(@D)
	$(GPU)/bin/nvcc $(NVFLAGS) -DGPU -DDEVICE_NAMESPACE=cuda -DDEVICE_NAME='"CUDA"' -c $< -o $@

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

test: build/dualmcmc build/dualmcmc_tests
	OMP_WAIT_POLICY=passive build/dualmcmc_tests --gtest_brief=1  # several programs run at a time here: threads that wait must not spin

sanitize: build/dualmcmc_tests
	compute-sanitizer --report-api-errors no --error-exitcode 1 build/dualmcmc_tests --gtest_filter='Gpu/*CUDA*'

demo: build/dualmcmc
	rm -rf runs/demo
	build/dualmcmc train --preset demo --out runs/demo
	@echo "Look at the newest pictures in runs/demo/samples:" && ls -t runs/demo/samples | head -2

train: build/dualmcmc
	CIFAR10_DIR="$$(bash data/cifar10.sh)" && export CIFAR10_DIR && \
	OMP_PROC_BIND=true build/dualmcmc train --preset cifar10-small --out runs/cifar10-small \
	  $(if $(wildcard runs/cifar10-small/checkpoints/*),--resume)

toys: build/dualmcmc
	build/dualmcmc toys --out runs/toys

bench: build/dualmcmc
	$(PYTHON) reference/bench.py

reference:
	@$(PYTHON) -c 'import scipy, torch' 2>/dev/null || { echo "this needs PyTorch and SciPy: Debian's python3-torch and python3-scipy, or PYTHON=... of one that has them" >&2; exit 1; }
	cd reference && for script in write_*.py; do $(PYTHON) $$script || exit 1; done

clean:
	rm -rf build

-include $(wildcard build/*/*.d build/*/*/*.d)
