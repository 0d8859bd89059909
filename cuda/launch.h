// How a kernel body is run: parallel_for calls one lambda for each index, on the CPU (OpenMP, SIMD) or on the GPU (one thread an
// index). The only place where <<<>>> stands. Included by cuda/*.cu alone; the compilation's namespace is DEVICE_NAMESPACE.
#pragma once
#include <cmath>

#include "backend.h"

#ifdef __CUDACC__
#include <cstdio>
#include <stdexcept>
#include <string>
#define KERNEL __device__

namespace dualmcmc::DEVICE_NAMESPACE {

// Throws with file, line, the expression and CUDA's message.
#define CUDA_CHECK(expression)                                                                               \
    do {                                                                                                     \
        const cudaError_t status = (expression);                                                             \
        if (status != cudaSuccess)                                                                           \
            throw std::runtime_error(std::string(__FILE__) + ":" + std::to_string(__LINE__) + ": " #expression ": " + \
                                     cudaGetErrorString(status));                                            \
    } while (0)

template <class Body>
__global__ void run_each(int64_t n, Body body) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) body(i);
}

// `elements`: how many elements one index makes (on the CPU little work stays on one thread).
template <class Body>
void parallel_for(int64_t n, Body body, [[maybe_unused]] int64_t elements = 1) {
    if (n == 0) return;
    run_each<<<unsigned((n + 255) / 256), 256>>>(n, body);
    CUDA_CHECK(cudaGetLastError());
}

// Rows of `columns` elements: body(row) prepares the row and returns what is to be done for a column.
template <class Body>
void parallel_for_rows(int64_t rows, int64_t columns, Body body) {
    parallel_for(rows * columns, [=] __device__(int64_t i) { body(i / columns)(i % columns); });
}

}  // namespace dualmcmc::DEVICE_NAMESPACE

#else
#include <new>
#define KERNEL

namespace dualmcmc::DEVICE_NAMESPACE {

// Work below this many elements is not worth waking the other threads for.
constexpr int64_t parallel_threshold = 16384;

// `elements`: how many elements one index makes. (An if that does not say `parallel` would turn SIMD off as well.)
template <class Body>
void parallel_for(int64_t n, Body body, int64_t elements = 1) {
#pragma omp parallel for simd schedule(static) firstprivate(body) if (parallel : n * elements >= parallel_threshold)
    for (int64_t i = 0; i < n; ++i) body(i);
}

// Rows of `columns` elements: body(row) prepares the row, once, and returns what is to be done for a column.
template <class Body>
void parallel_for_rows(int64_t rows, int64_t columns, Body body) {
#pragma omp parallel for schedule(static) firstprivate(body) if (rows * columns >= parallel_threshold)
    for (int64_t row = 0; row < rows; ++row) {
        const auto for_column = body(row);
#pragma omp simd
        for (int64_t column = 0; column < columns; ++column) for_column(column);
    }
}

// Tasks of about equal, larger size, such as the images of a batch: body(task).
template <class Body>
void parallel_tasks(int64_t tasks, const Body& body) {
#pragma omp parallel for schedule(dynamic, 1) if (tasks > 1)
    for (int64_t task = 0; task < tasks; ++task) body(task);
}

// Working memory of the calling thread, kept from call to call so that a kernel allocates only until it has seen its largest size.
// What must live at the same time in one thread takes different slots.
template <int slot>
float* scratch(int64_t n) {
    struct Memory {
        float* data = nullptr;
        int64_t size = 0;
        ~Memory() { ::operator delete(data, std::align_val_t(64)); }
    };
    thread_local Memory memory;
    if (memory.size < n) {
        ::operator delete(memory.data, std::align_val_t(64));
        memory.data = nullptr;
        memory.size = 0;
        memory.data = static_cast<float*>(::operator new(size_t(n) * sizeof(float), std::align_val_t(64)));
        memory.size = n;
    }
    return memory.data;
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
#endif

namespace dualmcmc::DEVICE_NAMESPACE {
// The kernels of this compilation; backend.cu gathers them into its table.
void* allocate(size_t bytes);
void release(void* pointer);
#define DUALMCMC_DECLARE(name, arguments) void name arguments;
DUALMCMC_KERNELS(DUALMCMC_DECLARE)
#undef DUALMCMC_DECLARE
}  // namespace dualmcmc::DEVICE_NAMESPACE
