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

// Rows of `width` pixels of `channels` elements: body(row) prepares the row and returns what prepares a pixel, given
// its column, and returns what is to be done for a channel.
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

// Rows of `columns` elements, of which much depends on the column alone: body(kind, column) prepares `column`, where
// `kind` is a float, or as many columns from there on as the Vector `kind` has, and returns what is to be done for a
// row. What it prepared stays in registers.
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

// Working memory of the calling thread, kept from call to call so that a kernel allocates only until it has seen its
// largest size. What must live at the same time in one thread takes different slots.
template <int slot>
float* workspace(int64_t n) {
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
