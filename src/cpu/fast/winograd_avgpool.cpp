// 3×3 convolution at stride 1 followed by 2×2 average pooling, by minimal filtering: 81 MACs for 16 results, where
// the convolution of stride 2 on the box-filtered input (tiled_conv.cpp) has 144 and the definition 576.
//
// In one dimension let b[i] = ½ (x[i-1] + x[i]) be the box-filtered input. Pooling and convolution commute:
//   y[j] = g0 b[2j] + g1 b[2j+1] + g2 b[2j+2],
// a two-tap filter (g0, g2) over the even b and a one-tap filter g1 over the odd ones. The former is F(4, 2): four
// results from five inputs e with five multiplications, Aᵀ[(G (g0, g2)) ⊙ (Bᵀ e)] at the points 0, 1, -1, 2, ∞
// (compare winograd.cpp); the latter takes four. With
//   T = diag(Bᵀ, 1) on the nine b of a tile, sorted (even, odd);  S = (G; g1) on the taps;  R = (Aᵀ, 1)
// two dimensions are  Y = R [(S g Sᵀ) ⊙ (T b Tᵀ)] Rᵀ  for 4×4 results over 10×10 elements of x.
// Of the 9×9 points of T b Tᵀ, the four odd ones in a row share their weights. So there are 6×6 different GEMMs,
// and an odd point contributes four rows to its GEMM. dgrad is the adjoint, Tᵀ[(S g Sᵀ)ᵀ (Rᵀ dY R)] T, tile by
// tile, summed where tiles overlap.
#include "cpu/fast/algorithms.h"
#include "cpu/fast/tiles.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

