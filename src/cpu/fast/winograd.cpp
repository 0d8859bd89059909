// 3×3 convolution at stride 1 by Winograd's F(4×4, 3×3) (Winograd 1980; Lavin and Gray 2016), with a quarter of the
// definition's MACs.
//
// In one dimension, four outputs of a three-tap filter g over six inputs d are  Aᵀ[(G g) ⊙ (Bᵀ d)]  with the
// matrices below: polynomials are evaluated at 0, ±1, ±2 and ∞, multiplied there, and interpolated. In two
// dimensions Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)] A for 6×6 input tiles that overlap by two. With the sum over input
// channels each of the 36 points ξ of a tile is a GEMM of its own:
//   M_ξ (tiles, out) = V_ξ (tiles, in) · U_ξ (in, out).
// Rounding error: about 1e-6 of the result's norm, against 2e-7 for the definition.
#include "cpu/fast/algorithms.h"
#include "cpu/fast/tiles.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

namespace {

constexpr int64_t points = 36;  // ξ, of a 6×6 tile in the transform domain

// Bᵀ d: six vectors, `to` apart, from six, `from` apart.
INLINE inline void transform_input(Vector* y, const Vector* d, int to, int from) {
    const Vector d0 = d[0], d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from], d5 = d[5 * from];
    const Vector even4 = d4 - 4 * d2, odd4 = d3 - 4 * d1, even1 = d4 - d2, odd1 = 2 * (d3 - d1);
    y[0] = 4 * d0 - 5 * d2 + d4;
    y[to] = even4 + odd4;
    y[2 * to] = even4 - odd4;
    y[3 * to] = even1 + odd1;
    y[4 * to] = even1 - odd1;
    y[5 * to] = 4 * d1 - 5 * d3 + d5;
}

// Aᵀ m: four vectors from six.
INLINE inline void transform_output(Vector* y, const Vector* m, int to, int from) {
    const Vector sum1 = m[from] + m[2 * from], difference1 = m[from] - m[2 * from];
    const Vector sum2 = m[3 * from] + m[4 * from], difference2 = m[3 * from] - m[4 * from];
    y[0] = m[0] + sum1 + sum2;
    y[to] = difference1 + 2 * difference2;
    y[2 * to] = sum1 + 4 * sum2;
    y[3 * to] = difference1 + 8 * difference2 + m[5 * from];
}

// A y, its adjoint: six vectors from four.
INLINE inline void transform_output_adjoint(Vector* m, const Vector* y, int to, int from) {
    const Vector outer = y[0] + y[2 * from], inner = y[from] + y[3 * from];
    const Vector outer2 = y[0] + 4 * y[2 * from], inner2 = 2 * y[from] + 8 * y[3 * from];
    m[0] = y[0];
    m[to] = outer + inner;
    m[2 * to] = outer - inner;
    m[3 * to] = outer2 + inner2;
    m[4 * to] = outer2 - inner2;
    m[5 * to] = y[3 * from];
}

// G g: six vectors from three.
INLINE inline void transform_weight(Vector* u, const Vector* g, int to, int from) {
    const Vector outer = g[0] + g[2 * from], outer2 = g[0] * (1.0f / 24) + g[2 * from] * (1.0f / 6);
    u[0] = g[0] * 0.25f;
    u[to] = (outer + g[from]) * (-1.0f / 6);
    u[2 * to] = (outer - g[from]) * (-1.0f / 6);
    u[3 * to] = outer2 + g[from] * (1.0f / 12);
    u[4 * to] = outer2 - g[from] * (1.0f / 12);
    u[5 * to] = g[2 * from];
}

// Gᵀ u, its adjoint: three vectors from six.
INLINE inline void transform_weight_adjoint(Vector* g, const Vector* u, int to, int from) {
    const Vector sum1 = u[from] + u[2 * from], sum2 = u[3 * from] + u[4 * from];
    g[0] = 0.25f * u[0] - (1.0f / 6) * sum1 + (1.0f / 24) * sum2;
    g[to] = (1.0f / 6) * (u[2 * from] - u[from]) + (1.0f / 12) * (u[3 * from] - u[4 * from]);
    g[2 * to] = (1.0f / 6) * (sum2 - sum1) + u[5 * from];
}

