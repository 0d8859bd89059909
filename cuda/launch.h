// How a kernel body is run: parallel_for calls one lambda for each index, on the CPU (OpenMP, SIMD) or on the GPU (one thread an
// index). The only place where kernels are launched. Included by cuda/*.cu alone; the compilation's namespace is DEVICE_NAMESPACE, and
// GPU is defined where it is one (nvcc, or g++ with tests/simt).
#pragma once
#include <cmath>

#include "backend.h"

#ifdef GPU
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>
#define KERNEL __device__

namespace dualmcmc::DEVICE_NAMESPACE {

// All of this program's work on the device goes, in order, through this one stream.
cudaStream_t stream();

// Throws file, line, the expression and the library's message.
[[noreturn]] void library_failure(const char* file, int line, const char* expression, const char* library, const char* message);
#define CUDA_CHECK(expression)                                                                                                    \
    do {                                                                                                                          \
        const cudaError_t cuda_status = (expression);                                                                             \
        if (cuda_status != cudaSuccess) library_failure(__FILE__, __LINE__, #expression, "CUDA", cudaGetErrorString(cuda_status)); \
    } while (0)

// kernel<<<grid, block>>>(arguments...) on the stream. make SYNC=1: waits, so that an error is reported where it was made.
template <class... Parameters>
void launch(dim3 grid, dim3 block, void (*kernel)(Parameters...), std::type_identity_t<Parameters>... arguments) {
    void* pointers[] = {&arguments...};
    CUDA_CHECK(cudaLaunchKernel(kernel, grid, block, pointers, 0, stream()));
#ifdef SYNC
    CUDA_CHECK(cudaStreamSynchronize(stream()));
#endif
}

constexpr unsigned block_size = 256;
inline unsigned blocks_for(int64_t n, int64_t per_block) { return unsigned((n + per_block - 1) / per_block); }

template <class Body>
__global__ void run_each(int64_t n, Body body) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) body(i);
}

// `elements`: how many elements one index makes (on the CPU little work stays on one thread).
template <class Body>
void parallel_for(int64_t n, Body body, [[maybe_unused]] int64_t elements = 1) {
    if (n > 0) launch(blocks_for(n, block_size), block_size, run_each<Body>, n, body);
}

template <class Body>
__global__ void run_rows(int64_t rows, int64_t columns, Body body) {
    const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const auto for_column = body(row);
    for (int64_t column = int64_t(blockIdx.y) * blockDim.x + threadIdx.x; column < columns; column += int64_t(gridDim.y) * blockDim.x) for_column(column);
}

// As many threads to a row as it has columns, rounded up to a power of two, but no more than read two sectors of memory at a time: what
// is prepared for a row, each of them prepares. And as many rows as make a block.
inline dim3 block_for_rows(int64_t columns) {
    unsigned width = 1;
    while (width < 16 && width < columns) width *= 2;
    return dim3(width, block_size / width);
}

// Rows of `columns` elements: body(row) prepares the row and returns what is to be done for a column. Few rows are cut into as many pieces
// as it takes to give all multiprocessors work.
template <class Body>
void parallel_for_rows(int64_t rows, int64_t columns, Body body) {
    if (rows == 0 || columns == 0) return;
    const dim3 block = block_for_rows(columns);
    const unsigned of_rows = blocks_for(rows, block.y);
    launch({of_rows, std::clamp(1024 / of_rows, 1u, blocks_for(columns, block.x))}, block, run_rows<Body>, rows, columns, body);
}

// vector.h's, of one column.
template <class Values>
KERNEL Values at(const float* p) { return *p; }
KERNEL inline void store(float* p, float value) { *p = value; }

// Rows of `columns` elements: body(kind, column), with a float `kind`, returns what is to be done for a row. (On the CPU `kind` may be a vector.)
template <class Body>
void parallel_for_columns(int64_t rows, int64_t columns, Body body) {
    parallel_for_rows(rows, columns, [=] KERNEL(int64_t row) {
        return [=](int64_t column) { body(0.0f, column)(row); };
    });
}

template <class Body>
__global__ void run_pixels(int64_t rows, int64_t width, int64_t channels, Body body) {
    const int64_t pixel = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (pixel >= rows * width) return;
    const auto for_channel = body(pixel / width)(pixel % width);
    for (int64_t c = threadIdx.x; c < channels; c += blockDim.x) for_channel(c);
}

// Rows of `width` pixels of `channels` elements: body(row) prepares the row and returns what prepares a pixel, given its column, and
// returns what is to be done for a channel.
template <class Body>
void parallel_for_pixels(int64_t rows, int64_t width, int64_t channels, Body body) {
    if (rows * width == 0 || channels == 0) return;
    const dim3 block = block_for_rows(channels);
    launch(blocks_for(rows * width, block.y), block, run_pixels<Body>, rows, width, channels, body);
}

}  // namespace dualmcmc::DEVICE_NAMESPACE