namespace {

// In one dimension: points of F(4, 2); these and the odd one, with different weights; all points; elements of x.
constexpr int even = 5, distinct = 6, line = 9, patch = 10;
constexpr int gemms = distinct * distinct;

// Bᵀ e: five vectors from five. In the transform domain vectors are `step` apart.
INLINE inline void transform_input(Vector* y, const Vector* e, int step, int from) {
    const Vector e0 = e[0], e1 = e[from], e2 = e[2 * from], e3 = e[3 * from], e4 = e[4 * from];
    y[0] = 2 * (e0 - e2) + (e3 - e1);
    y[step] = e3 - e2 - 2 * e1;
    y[2 * step] = e3 - 3 * e2 + 2 * e1;
    y[3 * step] = e3 - e1;
    y[4 * step] = e4 - e2 + 2 * (e1 - e3);
}
// B y, its adjoint.
INLINE inline void transform_input_adjoint(Vector* e, const Vector* y, int step, int to) {
    const Vector y0 = y[0], y1 = y[step], y2 = y[2 * step], y3 = y[3 * step], y4 = y[4 * step];
    e[0] = 2 * y0;
    e[to] = 2 * (y2 - y1 + y4) - y0 - y3;
    e[2 * to] = -2 * y0 - y1 - 3 * y2 - y4;
    e[3 * to] = y0 + y1 + y2 + y3 - 2 * y4;
    e[4 * to] = y4;
}
// Aᵀ m: four vectors from five.
INLINE inline void transform_output(Vector* y, const Vector* m, int step, int to) {
    const Vector sum = m[step] + m[2 * step], difference = m[step] - m[2 * step], m3 = m[3 * step];
    y[0] = m[0] + sum + m3;
    y[to] = difference + 2 * m3;
    y[2 * to] = sum + 4 * m3;
    y[3 * to] = difference + 8 * m3 + m[4 * step];
}
// A y, its adjoint.
INLINE inline void transform_output_adjoint(Vector* m, const Vector* y, int step, int from) {
    const Vector outer = y[0] + y[2 * from], inner = y[from] + y[3 * from];
    m[0] = y[0];
    m[step] = outer + inner;
    m[2 * step] = outer - inner;
    m[3 * step] = y[0] + 2 * y[from] + 4 * y[2 * from] + 8 * y[3 * from];
    m[4 * step] = y[3 * from];
}

// S g, with the box filter's ½: six vectors from three.
INLINE inline void transform_weight(Vector* u, const Vector* g, int to, int from) {
    const Vector g0 = g[0] * 0.5f, g1 = g[from] * 0.5f, g2 = g[2 * from] * 0.5f;
    u[0] = g0 * 0.5f;
    u[to] = (g0 + g2) * -0.5f;
    u[2 * to] = (g0 - g2) * (-1.0f / 6);
    u[3 * to] = (g0 + 2 * g2) * (1.0f / 6);
    u[4 * to] = g2;
    u[5 * to] = g1;
}

// The layout of the 81 points of a task's tiles: one GEMM after another, each (copy, tile, channel), with one cache
// line between GEMMs. The copies are the points that share weights.
struct Points {
    int64_t tiles, channels;
    int64_t offset[line * line];  // of a point's first tile
    int64_t start[gemms + 1];     // of a GEMM's rows
    static int64_t copies(int p) { return p == even ? 4 : 1; }
    int64_t rows(int gemm) const { return copies(gemm / distinct) * copies(gemm % distinct) * tiles; }
    Points(int64_t tiles_, int64_t channels_) : tiles(tiles_), channels(channels_) {
        start[0] = 0;
        for (int gemm = 0; gemm < gemms; ++gemm) start[gemm + 1] = start[gemm] + rows(gemm) * channels + lanes;
        for (int row = 0; row < line; ++row)
            for (int column = 0; column < line; ++column) {
                const int p = std::min(row, even), q = std::min(column, even);
                const int64_t copy = (row - p) * copies(q) + column - q;
                offset[row * line + column] = start[p * distinct + q] + copy * tiles * channels;
            }
    }
    int64_t size() const { return start[gemms]; }
};

// Tiles of 4×4 results; a task takes whole images.
struct Tiling {
    int64_t height, width, rows, columns, images_per_task;  // sides of x; sides of an image in tiles
    explicit Tiling(const ConvShape& s)
        : height(s.height), width(s.width), rows(height / 8), columns(width / 8),
          images_per_task(std::max<int64_t>(1, 16 / (rows * columns))) {}
    int64_t per_image() const { return rows * columns; }
};

// Calls body(tile of the task, image, row, column) for the tiles of `images` images.
template <class Body>
INLINE inline void for_each_tile(const Tiling& tiling, int64_t first, int64_t images, Body body) {
    for (int64_t image = 0, tile = 0; image < images; ++image)
        for (int64_t row = 0; row < tiling.rows; ++row)
            for (int64_t column = 0; column < tiling.columns; ++column) body(tile++, first + image, row, column);
}

// A row of x under a tile: ten vectors, zero outside the image.
template <bool relu>
INLINE inline void load_row(Vector* x, const float* source, int64_t step, bool inside, bool left, bool right) {
    unroll<patch>([&](auto c) INLINE {
        const bool there = inside && !(c == 0 && left) && !(c == patch - 1 && right);
        x[c] = there ? load(source + c * step) : Vector{};
        if (relu) x[c] = x[c] <= 0 ? Vector{} : x[c];  // NaN stays NaN
    });
}

// T b Tᵀ of the tile (row, column) of `image`, of x or max(x, 0).
template <bool relu>
void input_tile(float* v, const Points& points, const float* image, const Tiling& tiling, int64_t row, int64_t column,
                int64_t channels) {
    const bool left = column == 0, right = column + 1 == tiling.columns;
    for (int64_t channel = 0; channel < channels; channel += lanes) {
        const float* source = image + ((8 * row - 1) * tiling.width + 8 * column - 1) * channels + channel;
        Vector rows[line * line];  // b Tᵀ, its rows sorted (even, odd)
        Vector above[line];        // sums of neighbours in the row above
        unroll<patch>([&](auto r) INLINE {
            Vector x[patch], b[line];
            load_row<relu>(x, source + r * tiling.width * channels, channels,
                           !(r == 0 && row == 0) && !(r == patch - 1 && row + 1 == tiling.rows), left, right);
            unroll<line>([&](auto c) INLINE {
                const Vector pair = x[c] + x[c + 1];
                b[c] = above[c] + pair;
                above[c] = pair;
            });
            if constexpr (r > 0) {
                Vector* target = rows + ((r - 1) / 2 + (r - 1) % 2 * even) * line;
                transform_input(target, b, 1, 2);
                unroll<line - even>([&](auto c) INLINE { target[even + c] = b[2 * c + 1]; });
            }
        });
        unroll<line>([&](auto c) INLINE {
            Vector out[even];
            transform_input(out, rows + c, 1, line);
            unroll<even>([&](auto r) INLINE { store(v + points.offset[r * line + c] + channel, out[r]); });
            unroll<line - even>([&](auto r) INLINE {
                store(v + points.offset[(even + r) * line + c] + channel, rows[(even + r) * line + c]);
            });
        });
    }
}

// Y = R M Rᵀ of one tile; `corner` is the offset of its first result.
void output_tile(float* y, const float* m, const Points& points, const Epilogue& epilogue, int64_t corner,
                 int64_t row_step, int64_t channels) {
    for (int64_t channel = 0; channel < channels; channel += lanes) {
        Vector half[4 * line];  // R M
        unroll<line>([&](auto c) INLINE {
            Vector in[line];
            unroll<line>([&](auto r) INLINE { in[r] = load(m + points.offset[r * line + c] + channel); });
            transform_output(half + c, in, 1, line);
            unroll<4>([&](auto r) INLINE { half[r * line + c] += in[even + r]; });
        });
        unroll<4>([&](auto r) INLINE {
            Vector out[4];
            transform_output(out, half + r * line, 1, 1);
            unroll<4>([&](auto c) INLINE {
                const int64_t offset = corner + r * row_step + c * channels + channel;
                store(y + offset, epilogue(out[c] + half[r * line + even + c], channel, offset));
            });
        });
    }
}

// Rᵀ dY R of one tile, which starts at dy.
void gradient_tile(float* m, const Points& points, const float* dy, int64_t row_step, int64_t channels) {
    for (int64_t channel = 0; channel < channels; channel += lanes) {
        Vector half[4 * line];  // dY R
        unroll<4>([&](auto r) INLINE {
            Vector* in = half + r * line + even;  // odd points: dY itself
            unroll<4>([&](auto c) INLINE { in[c] = load(dy + r * row_step + c * channels + channel); });
            transform_output_adjoint(half + r * line, in, 1, 1);
        });
        unroll<line>([&](auto c) INLINE {
            Vector out[even];
            transform_output_adjoint(out, half + c, 1, line);
            unroll<even>([&](auto r) INLINE { store(m + points.offset[r * line + c] + channel, out[r]); });
            unroll<4>([&](auto r)
                          INLINE { store(m + points.offset[(even + r) * line + c] + channel, half[r * line + c]); });
        });
    }
}

// The last two rows and columns of the 10×10 elements under a tile also lie under its neighbours. Their partial sums
// are carried to the next tile, which adds them. Tiles come row by row; each stores the elements that it
// completes.
struct Carry {
    float *below, *right;  // (2, width + 2, channels), (10, 2, channels)
    static int64_t below_size(const Tiling& tiling, int64_t channels) { return 2 * (tiling.width + 2) * channels; }
    static int64_t right_size(int64_t channels) { return patch * 2 * channels; }
};

// The adjoint of input_tile and of the box filter: dx under one tile.
void input_gradient_tile(float* dx, const float* v, const Points& points, const Epilogue& epilogue, const Carry& carry,
                         const Tiling& tiling, int64_t image, int64_t row, int64_t column, int64_t channels) {
    const bool last_row = row + 1 == tiling.rows, last_column = column + 1 == tiling.columns;
    const int64_t corner = ((image * tiling.height + 8 * row - 1) * tiling.width + 8 * column - 1) * channels,
                  row_step = tiling.width * channels;
    for (int64_t channel = 0; channel < channels; channel += lanes) {
        Vector rows[line * line];  // Tᵀ V, its rows in order
        Vector above[patch] = {};  // the row above's part in the box filter's adjoint
        unroll<line>([&](auto c) INLINE {
            Vector in[even];
            unroll<even>([&](auto r) INLINE { in[r] = load(v + points.offset[r * line + c] + channel); });
            transform_input_adjoint(rows + c, in, 1, 2 * line);
            unroll<line - even>([&](auto r) INLINE {
                rows[(2 * r + 1) * line + c] = load(v + points.offset[(even + r) * line + c] + channel);
            });
        });
        unroll<patch>([&](auto r) INLINE {
            Vector b[line + 2] = {};  // this row of b between zeros; zero after the last row
            if constexpr (r < line) {
                transform_input_adjoint(b + 1, rows + r * line, 1, 2);
                unroll<line - even>([&](auto c) INLINE { b[2 * c + 2] = rows[r * line + even + c]; });
            }
            const bool inside = !(r == 0 && row == 0) && !(r == patch - 1 && last_row), complete = r < 8 || last_row;
            unroll<patch>([&](auto c) INLINE {
                const Vector pair = b[c] + b[c + 1];
                Vector value = pair + above[c];
                above[c] = pair;
                float* const right = carry.right + (r * 2 + c % 8) * channels + channel;
                float* const below = carry.below + (r % 8 * (tiling.width + 2) + 8 * column + c) * channels + channel;
                if (c < 2 && column > 0) value += load(right);
                if (c >= 8 && !last_column) return store(right, value);
                if (!complete) return store(below, value);
                if (r < 2 && row > 0) value += load(below);
                if (!inside || (c == 0 && column == 0) || c == patch - 1) return;
                const int64_t offset = corner + r * row_step + c * channels + channel;
                store(dx + offset, epilogue(value, channel, offset));
            });
        });
    }
}

// m = v · U for each of the GEMMs.
void multiply(float* m, const Points& to, const float* v, const Points& from, const float* u, const Panels& panels) {
    for (int gemm = 0; gemm < gemms; ++gemm)
        for (int64_t panel = 0; panel < panels.count(); ++panel) {
            const int64_t column = panel * panels.panel_width();
            panel_gemm(m + to.start[gemm] + column, panels.out, v + from.start[gemm], panels.in, from.rows(gemm),
                       panels.in, panels.vectors(panel), u + gemm * panels.in * panels.out + column * panels.in);
        }
}

}  // namespace

