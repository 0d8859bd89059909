// Where the taps of a convolution find their numbers on the GPU (gpu_conv.cu): the arithmetic alone, for the host, the
// device and tests/taps_test.cpp.
//
// The source, an image or its gradient, stands among zeros, its "halo", so that a tap is one shift for all places of
// all images: with the places as the rows of a matrix, a convolution is a sum of matrix products on shifted views of
// one buffer,
//
//   result[r, :] = Σ_tap source[r + shift(tap), :] · weights(tap)          for every place r, those between the images
//   too;
//
// what comes out at places that no target has is dropped. With a stride s the source is split into s² phases, the
// places whose row and column leave the same rests modulo s: then a tap stays within one phase, and its shift is again
// the same for all places. For the gradient of the input it is the result that has phases, each of which meets taps of
// its own.
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

// One axis of the source: place j of phase f holds its element j stride + f - lead, or zero where there is none.
// `pitch` places make a row (or the rows of an image); place `pitch` is the next one's first, and where that is zero in
// every phase, it serves both.
struct Axis {
    int64_t size, stride, lead, pitch;
};

// The pitch at which targets 0 … targets - 1 do not overlap and taps shifted by 0 … reach find zeros beyond the ends.
inline Axis make_axis(int64_t size, int64_t stride, int64_t lead, int64_t targets, int64_t reach) {
    const int64_t filled = (size - 1 + lead) / stride + 1, zeros = lead / stride;
    return {size, stride, lead, std::max({filled, targets, targets + reach - zeros})};
}

// `batch` images among zeros: `phases` buffers, each of all places of all images and a tail of zeros for the largest
// shift.
struct Halo {
    int64_t batch, tail;
    Axis rows, columns;

    HOST_DEVICE int64_t image() const { return rows.pitch * columns.pitch; }
    HOST_DEVICE int64_t places() const { return batch * image(); }
    HOST_DEVICE int64_t phase_size() const { return places() + tail; }
    HOST_DEVICE int64_t phases() const { return rows.stride * columns.stride; }
    int64_t shift(int64_t row, int64_t column) const { return row * columns.pitch + column; }
    // The source itself, without a zero.
    bool bare() const { return tail == 0 && phases() == 1 && rows.pitch == rows.size && columns.pitch == columns.size; }

    // The pixel of the source, (image height + row) width + column, that stands at `index` of all phases one after the
    // other; -1: zero.
    HOST_DEVICE int64_t source(int64_t index) const {
        const int64_t phase = index / phase_size(), place = index % phase_size();
        const int64_t row = place / columns.pitch % rows.pitch * rows.stride + phase / columns.stride - rows.lead;
        const int64_t column = place % columns.pitch * columns.stride + phase % columns.stride - columns.lead;
        const bool there = place < places() && row >= 0 && row < rows.size && column >= 0 && column < columns.size;
        return there ? (place / image() * rows.size + row) * columns.size + column : -1;
    }
};

// Where the results stand: row h of the target is in phase (h + offset) mod stride, at row (h + offset) / stride -
// first.
struct Targets {
    int64_t height, width, stride, offset, first;

    // The place, in all phases one after the other, of the pixel (image height + row) width + column.
    HOST_DEVICE int64_t place(const Halo& halo, int64_t pixel) const {
        const int64_t column = pixel % width + offset, row = pixel / width % height + offset,
                      image = pixel / (width * height);
        return (row % stride * stride + column % stride) * halo.places() + image * halo.image() +
               (row / stride - first) * halo.columns.pitch + column / stride - first;
    }
};

// The target pixels of one phase, one after the other: those at the rows first_row, first_row + stride, … and columns
// likewise. Below 2^31.
struct Pixels {
    uint32_t rows, columns;  // in one image
    int64_t height, width, stride, first_row, first_column;
    int64_t image, pitch, base;  // an image's places and a row's; the first pixel's place
    struct At {
        int64_t pixel, place;  // as Targets::place has them, but for the phase
    };
    HOST_DEVICE At at(int64_t r) const {
        const uint32_t line = uint32_t(r) / columns, column = uint32_t(r) - line * columns, of = line / rows,
                       row = line - of * rows;
        return {(of * height + first_row + row * stride) * width + first_column + column * stride,
                of * image + row * pitch + column + base};
    }
    int64_t in_image() const { return int64_t(rows) * columns; }
};

