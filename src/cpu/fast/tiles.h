// The inner loop of every fp32 GEMM on the CPU: a tile of rows × vectors of C that stays in registers.
//
// With AVX-512 a tile has 6 rows × 4 vectors of 16 columns: 24 accumulators and 4 registers of weights; the elements
// of the rows are broadcast from memory.
#pragma once
#include <algorithm>
#include <utility>

#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

constexpr int max_vectors = lanes == 16 ? 4 : 2, tile_rows = lanes == 4 ? 4 : 6;

// Calls body with `value`, from 1 to `limit`, as an integral_constant.
template <int limit, class Body>
INLINE inline void dispatch(int value, Body body) {
    if constexpr (limit > 0) {
        if (value == limit) body(std::integral_constant<int, limit>{});
        else dispatch<limit - 1>(value, body);
    }
}

// A tile of C. Nearly all the time of a convolution is spent in multiply_add.
template <int rows, int vectors>
struct Tile {
    Vector acc[rows][vectors];

    INLINE inline void load_from(float* const* out) {
        unroll<rows>([&](auto r)
                         INLINE { unroll<vectors>([&](auto v) INLINE { acc[r][v] = load(out[r] + v * lanes); }); });
    }
    INLINE inline void store_to(float* const* out) const {
        unroll<rows>([&](auto r)
                         INLINE { unroll<vectors>([&](auto v) INLINE { store(out[r] + v * lanes, acc[r][v]); }); });
    }
    INLINE inline void clear() {
        unroll<rows>([&](auto r) INLINE { unroll<vectors>([&](auto v) INLINE { acc[r][v] = Vector{}; }); });
    }
    // acc[r] += values[r][k] · weight, for all rows r: one step of K.
    INLINE inline void multiply_add(const float* const* values, int64_t k, const float* weight) {
        Vector w[vectors];
        unroll<vectors>([&](auto v) INLINE { w[v] = load(weight + v * lanes); });
        unroll<rows>([&](auto r) INLINE {
            const float value = values[r][k];
            unroll<vectors>([&](auto v) INLINE { acc[r][v] += value * w[v]; });
        });
    }
};

// [first, end)
struct PanelRange {
    int64_t first, end;
};

// How w (in, out) is cut: its columns into panels of at most max_vectors vectors, the last vector padded with zeros;
// its rows into chunks whose weights fit the L2 cache.
struct Panels {
    int64_t in, out, chunk;
    Panels(int64_t in_, int64_t out_) : in(in_), out(out_), chunk(in_ <= 128 ? in_ : 64) {}
    int64_t panel_width() const { return lanes * max_vectors; }
    int64_t count() const { return (out + panel_width() - 1) / panel_width(); }
    // What one thread takes at a time: 64 columns; fewer would be too little work.
    int64_t per_task() const { return std::max<int64_t>(1, 64 / panel_width()); }
    int64_t tasks() const { return (count() + per_task() - 1) / per_task(); }
    PanelRange task(int64_t index) const { return {index * per_task(), std::min(count(), (index + 1) * per_task())}; }
    PanelRange all() const { return {0, count()}; }
    int64_t padded_out() const { return (out + lanes - 1) / lanes * lanes; }
    int vectors(int64_t panel) const {
        return int(std::min(panel_width(), padded_out() - panel * panel_width()) / lanes);
    }
};

// out (row_count, vectors · lanes) = in (row_count, channels) · weights (channels, vectors · lanes). Rows of out and
// in are out_step and in_step floats apart.
inline void panel_gemm(float* out, int64_t out_step, const float* in, int64_t in_step, int64_t row_count,
                       int64_t channels, int vectors, const float* weights) {
    dispatch<max_vectors>(vectors, [&](auto v) INLINE {
        for (int64_t row = 0; row < row_count; row += tile_rows)
            dispatch<tile_rows>(int(std::min<int64_t>(tile_rows, row_count - row)), [&](auto r) INLINE {
                const float* values[r];
                float* target[r];
                unroll<r>([&](auto i) INLINE {
                    values[i] = in + (row + i) * in_step;
                    target[i] = out + (row + i) * out_step;
                });
                Tile<r, v> tile;
                tile.clear();
                const float* next = weights + channels * v * lanes;
                if (row == 0)  // prefetch the weights of the next call
                    for (int64_t k = 0; k < channels; ++k) {
                        unroll<v>([&](auto i) INLINE { __builtin_prefetch(next + (k * v + i) * lanes); });
                        tile.multiply_add(values, k, weights + k * v * lanes);
                    }
                else
                    for (int64_t k = 0; k < channels; ++k) tile.multiply_add(values, k, weights + k * v * lanes);
                tile.store_to(target);
            });
    });
}

