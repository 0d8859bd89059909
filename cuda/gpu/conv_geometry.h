// Index arithmetic of the GPU's convolutions: at which offset each tap finds its pixels. Shared by the host code and
// kernels of conv.cu and conv_mma.cu and by tests/conv_geometry_test.cpp; nothing here touches a pixel.
//
// A convolution is an implicit GEMM: the sum over its taps of one GEMM each, on shifted views of one zero-padded
// buffer,
//
//   fprop   y[m, :]  = Σ_tap x[m + shift(tap), :] w[tap]           the convolution
//   dgrad   dx[m, :] = Σ_tap dy[m + shift(tap), :] w[tap]ᵀ         the gradient of its input
//   wgrad   dw[tap]  = Σ_m x[m + shift(tap), :]ᵀ dy[m, :]          the gradient of its weights
//
// where m runs over the padded pixels of all images and w[tap] is (C_in, C_out). Rows m that are no output are dropped.
// wgrad always takes cuBLAS, one GEMM a tap; one in all where a side has few channels (conv_patches.h).
//
// Example: a 4×4 image, 3×3 kernel, padding 1, fprop. The pitch is 5, not 6: the zero between two rows is the right
// padding of the one and the left padding of the other. The same holds for the zero row between two images.
//
//    0:  . . . . .       25 padded pixels, then a tail of 12 zeros for the largest shift. Output (h, w) is row
//    5:  . A B C D       m = 5 h + w; tap (kh, kw) reads pixel m + 5 kh + kw. So the nine shifts are
//   10:  . E F G H       0 1 2, 5 6 7, 10 11 12. Rows with h = 4 or w = 4 are dropped.
//   15:  . I J K L
//   20:  . M N O P
//
// With stride 2 the output is 2×2, and the padded image is split into 2² phases by the parity of row and column, so
// that a tap is one shift again. The pitch is 3. A phase has 9 padded pixels and a tail of 4; phase f starts at 13 f:
//
//   0:  . . .      1:  . . .      2:  . B D      3:  A C .
//       . F H          E G .          . J L          I K .
//       . N P          M O .          . . .          . . .
//
// Output (h, w) is row m = 3 h + w, and the nine shifts are 0 13 1, 26 39 27, 3 16 4. In dgrad it is dx that has the
// four phases; they meet 4, 2, 2 and 1 taps, with the shifts 4 3 1 0, 4 1, 4 3 and 4 into one padded dy of pitch 3.
#pragma once
#include <algorithm>
#include <vector>

#include "backend.h"

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif

namespace dualmcmc {

// One axis of the padded source. Padded pixel j of phase f holds the source's element j stride + f - pad_before, or
// zero outside [0, size). `pitch` padded pixels make a row (rows make an image).
struct PaddedAxis {
    int64_t size, stride, pad_before, pitch;
};

// With the smallest pitch at which the outputs 0 … outputs - 1 do not overlap and shifts up to max_shift read zeros
// beyond either end.
inline PaddedAxis padded_axis(int64_t size, int64_t stride, int64_t pad_before, int64_t outputs, int64_t max_shift) {
    const int64_t filled = (size - 1 + pad_before) / stride + 1, zeros = pad_before / stride;
    return {size, stride, pad_before, std::max({filled, outputs, outputs + max_shift - zeros})};
}

// A batch of zero-padded images: one buffer a phase, each with the padded pixels of all images and a tail of zeros.
struct PaddedImages {
    int64_t batch, tail;
    PaddedAxis rows, columns;

    HOST_DEVICE int64_t image_size() const { return rows.pitch * columns.pitch; }
    HOST_DEVICE int64_t padded_pixels() const { return batch * image_size(); }
    HOST_DEVICE int64_t phase_size() const { return padded_pixels() + tail; }
    HOST_DEVICE int64_t phases() const { return rows.stride * columns.stride; }
    HOST_DEVICE int64_t size() const { return phases() * phase_size(); }
    int64_t shift(int64_t row, int64_t column) const { return row * columns.pitch + column; }
    // Whether the buffer is the source itself, without a zero.
    bool unpadded() const {
        return tail == 0 && phases() == 1 && rows.pitch == rows.size && columns.pitch == columns.size;
    }