// The tiles of a batch, numbered consecutively; row and column are those of a tile's first output.
struct Tiling {
    int64_t height, width, rows, columns;
    Tiling(int64_t height_, int64_t width_)
        : height(height_), width(width_), rows((height + 3) / 4), columns((width + 3) / 4) {}
    int64_t per_image() const { return rows * columns; }
    int64_t image(int64_t tile) const { return tile / per_image(); }
    int64_t row(int64_t tile) const { return tile % per_image() / columns * 4; }
    int64_t column(int64_t tile) const { return tile % columns * 4; }
};

// V = Bᵀ d B of one tile of x or max(x, 0), into v[ξ · point_step + channel]. Outside of `image` the tile reads
// `zeros`.
template <bool relu>
void input_tile(float* v, int64_t point_step, const float* image, const float* zeros, const Tiling& tiling,
                int64_t tile, int64_t channels) {
    const float* source[points];
    for (int64_t r = 0; r < 6; ++r)
        for (int64_t c = 0; c < 6; ++c) {
            const int64_t row = tiling.row(tile) + r - 1, column = tiling.column(tile) + c - 1;
            const bool inside = row >= 0 && row < tiling.height && column >= 0 && column < tiling.width;
            source[6 * r + c] = inside ? image + (row * tiling.width + column) * channels : zeros;
        }
    for (int64_t channel = 0; channel < channels; channel += lanes) {
        Vector rows[points];  // d B
        unroll<6>([&](auto r) INLINE {
            Vector d[6];
            unroll<6>([&](auto c) INLINE {
                d[c] = load(source[6 * r + c] + channel);
                if (relu) d[c] = d[c] <= 0 ? Vector{} : d[c];  // NaN stays NaN
            });
            transform_input(rows + 6 * r, d, 1, 1);
        });
        unroll<6>([&](auto c) INLINE {
            Vector out[6];
            transform_input(out, rows + c, 1, 6);
            unroll<6>([&](auto r) INLINE { store(v + (6 * r + c) * point_step + channel, out[r]); });
        });
    }
}

// The 4×4 outputs Aᵀ M A of one tile, from m[ξ · point_step + channel]; those outside the image are dropped.
void output_tile(float* y, const float* m, int64_t point_step, const Epilogue& epilogue, const Tiling& tiling,
                 int64_t tile, int64_t channels) {
    const int64_t row = tiling.row(tile), column = tiling.column(tile), line = tiling.width * channels;
    const int64_t rows = std::min<int64_t>(4, tiling.height - row),
                  columns = std::min<int64_t>(4, tiling.width - column);
    const int64_t corner = (tiling.image(tile) * tiling.height + row) * line + column * channels;
    const bool whole = rows == 4 && columns == 4;
    for (int64_t channel = 0; channel < channels; channel += lanes) {
        Vector half[24];  // Aᵀ M
        unroll<6>([&](auto c) INLINE {
            Vector in[6];
            unroll<6>([&](auto r) INLINE { in[r] = load(m + (6 * r + c) * point_step + channel); });
            transform_output(half + c, in, 6, 1);
        });
        unroll<4>([&](auto r) INLINE {
            Vector out[4];
            transform_output(out, half + 6 * r, 1, 1);
            unroll<4>([&](auto c) INLINE {
                if (!whole && (r >= rows || c >= columns)) return;
                const int64_t offset = corner + r * line + c * channels + channel;
                store(y + offset, epilogue(out[c], channel, offset));
            });
        });
    }
}

