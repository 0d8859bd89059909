// Kernel launches on the CPU: OpenMP threads and SIMD. Included by launch.h alone.
#pragma once
#include <omp.h>

#include <algorithm>
#include <new>
#include <type_traits>

#include "parallel.h"
#include "vector.h"
#define DEVICE

namespace dualmcmc::DEVICE_NAMESPACE {

// Smaller work runs on the calling thread: waking the others would cost more.
constexpr int64_t parallel_threshold = 16384;

// body(i) for i in [0, n); one index computes `elements` elements. (Two loops, since the if clause of
// `parallel for simd` would also turn SIMD off.)
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

// run(row) for each row of `elements` elements.
template <class Run>
void for_each_row(int64_t rows, int64_t elements, const Run& run) {
    if (rows * elements < parallel_threshold || omp_in_parallel()) {
        for (int64_t row = 0; row < rows; ++row) run(row);
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; ++row) run(row);
}

// Rows of `columns` elements: body(row) sets up the row, once, and returns a function of the column.
template <class Body>
void parallel_for_rows(int64_t rows, int64_t columns, Body body) {
    for_each_row(rows, columns, [=](int64_t row) {
        const auto for_column = body(row);
#pragma omp simd
        for (int64_t column = 0; column < columns; ++column) for_column(column);
    });
}

// Rows of `width` pixels of `channels` elements: body(row) sets up the row and returns a function of the column, which
// sets up the pixel and returns a function of the channel.
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
    for_each_row(rows, width * channels, [=](int64_t row) {
        if (channels == 3) run(row, std::integral_constant<int64_t, 3>());  // RGB: a constant trip count
        else run(row, channels);
    });
}

// Rows of `columns` elements where much depends on the column alone: body(type, column) sets up `column` and returns a
// function of the row; the setup stays in registers. `type` is a real or, for `lanes` columns at once, a Vector.
template <class Body>
void parallel_for_columns(int64_t rows, int64_t columns, Body body) {
    constexpr int64_t task_rows = 64;  // rows that share a setup; few enough that all threads have work
    for_each_row((rows + task_rows - 1) / task_rows, std::min(rows, task_rows) * columns, [=](int64_t index) {
        const int64_t first = index * task_rows, end = std::min(rows, first + task_rows);
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
            const auto for_row = body(real(0), c);
            for (int64_t row = first; row < end; ++row) for_row(row);
        }
    });
}

// The calling thread's workspace, 64-byte aligned and kept between calls, so that it allocates only when it grows.
// Buffers that are in use together take different slots. Throws std::bad_alloc.
template <int slot>
real* workspace(int64_t n) {
    struct Memory {
        real* data = nullptr;
        int64_t size = 0;
        ~Memory() { ::operator delete(data, std::align_val_t(64)); }
    };
    thread_local Memory memory;
    if (memory.size < n) {
        ::operator delete(memory.data, std::align_val_t(64));
        memory.data = nullptr;
        memory.size = 0;
        memory.data = static_cast<real*>(::operator new(size_t(n) * sizeof(real), std::align_val_t(64)));
        memory.size = n;
    }
    return memory.data;
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