    // What padded pixel `padded` holds in phase 0: the source's row and column, either of which may lie outside it. In
    // the tail, `image` is batch.
    struct Place {
        int64_t image, row, column;
    };
    HOST_DEVICE Place place(uint32_t padded) const {
        const uint32_t line = padded / uint32_t(columns.pitch), column = padded - line * uint32_t(columns.pitch),
                       image = line / uint32_t(rows.pitch), row = line - image * uint32_t(rows.pitch);
        return {padded < padded_pixels() ? int64_t(image) : batch, row * rows.stride - rows.pad_before,
                column * columns.stride - columns.pad_before};
    }
    HOST_DEVICE bool inside(int64_t row, int64_t column) const {
        return row >= 0 && row < rows.size && column >= 0 && column < columns.size;
    }

    // The source's pixel, (image height + row) width + column, at `index` of the buffers; -1: zero. `index` is below
    // 2^32 (padded_source checks it): on a GPU a 64-bit division costs several times a 32-bit one.
    HOST_DEVICE int64_t source_pixel(int64_t index) const {
        const uint32_t phase = uint32_t(index) / uint32_t(phase_size());
        const Place at = place(uint32_t(index) - phase * uint32_t(phase_size()));
        const int64_t row = at.row + phase / uint32_t(columns.stride),
                      column = at.column + phase % uint32_t(columns.stride);
        return at.image < batch && inside(row, column) ? (at.image * rows.size + row) * columns.size + column : -1;
    }
};

// Which padded pixel m holds an output: row h is in phase (h + offset) mod stride, at row (h + offset) / stride -
// first; columns likewise. Results of several phases follow one another without tails.
struct OutputMap {
    int64_t height, width, stride, offset, first;