// A dY Aᵀ of one tile, into m[ξ · point_step + channel]; outside of the image dY is zero.
void gradient_tile(float* m, int64_t point_step, const float* dy, const Tiling& tiling, int64_t tile,
                   int64_t channels) {
    const int64_t row = tiling.row(tile), column = tiling.column(tile), line = tiling.width * channels;
    const float* corner = dy + (tiling.image(tile) * tiling.height + row) * line + column * channels;
    for (int64_t channel = 0; channel < channels; channel += lanes) {
        Vector half[24];  // dY Aᵀ
        unroll<4>([&](auto r) INLINE {
            Vector in[4];
            unroll<4>([&](auto c) INLINE {
                const bool inside = row + r < tiling.height && column + c < tiling.width;
                in[c] = inside ? load(corner + r * line + c * channels + channel) : Vector{};
            });
            transform_output_adjoint(half + 6 * r, in, 1, 1);
        });
        unroll<6>([&](auto c) INLINE {
            Vector out[6];
            transform_output_adjoint(out, half + c, 1, 6);
            unroll<6>([&](auto r) INLINE { store(m + (6 * r + c) * point_step + channel, out[r]); });
        });
    }
}

// total (in, out) += vᵀ m for v (rows, in) and m (rows, out).
void accumulate_gemm(float* total, const float* v, const float* m, int64_t rows, const Panels& panels) {
    for (int64_t panel = 0; panel < panels.count(); ++panel)
        for (int64_t i = 0; i < panels.in; i += tile_rows) {
            const int64_t column = panel * panels.panel_width();
            dispatch<max_vectors>(panels.vectors(panel), [&](auto vectors) INLINE {
                dispatch<tile_rows>(int(std::min<int64_t>(tile_rows, panels.in - i)), [&](auto r) INLINE {
                    float* target[r];
                    const float* values[r];
                    unroll<r>([&](auto k) INLINE {
                        target[k] = total + (i + k) * panels.out + column;
                        values[k] = v + i + k;
                    });
                    Tile<r, vectors> tile;
                    tile.load_from(target);
                    for (int64_t row = 0; row < rows; ++row)
                        tile.multiply_add(values, row * panels.in, m + row * panels.out + column);
                    tile.store_to(target);
                });
            });
        }
}

// dw (9, in, out) = Gᵀ dU G, where dU is the sum of du (parts, ξ, in, out) over the parts.
void finish_weight_gradient(float* dw, const float* du, int64_t parts, const Panels& panels) {
    const int64_t size = panels.in * panels.out;
    parallel_dynamic(panels.in, [&](int64_t i) {
        for (int64_t column = 0; column < panels.out; column += lanes) {
            const float* source = du + i * panels.out + column;
            Vector u[points], half[18], g[9];
            for (int64_t xi = 0; xi < points; ++xi) {
                u[xi] = load(source + xi * size);
                for (int64_t part = 1; part < parts; ++part) u[xi] += load(source + (part * points + xi) * size);
            }
            for (int r = 0; r < 6; ++r) transform_weight_adjoint(half + 3 * r, u + 6 * r, 1, 1);
            for (int c = 0; c < 3; ++c) transform_weight_adjoint(g + c, half + c, 3, 3);
            for (int tap = 0; tap < 9; ++tap) store(dw + tap * size + i * panels.out + column, g[tap]);
        }
    });
}

// Tiles per task: their V and M should fit the L2 cache.
int64_t tiles_per_task(int64_t in, int64_t out) {
    const int64_t fitting = 98304 / (points * (in + out));  // 384 KiB of floats
    return std::clamp<int64_t>(fitting / tile_rows * tile_rows, 4 * tile_rows, 16 * tile_rows);
}

// y (batch, height, width, panels.out) from x (…, panels.in) and U.
void convolve(float* y, const float* x, const float* u, const Epilogue& epilogue, const ConvShape& s,
              const Panels& panels, bool relu) {
    const Tiling tiling(s.height, s.width);
    const int64_t weights = panels.in * panels.out, tiles = s.batch * tiling.per_image(),
                  group = tiles_per_task(panels.in, panels.out);
    // One cache line is added to the distance between points, or else the 36 points of a tile might map to a few sets
    // of the cache.
    const int64_t v_step = group * panels.in + lanes, m_step = group * panels.out + lanes;
    parallel_dynamic((tiles + group - 1) / group, [&](int64_t task) {
        const int64_t first = task * group, count = std::min(group, tiles - first);
        float *v = workspace<1>(points * v_step + panels.in), *m = workspace<2>(points * m_step),
              *zeros = v + points * v_step;
        std::fill(zeros, zeros + panels.in, 0.0f);
        for (int64_t tile = 0; tile < count; ++tile) {
            const float* image = x + tiling.image(first + tile) * s.height * s.width * panels.in;
            (relu ? input_tile<true> : input_tile<false>)(v + tile * panels.in, v_step, image, zeros, tiling,
                                                          first + tile, panels.in);
        }
        for (int64_t xi = 0; xi < points; ++xi)
            for (int64_t panel = 0; panel < panels.count(); ++panel) {
                const int64_t column = panel * panels.panel_width();
                panel_gemm(m + xi * m_step + column, panels.out, v + xi * v_step, panels.in, count, panels.in,
                           panels.vectors(panel), u + xi * weights + column * panels.in);
            }
        for (int64_t tile = 0; tile < count; ++tile)
            output_tile(y, m + tile * panels.out, m_step, epilogue, tiling, first + tile, panels.out);
    });
}

}  // namespace