void winograd_avgpool(float* y, const float* x, const float* w, const float* bias, const float* residual,
                      const ConvShape& s) {
    static const char tag = 0;
    const Panels panels(s.in, s.out);
    const float* u = packed_weights(&tag, w, gemms * s.in * s.out,
                                    [&](float* packed) { transform_weights(packed, w, panels, transform_weight); });
    const Tiling tiling(s);
    const int64_t row_step = s.out_width() * s.out;
    const Epilogue epilogue{bias, nullptr, residual};
    parallel_dynamic((s.batch + tiling.images_per_task - 1) / tiling.images_per_task, [&](int64_t task) {
        const int64_t first = task * tiling.images_per_task, images = std::min(tiling.images_per_task, s.batch - first);
        const Points from(images * tiling.per_image(), s.in), to(from.tiles, s.out);
        float *v = workspace<1>(from.size()), *m = workspace<2>(to.size());
        for_each_tile(tiling, first, images, [&](int64_t tile, int64_t image, int64_t row, int64_t column) {
            (s.relu ? input_tile<true> : input_tile<false>)(v + tile * s.in, from,
                                                            x + image * s.height * s.width * s.in, tiling, row, column,
                                                            s.in);
        });
        multiply(m, to, v, from, u, panels);
        for_each_tile(tiling, first, images, [&](int64_t tile, int64_t image, int64_t row, int64_t column) {
            const int64_t corner = (image * s.out_height() + 4 * row) * row_step + 4 * column * s.out;
            output_tile(y, m + tile * s.out, to, epilogue, corner, row_step, s.out);
        });
    });
}