    // The index in the results of an output pixel.
    HOST_DEVICE int64_t result_index(const PaddedImages& source, int64_t image, uint32_t row, uint32_t column) const {
        const uint32_t s = uint32_t(stride), h = row + uint32_t(offset), w = column + uint32_t(offset);
        return int64_t(h % s * s + w % s) * source.padded_pixels() + image * source.image_size() +
               (int64_t(h / s) - first) * source.columns.pitch + int64_t(w / s) - first;
    }
};

// The outputs of one phase alone, without dropped rows: GEMM row r -> output pixel and padded pixel. They are the rows
// first_row, first_row + stride, … and the columns likewise. Fewer than 2^31.
struct RowMap {
    uint32_t rows, columns;  // of outputs in one image
    int64_t height, width, stride, first_row, first_column;
    int64_t image_size, pitch, base;  // of the padded source; the padded pixel of the first output
    struct Entry {
        int64_t pixel, padded;  // as in OutputMap::result_index, `padded` within the phase
    };
    HOST_DEVICE Entry at(int64_t r) const {
        const uint32_t line = uint32_t(r) / columns, column = uint32_t(r) - line * columns, image = line / rows,
                       row = line - image * rows;
        return {(image * height + first_row + row * stride) * width + first_column + column * stride,
                image * image_size + row * pitch + column + base};
    }
    int64_t rows_per_image() const { return int64_t(rows) * columns; }
};

inline RowMap row_map(const PaddedImages& source, const OutputMap& out, int64_t phase) {
    const auto first = [&](int64_t remainder) {
        return ((remainder - out.offset) % out.stride + out.stride) % out.stride;
    };
    const auto count = [&](int64_t from, int64_t size) {
        return uint32_t(std::max<int64_t>(0, (size - from + out.stride - 1) / out.stride));
    };
    const auto padded = [&](int64_t from) { return (from + out.offset) / out.stride - out.first; };
    const int64_t row = first(phase / out.stride), column = first(phase % out.stride);
    return {count(row, out.height),
            count(column, out.width),
            out.height,
            out.width,
            out.stride,
            row,
            column,
            source.image_size(),
            source.columns.pitch,
            padded(row) * source.columns.pitch + padded(column)};
}

// n pixels without padding: row r is pixel r.
inline RowMap identity_row_map(int64_t n) { return {1, uint32_t(n), 1, n, 1, 0, 0, n, n, 0}; }

// One GEMM: the weights of tap `weight` = kh kernel + kw with the source shifted by `shift`, counted over all phases.
struct Tap {
    int64_t weight, shift;
};

// ---- fprop: y[h, w] = Σ x[h s - padding + kh, w s - padding + kw] w[kh, kw] ----

inline PaddedImages fprop_source(const ConvShape& s) {
    const int64_t max_shift = (s.kernel - 1) / s.stride;
    const PaddedAxis rows = padded_axis(s.height, s.stride, s.padding, s.out_height(), max_shift);
    const PaddedAxis columns = padded_axis(s.width, s.stride, s.padding, s.out_width(), max_shift);
    return {s.batch, max_shift * columns.pitch + max_shift, rows, columns};
}
inline OutputMap fprop_output(const ConvShape& s) { return {s.out_height(), s.out_width(), 1, 0, 0}; }

inline std::vector<Tap> fprop_taps(const ConvShape& s, const PaddedImages& x) {
    std::vector<Tap> taps;
    for (int64_t kh = 0; kh < s.kernel; ++kh)
        for (int64_t kw = 0; kw < s.kernel; ++kw) {
            const int64_t phase = kh % s.stride * s.stride + kw % s.stride;
            taps.push_back({kh * s.kernel + kw, phase * x.phase_size() + x.shift(kh / s.stride, kw / s.stride)});
        }
    return taps;
}

// ---- wgrad: x and its taps as in fprop; dy at the outputs' padded pixels, zero where fprop drops a row ----

inline PaddedImages wgrad_dy(const ConvShape& s, const PaddedImages& x) {
    return {s.batch, 0, {s.out_height(), 1, 0, x.rows.pitch}, {s.out_width(), 1, 0, x.columns.pitch}};
}

// ---- dgrad: with q = h + padding, dx[h] = Σ dy[(q - kh) / s] w[kh]ᵀ over kh ≡ q (mod s), columns likewise ----

inline int64_t dgrad_max_shift(const ConvShape& s) { return std::max(s.padding / s.stride, (s.kernel - 1) / s.stride); }

inline PaddedImages dgrad_source(const ConvShape& s) {
    const int64_t max_shift = dgrad_max_shift(s), pad_before = max_shift - s.padding / s.stride;
    auto outputs = [&](int64_t size) { return (size - 1 + s.padding) / s.stride - s.padding / s.stride + 1; };
    const PaddedAxis rows = padded_axis(s.out_height(), 1, pad_before, outputs(s.height), max_shift);
    const PaddedAxis columns = padded_axis(s.out_width(), 1, pad_before, outputs(s.width), max_shift);
    return {s.batch, max_shift * columns.pitch + max_shift, rows, columns};
}
inline OutputMap dgrad_output(const ConvShape& s) {
    return {s.height, s.width, s.stride, s.padding, s.padding / s.stride};
}

// The taps that one phase of dx meets. dy itself has a single phase.
inline std::vector<Tap> dgrad_taps(const ConvShape& s, const PaddedImages& dy, int64_t phase) {
    std::vector<Tap> taps;
    const int64_t max_shift = dgrad_max_shift(s);
    for (int64_t kh = phase / s.stride; kh < s.kernel; kh += s.stride)
        for (int64_t kw = phase % s.stride; kw < s.kernel; kw += s.stride)
            taps.push_back({kh * s.kernel + kw, dy.shift(max_shift - kh / s.stride, max_shift - kw / s.stride)});
    return taps;
}

}  // namespace dualmcmc
