// Kernel launches on the GPU: one thread an index. Included by launch.h alone.
#pragma once
#include "backend.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>
#define DEVICE __device__

namespace dualmcmc::DEVICE_NAMESPACE {

// All of this program's work on the device goes, in order, through this one stream.
cudaStream_t cuda_stream();

// Throws file, line, the expression and the library's message.
[[noreturn]] void library_failure(const char* file, int line, const char* expression, const char* library,
                                  const char* message);
#define CUDA_CHECK(expression)                                                                         \
    do {                                                                                               \
        const cudaError_t cuda_status = (expression);                                                  \
        if (cuda_status != cudaSuccess)                                                                \
            library_failure(__FILE__, __LINE__, #expression, "CUDA", cudaGetErrorString(cuda_status)); \
    } while (0)

// kernel<<<grid, block>>>(arguments...) on the stream. make SYNC=1: waits, so that an error is reported where it was
// made.
template <class... Parameters>
void launch(dim3 grid, dim3 block, void (*kernel)(Parameters...), std::type_identity_t<Parameters>... arguments) {
    void* pointers[] = {&arguments...};
    CUDA_CHECK(cudaLaunchKernel(kernel, grid, block, pointers, 0, cuda_stream()));
#ifdef SYNC
    CUDA_CHECK(cudaStreamSynchronize(cuda_stream()));
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
    for (int64_t column = int64_t(blockIdx.y) * blockDim.x + threadIdx.x; column < columns;
         column += int64_t(gridDim.y) * blockDim.x)
        for_column(column);
}

// As many threads to a row as it has columns, rounded up to a power of two, but no more than read two sectors of memory
// at a time: what is prepared for a row, each of them prepares. And as many rows as make a block.
inline dim3 block_for_rows(int64_t columns) {
    unsigned width = 1;
    while (width < 16 && width < columns) width *= 2;
    return dim3(width, block_size / width);
}

// Rows of `columns` elements: body(row) prepares the row and returns what is to be done for a column. Few rows are cut
// into as many pieces as it takes to give all multiprocessors work.
template <class Body>
void parallel_for_rows(int64_t rows, int64_t columns, Body body) {
    if (rows == 0 || columns == 0) return;
    const dim3 block = block_for_rows(columns);
    const unsigned of_rows = blocks_for(rows, block.y);
    launch({of_rows, std::clamp(1024 / of_rows, 1u, blocks_for(columns, block.x))}, block, run_rows<Body>, rows,
           columns, body);
}

// vector.h's, of one column.
template <class Values>
DEVICE Values at(const float* p) {
    return *p;
}
DEVICE inline void store(float* p, float value) { *p = value; }

// Rows of `columns` elements: body(kind, column), with a float `kind`, returns what is to be done for a row. (On the
// CPU `kind` may be a vector.)
template <class Body>
void parallel_for_columns(int64_t rows, int64_t columns, Body body) {
    parallel_for_rows(rows, columns,
                      [=] DEVICE(int64_t row) { return [=](int64_t column) { body(0.0f, column)(row); }; });
}

template <class Body>
__global__ void run_pixels(int64_t rows, int64_t width, int64_t channels, Body body) {
    const int64_t pixel = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (pixel >= rows * width) return;
    const auto for_channel = body(pixel / width)(pixel % width);
    for (int64_t c = threadIdx.x; c < channels; c += blockDim.x) for_channel(c);
}

// Rows of `width` pixels of `channels` elements: body(row) prepares the row and returns what prepares a pixel, given
// its column, and returns what is to be done for a channel.
template <class Body>
void parallel_for_pixels(int64_t rows, int64_t width, int64_t channels, Body body) {
    if (rows * width == 0 || channels == 0) return;
    const dim3 block = block_for_rows(channels);
    launch(blocks_for(rows * width, block.y), block, run_pixels<Body>, rows, width, channels, body);
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