void winograd_avgpool_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                                     const ConvShape& s) {
    static const char tag = 0;
    const Panels panels(s.out, s.in);
    const float* u = packed_weights(&tag, w, gemms * s.in * s.out, [&](float* packed) {
        float* transposed_w = workspace<0>(9 * s.in * s.out);
        for (int64_t tap = 0; tap < 9; ++tap)
            transpose_io(transposed_w + tap * s.in * s.out, w + tap * s.in * s.out, s.in, s.out);
        transform_weights(packed, transposed_w, panels, transform_weight);
    });
    const Tiling tiling(s);
    const int64_t dy_step = s.out_width() * s.out;
    const Epilogue epilogue{nullptr, s.relu ? x : nullptr, residual};
    parallel_dynamic((s.batch + tiling.images_per_task - 1) / tiling.images_per_task, [&](int64_t task) {
        const int64_t first = task * tiling.images_per_task, images = std::min(tiling.images_per_task, s.batch - first);
        const Points from(images * tiling.per_image(), s.out), to(from.tiles, s.in);
        float *m = workspace<1>(from.size()), *v = workspace<2>(to.size());
        float* below = workspace<3>(Carry::below_size(tiling, s.in) + Carry::right_size(s.in));
        const Carry carry{below, below + Carry::below_size(tiling, s.in)};
        for_each_tile(tiling, first, images, [&](int64_t tile, int64_t image, int64_t row, int64_t column) {
            gradient_tile(m + tile * s.out, from,
                          dy + (image * s.out_height() + 4 * row) * dy_step + 4 * column * s.out, dy_step, s.out);
        });
        multiply(v, to, m, from, u, panels);
        for_each_tile(tiling, first, images, [&](int64_t tile, int64_t image, int64_t row, int64_t column) {
            input_gradient_tile(dx, v + tile * s.in, to, epilogue, carry, tiling, image, row, column, s.in);
        });
    });
}

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast
