// How kernels are launched: parallel_for calls a lambda for each index, on the CPU (OpenMP, SIMD) or on the GPU (one
// thread an index). Included by kernel sources alone. Each compilation of them has its own DEVICE_NAMESPACE; GPU is
// defined in those for a GPU (by nvcc, or by g++ with the emulator of tests/simt).
#pragma once
#include <cmath>

#include "backend.h"

#ifdef GPU
#include "gpu/launch_gpu.h"
#else
#include "launch_cpu.h"
#endif

namespace dualmcmc::DEVICE_NAMESPACE {
// The kernels of this compilation, which backend.cu (the CPU's: backend.cpp) collects in its table.
void* allocate(size_t bytes);
void release(void* pointer);
#define DUALMCMC_DECLARE(name, arguments) void name arguments;
DUALMCMC_KERNELS(DUALMCMC_DECLARE)
#undef DUALMCMC_DECLARE

#ifdef GPU
std::string start(int index);
int64_t free_bytes();
int64_t peak_bytes();
void begin_capture();
void* end_capture();
void launch_graph(void* graph);
void destroy_graph(void* graph);
// conv2d and its gradients, as in the table, in the other two precisions.
void conv2d_tf32(real* y, const real* x, const real* w, const real* bias, const real* residual, ConvShape shape);
void conv2d_bf16(real* y, const real* x, const real* w, const real* bias, const real* residual, ConvShape shape);
void conv2d_backward_input_tf32(real* dx, const real* dy, const real* w, const real* x, const real* residual,
                                ConvShape shape);
void conv2d_backward_input_bf16(real* dx, const real* dy, const real* w, const real* x, const real* residual,
                                ConvShape shape);
void conv2d_backward_weight_tf32(real* dw, const real* x, const real* dy, ConvShape shape);
void conv2d_backward_weight_bf16(real* dw, const real* x, const real* dy, ConvShape shape);
#endif
}  // namespace dualmcmc::DEVICE_NAMESPACE