#else
#include <omp.h>

#include <algorithm>
#include <new>
#include <type_traits>

#include "tasks.h"
#include "vector.h"
#define KERNEL

namespace dualmcmc::DEVICE_NAMESPACE {

// Work below this many elements is not worth waking the other threads for.
constexpr int64_t parallel_threshold = 16384;

// `elements`: how many elements one index makes. (An if that does not say `parallel` would turn SIMD off as well.)
template <class Body>
void parallel_for(int64_t n, Body body, int64_t elements = 1) {
    if (n * elements < parallel_threshold || omp_in_parallel()) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) body(i);
        return;
    }
#pragma omp parallel for simd schedule(static) firstprivate(body)
    for (int64_t i = 0; i < n; ++i) body(i);
}

// run(row) for rows of so many elements.
template <class Run>
void each_row(int64_t rows, int64_t elements, const Run& run) {
    if (rows * elements < parallel_threshold || omp_in_parallel()) {
        for (int64_t row = 0; row < rows; ++row) run(row);
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; ++row) run(row);
}

// Rows of `columns` elements: body(row) prepares the row, once, and returns what is to be done for a column.
template <class Body>
void parallel_for_rows(int64_t rows, int64_t columns, Body body) {
    each_row(rows, columns, [=](int64_t row) {
        const auto for_column = body(row);
#pragma omp simd
        for (int64_t column = 0; column < columns; ++column) for_column(column);
    });
}

// Rows of `width` pixels of `channels` elements: body(row) prepares the row and returns what prepares a pixel, given its column, and
// returns what is to be done for a channel.
template <class Body>
void parallel_for_pixels(int64_t rows, int64_t width, int64_t channels, Body body) {
    const auto run = [=](int64_t row, auto count) {
        const auto for_pixel = body(row);
        for (int64_t column = 0; column < width; ++column) {
            const auto for_channel = for_pixel(column);
#pragma omp simd
            for (int64_t c = 0; c < count; ++c) for_channel(c);
        }
    };
    each_row(rows, width * channels, [=](int64_t row) {
        if (channels == 3) run(row, std::integral_constant<int64_t, 3>());  // colours: the compiler knows their number
        else run(row, channels);
    });
}

// Rows of `columns` elements, of which much depends on the column alone: body(kind, column) prepares `column`, where `kind` is a float, or
// as many columns from there on as the Vector `kind` has, and returns what is to be done for a row. What it prepared stays in registers.
template <class Body>
void parallel_for_columns(int64_t rows, int64_t columns, Body body) {
    constexpr int64_t chunk = 64;  // rows that share what is prepared, few enough for all threads to have some
    each_row((rows + chunk - 1) / chunk, std::min(rows, chunk) * columns, [=](int64_t index) {
        const int64_t first = index * chunk, end = std::min(rows, first + chunk);
        int64_t c = 0;
        for (; c + 2 * lanes <= columns; c += 2 * lanes) {
            const auto left = body(Vector{}, c), right = body(Vector{}, c + lanes);
            for (int64_t row = first; row < end; ++row) {
                left(row);
                right(row);
            }
        }
        for (; c + lanes <= columns; c += lanes) {
            const auto for_row = body(Vector{}, c);
            for (int64_t row = first; row < end; ++row) for_row(row);
        }
        for (; c < columns; ++c) {
            const auto for_row = body(0.0f, c);
            for (int64_t row = first; row < end; ++row) for_row(row);
        }
    });
}

// Tasks of about equal, larger size, such as the images of a batch: body(task).
template <class Body>
void parallel_tasks(int64_t tasks, const Body& body) {
    if (tasks <= 1 || omp_in_parallel()) {
        for (int64_t task = 0; task < tasks; ++task) body(task);
        return;
    }
    run_tasks(tasks, body);
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

#ifdef GPU
std::string start();
int64_t free_bytes();
void begin_graph();
void* end_graph();
void launch_graph(void* graph);
void release_graph(void* graph);
// The convolutions of the table are in fp32.
void conv2d_tf32(float* y, const float* x, const float* w, const float* bias, const float* addend, ConvShape shape);
void conv2d_bf16(float* y, const float* x, const float* w, const float* bias, const float* addend, ConvShape shape);
void conv2d_backward_input_tf32(float* dx, const float* dy, const float* w, const float* x, const float* addend, ConvShape shape);
void conv2d_backward_input_bf16(float* dx, const float* dy, const float* w, const float* x, const float* addend, ConvShape shape);
void conv2d_backward_weight_tf32(float* dw, const float* x, const float* dy, ConvShape shape);
void conv2d_backward_weight_bf16(float* dw, const float* x, const float* dy, ConvShape shape);
#endif
}  // namespace dualmcmc::DEVICE_NAMESPACE