inline Pixels phase_pixels(const Halo& halo, const Targets& t, int64_t phase) {
    const auto first = [&](int64_t rest) { return ((rest - t.offset) % t.stride + t.stride) % t.stride; };
    const auto count = [&](int64_t from, int64_t size) {
        return uint32_t(std::max<int64_t>(0, (size - from + t.stride - 1) / t.stride));
    };
    const auto place = [&](int64_t from) { return (from + t.offset) / t.stride - t.first; };
    const int64_t row = first(phase / t.stride), column = first(phase % t.stride);
    return {count(row, t.height),
            count(column, t.width),
            t.height,
            t.width,
            t.stride,
            row,
            column,
            halo.image(),
            halo.columns.pitch,
            place(row) * halo.columns.pitch + place(column)};
}

// n pixels that stand where they are.
inline Pixels pixels_in_order(int64_t n) { return {1, uint32_t(n), 1, n, 1, 0, 0, n, n, 0}; }

// One product: the weights of tap `weight` = kh kernel + kw meet the source at `shift`, counted over all phases.
struct Tap {
    int64_t weight, shift;
};

// ---- forward: y[h, w] = Σ x[h s - padding + kh, w s - padding + kw] -----------------------------

inline Halo forward_halo(const ConvShape& s) {
    const int64_t reach = (s.kernel - 1) / s.stride;
    const Axis rows = make_axis(s.height, s.stride, s.padding, s.out_height(), reach);
    const Axis columns = make_axis(s.width, s.stride, s.padding, s.out_width(), reach);
    return {s.batch, reach * columns.pitch + reach, rows, columns};
}
inline Targets forward_targets(const ConvShape& s) { return {s.out_height(), s.out_width(), 1, 0, 0}; }

inline std::vector<Tap> forward_taps(const ConvShape& s, const Halo& halo) {
    std::vector<Tap> taps;
    for (int64_t kh = 0; kh < s.kernel; ++kh)
        for (int64_t kw = 0; kw < s.kernel; ++kw)
            taps.push_back({kh * s.kernel + kw, (kh % s.stride * s.stride + kw % s.stride) * halo.phase_size() +
                                                    halo.shift(kh / s.stride, kw / s.stride)});
    return taps;
}

// dy at the places of the results, zeros elsewhere: for the gradient of the weight, dw[tap] = Σ_r x[r + shift(tap)]ᵀ
// dy[r].
inline Halo target_halo(const ConvShape& s, const Halo& halo) {
    return {s.batch, 0, {s.out_height(), 1, 0, halo.rows.pitch}, {s.out_width(), 1, 0, halo.columns.pitch}};
}

// ---- gradient of the input: with q = h + padding, dx[h] = Σ dy[(q - kh) / s] over the kh = q mod s + s m ----

inline int64_t backward_reach(const ConvShape& s) { return std::max(s.padding / s.stride, (s.kernel - 1) / s.stride); }

inline Halo backward_halo(const ConvShape& s) {
    const int64_t reach = backward_reach(s), lead = reach - s.padding / s.stride;
    auto targets = [&](int64_t size) { return (size - 1 + s.padding) / s.stride - s.padding / s.stride + 1; };
    const Axis rows = make_axis(s.out_height(), 1, lead, targets(s.height), reach);
    const Axis columns = make_axis(s.out_width(), 1, lead, targets(s.width), reach);
    return {s.batch, reach * columns.pitch + reach, rows, columns};
}
inline Targets backward_targets(const ConvShape& s) {
    return {s.height, s.width, s.stride, s.padding, s.padding / s.stride};
}

// Those that the results of one phase meet, in the (only) phase of dy.
inline std::vector<Tap> backward_taps(const ConvShape& s, const Halo& halo, int64_t phase) {
    std::vector<Tap> taps;
    const int64_t reach = backward_reach(s);
    for (int64_t kh = phase / s.stride; kh < s.kernel; kh += s.stride)
        for (int64_t kw = phase % s.stride; kw < s.kernel; kw += s.stride)
            taps.push_back({kh * s.kernel + kw, halo.shift(reach - kh / s.stride, reach - kw / s.stride)});
    return taps;
}

}  // namespace dualmcmc