// packed: (panel, chunk, tap, input channel of the chunk, column of the panel). element(tap, i, o) reads the weight.
template <class Element>
void pack_weights(float* packed, const Panels& panels, int64_t taps, Element element) {
    const int64_t chunks = (panels.in + panels.chunk - 1) / panels.chunk, blocks = chunks * taps;  // of a panel
    const int64_t elements = std::min(panels.in, panels.chunk) * std::min(panels.panel_width(), panels.padded_out());
    for_each_row(panels.count() * blocks, elements, [=](int64_t index) {
        const int64_t panel = index / blocks, first = index % blocks / taps * panels.chunk, tap = index % taps;
        const int64_t end = std::min(panels.in, first + panels.chunk), first_out = panel * panels.panel_width();
        const int64_t columns = panels.vectors(panel) * lanes, count = std::min(columns, panels.out - first_out);
        float* target = packed + first_out * taps * panels.in + (first * taps + (end - first) * tap) * columns;
        for (int64_t i = first; i < end; ++i, target += columns) {
            for (int64_t c = 0; c < count; ++c) target[c] = element(tap, i, first_out + c);
            std::fill(target + count, target + columns, 0.0f);
        }
    });
}

// The weights of one tap, w (in, out), as transposed_w (out, in).
inline void transpose_io(float* transposed_w, const float* w, int64_t in, int64_t out) {
    for (int64_t o = 0; o < out; ++o)
        for (int64_t i = 0; i < in; ++i) transposed_w[o * in + i] = w[i * out + o];
}

// The weights of minimal filtering, U = S g Sᵀ of each 3×3 kernel g: w (9, in, out) -> u (ξ of 36, panel, in,
// column of the panel), as panel_gemm reads them. transform(u, g, to, from) is S in one dimension: three vectors,
// `from` apart, to six, `to` apart.
template <class Transform>
void transform_weights(float* u, const float* w, const Panels& panels, Transform transform) {
    const int64_t point_size = panels.in * panels.out;
    for (int64_t panel = 0; panel < panels.count(); ++panel) {
        const int64_t first = panel * panels.panel_width(), width = panels.vectors(panel) * lanes;
        for (int64_t i = 0; i < panels.in; ++i)
            for (int64_t column = 0; column < width; column += lanes) {
                Vector g[9], rows[18], all[36];
                for (int tap = 0; tap < 9; ++tap)
                    g[tap] = load(w + (tap * panels.in + i) * panels.out + first + column);
                for (int c = 0; c < 3; ++c) transform(rows + c, g + c, 3, 3);
                for (int r = 0; r < 6; ++r) transform(all + 6 * r, rows + 3 * r, 1, 1);
                float* target = u + first * panels.in + i * width + column;
                for (int xi = 0; xi < 36; ++xi) store(target + xi * point_size, all[xi]);
            }
    }
}

// Applied to a sum before it is stored at y[offset]: add bias[channel]; set to 0 where mask[offset] <= 0; add
// residual[offset]. Each of the three may be null; residual may be y itself.
struct Epilogue {
    const float *bias = nullptr, *mask = nullptr, *residual = nullptr;
    INLINE inline Vector operator()(Vector sum, int64_t channel, int64_t offset) const {
        if (bias) sum += load(bias + channel);
        if (mask) sum = load(mask + offset) <= 0 ? Vector{} : sum;
        if (residual) sum += load(residual + offset);
        return sum;
    }
};

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast
