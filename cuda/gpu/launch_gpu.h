// Kernel launches on the GPU, one thread an index. Included by launch.h alone.
#pragma once
#include "backend.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>
#define DEVICE __device__

namespace dualmcmc::DEVICE_NAMESPACE {

// The program's only stream: all its work on the device runs in order.
cudaStream_t cuda_stream();

// Throws std::runtime_error with file, line, expression and the library's message.
[[noreturn]] void library_failure(const char* file, int line, const char* expression, const char* library,
                                  const char* message);
#define CUDA_CHECK(expression)                                                                         \
    do {                                                                                               \
        const cudaError_t cuda_status = (expression);                                                  \
        if (cuda_status != cudaSuccess)                                                                \
            library_failure(__FILE__, __LINE__, #expression, "CUDA", cudaGetErrorString(cuda_status)); \
    } while (0)

// kernel<<<grid, block>>>(arguments...) on the stream. With make SYNC=1 it waits, so that an error is reported at the
// kernel that caused it.
template <class... Parameters>
void launch(dim3 grid, dim3 block, void (*kernel)(Parameters...), std::type_identity_t<Parameters>... arguments) {
    void* pointers[] = {&arguments...};
    CUDA_CHECK(cudaLaunchKernel(kernel, grid, block, pointers, 0, cuda_stream()));
#ifdef SYNC
    CUDA_CHECK(cudaStreamSynchronize(cuda_stream()));
#endif
}

constexpr unsigned block_size = 256;  // threads of a thread block (CTA)
inline unsigned blocks_for(int64_t n, int64_t per_block) { return unsigned((n + per_block - 1) / per_block); }

template <class Body>
__global__ void run_each(int64_t n, Body body) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) body(i);
}

// body(i) for i in [0, n). `elements`, the elements one index computes, matters on the CPU only.
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

// (threads per row, rows) of a thread block. Threads per row: its columns rounded up to a power of two, at most 16 (two
// memory sectors); each repeats the row's setup.
inline dim3 block_for_rows(int64_t columns) {
    unsigned width = 1;
    while (width < 16 && width < columns) width *= 2;
    return dim3(width, block_size / width);
}

// Rows of `columns` elements: body(row) sets up the row and returns a function of the column. Few rows are divided
// among several thread blocks each, so that all multiprocessors have work.
template <class Body>
void parallel_for_rows(int64_t rows, int64_t columns, Body body) {
    if (rows == 0 || columns == 0) return;
    const dim3 block = block_for_rows(columns);
    const unsigned row_blocks = blocks_for(rows, block.y);
    launch({row_blocks, std::clamp(1024 / row_blocks, 1u, blocks_for(columns, block.x))}, block, run_rows<Body>, rows,
           columns, body);
}

// As in vector.h, for one column.
template <class Values>
DEVICE Values at(const float* p) {
    return *p;
}
DEVICE inline void store(float* p, float value) { *p = value; }

// Rows of `columns` elements: body(float, column) returns a function of the row. (On the CPU the first argument may be
// a Vector: that many columns at once.)
template <class Body>
void parallel_for_columns(int64_t rows, int64_t columns, Body body) {
    parallel_for_rows(rows, columns,
                      [=] DEVICE(int64_t row) { return [=](int64_t column) { body(0.0f, column)(row); }; });
}

// Kernels that divide a pixel's index into row and column do so in 32 bits: on a GPU a 64-bit division costs several
// times as much.
inline void check_pixels(int64_t pixels) {
    if (pixels >= int64_t(1) << 32)
        throw std::runtime_error("a layer has " + std::to_string(pixels) +
                                 " pixels, more than the GPU's kernels count; lower --batch");
}

template <class Body>
__global__ void run_pixels(int64_t rows, uint32_t width, int64_t channels, Body body) {
    const int64_t pixel = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (pixel >= rows * width) return;
    const uint32_t row = uint32_t(pixel) / width;
    const auto for_channel = body(int64_t(row))(int64_t(uint32_t(pixel) - row * width));
    for (int64_t c = threadIdx.x; c < channels; c += blockDim.x) for_channel(c);
}

// Rows of `width` pixels of `channels` elements: body(row) sets up the row and returns a function of the column, which
// sets up the pixel and returns a function of the channel.
template <class Body>
void parallel_for_pixels(int64_t rows, int64_t width, int64_t channels, Body body) {
    if (rows * width == 0 || channels == 0) return;
    check_pixels(rows * width);
    const dim3 block = block_for_rows(channels);
    launch(blocks_for(rows * width, block.y), block, run_pixels<Body>, rows, uint32_t(width), channels, body);
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