void winograd(float* y, const float* x, const float* w, const float* bias, const float* residual, const ConvShape& s) {
    static const char tag = 0;
    const Panels panels(s.in, s.out);
    const float* u = packed_weights(&tag, w, points * s.in * s.out,
                                    [&](float* packed) { transform_weights(packed, w, panels, transform_weight); });
    convolve(y, x, u, {bias, nullptr, residual}, s, panels, s.relu);
}

// dgrad is the convolution of dy with the taps reversed and the channels exchanged.
void winograd_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                             const ConvShape& s) {
    static const char tag = 0;
    const Panels panels(s.out, s.in);
    const float* u = packed_weights(&tag, w, points * s.in * s.out, [&](float* packed) {
        float* transposed_w = workspace<0>(9 * s.in * s.out);
        for (int64_t tap = 0; tap < 9; ++tap)
            transpose_io(transposed_w + tap * s.in * s.out, w + (8 - tap) * s.in * s.out, s.in, s.out);
        transform_weights(packed, transposed_w, panels, transform_weight);
    });
    convolve(dx, dy, u, {nullptr, s.relu ? x : nullptr, residual}, s, panels, false);
}

// Y = Aᵀ[U ⊙ V] A has dU_ξ = V_ξᵀ (A dY Aᵀ)_ξ, summed over tiles; U = G g Gᵀ has dg = Gᵀ dU G.
// The batch is cut into parts, each with its own sum. Their number depends on the shape only, so that results do not
// depend on the number of threads.
void winograd_backward_weight(float* dw, const float* x, const float* dy, const ConvShape& s) {
    const Panels panels(s.in, s.out);
    const Tiling tiling(s.height, s.width);
    const int64_t size = points * s.in * s.out,
                  parts = std::clamp<int64_t>((int64_t(1) << 24) / size, 1, std::min<int64_t>(s.batch, 8)),
                  group = tiles_per_task(s.in, s.out);
    const int64_t v_step = group * s.in + lanes, m_step = group * s.out + lanes;
    float* du = workspace<0>(parts * size);
    parallel_dynamic(parts, [&](int64_t part) {
        float *total = du + part * size, *v = workspace<1>(points * v_step + s.in), *m = workspace<2>(points * m_step),
              *zeros = v + points * v_step;
        std::fill(total, total + size, 0.0f);
        std::fill(zeros, zeros + s.in, 0.0f);
        const int64_t end = s.batch * (part + 1) / parts * tiling.per_image();
        for (int64_t first = s.batch * part / parts * tiling.per_image(); first < end; first += group) {
            const int64_t count = std::min(group, end - first);
            for (int64_t tile = 0; tile < count; ++tile) {
                const float* image = x + tiling.image(first + tile) * s.height * s.width * s.in;
                (s.relu ? input_tile<true> : input_tile<false>)(v + tile * s.in, v_step, image, zeros, tiling,
                                                                first + tile, s.in);
                gradient_tile(m + tile * s.out, m_step, dy, tiling, first + tile, s.out);
            }
            for (int64_t xi = 0; xi < points; ++xi)
                accumulate_gemm(total + xi * s.in * s.out, v + xi * v_step, m + xi * m_step, count, panels);
        }
    });
    finish_weight_gradient(dw, du, parts, panels);
}

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast
