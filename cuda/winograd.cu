// 3×3 convolution at stride 1 by F(4×4, 3×3) (Winograd 1980; Lavin and Gray 2016), with a quarter of the direct products.
//
// In one dimension four outputs of a three-tap filter g over six inputs d are  Aᵀ[(G g) ⊙ (Bᵀ d)]  with the matrices below, which
// evaluate, multiply and interpolate polynomials at 0, ±1, ±2, ∞. In two: Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)] A, for 6×6 input tiles that
// overlap by two. Summed over input channels, each of the 36 places of the tile is a matrix product of its own:
//   M_ξ (tiles, out) = V_ξ (tiles, in) · U_ξ (in, out).
// Rounding: about 1e-6 of the result's norm, against 2e-7 for the direct sum.
#include "winograd.h"

#include "tile.h"

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

constexpr int64_t places = 36;

// Bᵀ d: six values from six, `to` and `from` apart.
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

// Aᵀ m: four values from six.
INLINE inline void transform_output(Vector* y, const Vector* m, int to, int from) {
    const Vector sum1 = m[from] + m[2 * from], difference1 = m[from] - m[2 * from];
    const Vector sum2 = m[3 * from] + m[4 * from], difference2 = m[3 * from] - m[4 * from];
    y[0] = m[0] + sum1 + sum2;
    y[to] = difference1 + 2 * difference2;
    y[2 * to] = sum1 + 4 * sum2;
    y[3 * to] = difference1 + 8 * difference2 + m[5 * from];
}

// G g: six values from three.
INLINE inline void transform_weight(Vector* u, const Vector* g, int from, int to) {
    const Vector outer = g[0] + g[2 * from], outer2 = g[0] * (1.0f / 24) + g[2 * from] * (1.0f / 6);
    u[0] = g[0] * 0.25f;
    u[to] = (outer + g[from]) * (-1.0f / 6);
    u[2 * to] = (outer - g[from]) * (-1.0f / 6);
    u[3 * to] = outer2 + g[from] * (1.0f / 12);
    u[4 * to] = outer2 - g[from] * (1.0f / 12);
    u[5 * to] = g[2 * from];
}

// U, ordered (place, block of columns, in, block's columns): what block_product wants. w (9, in, out).
void transform_weights(float* u, const float* w, const Blocks& blocks) {
    const int64_t place_size = blocks.in * blocks.out;
    for (int64_t block = 0; block < blocks.count(); ++block) {
        const int64_t first = block * blocks.block_width(), width = blocks.vectors(block) * lanes;
        for (int64_t i = 0; i < blocks.in; ++i)
            for (int64_t column = 0; column < width; column += lanes) {
                Vector g[9], rows[18], all[36];
                for (int tap = 0; tap < 9; ++tap) g[tap] = load(w + (tap * blocks.in + i) * blocks.out + first + column);
                for (int c = 0; c < 3; ++c) transform_weight(rows + c, g + c, 3, 3);
                for (int r = 0; r < 6; ++r) transform_weight(all + 6 * r, rows + 3 * r, 1, 1);
                float* target = u + first * blocks.in + i * width + column;
                for (int place = 0; place < 36; ++place) store(target + place * place_size, all[place]);
            }
    }
}

// The images' tiles, numbered through the batch.
struct Tiling {
    int64_t height, width, rows, columns;
    Tiling(int64_t height_, int64_t width_) : height(height_), width(width_), rows((height + 3) / 4), columns((width + 3) / 4) {}
    int64_t per_image() const { return rows * columns; }
    int64_t image(int64_t tile) const { return tile / per_image(); }
    int64_t row(int64_t tile) const { return tile % per_image() / columns * 4; }
    int64_t column(int64_t tile) const { return tile % columns * 4; }
};

// V of one tile of x, or of max(x, 0): v[place · place_step + channel]. `image` is the tile's; outside of it the tile reads `zeros`.
template <bool relu>
void gather_tile(float* v, int64_t place_step, const float* image, const float* zeros, const Tiling& tiling, int64_t tile, int64_t channels) {
    const float* source[places];
    for (int64_t r = 0; r < 6; ++r)
        for (int64_t c = 0; c < 6; ++c) {
            const int64_t row = tiling.row(tile) + r - 1, column = tiling.column(tile) + c - 1;
            const bool inside = row >= 0 && row < tiling.height && column >= 0 && column < tiling.width;
            source[6 * r + c] = inside ? image + (row * tiling.width + column) * channels : zeros;
        }
    for (int64_t channel = 0; channel < channels; channel += lanes) {
        Vector rows[places];  // d B
        unroll<6>([&](auto r) INLINE {
            Vector d[6];
            unroll<6>([&](auto c) INLINE {
                d[c] = load(source[6 * r + c] + channel);
                if (relu) d[c] = d[c] > 0 ? d[c] : Vector{};
            });
            transform_input(rows + 6 * r, d, 1, 1);
        });
        unroll<6>([&](auto c) INLINE {
            Vector out[6];
            transform_input(out, rows + c, 1, 6);
            unroll<6>([&](auto r) INLINE { store(v + (6 * r + c) * place_step + channel, out[r]); });
        });
    }
}

// The 4×4 outputs of one tile from m[place · place_step + channel], those inside the image.
void scatter_tile(float* y, const float* m, int64_t place_step, const Epilogue& epilogue, const Tiling& tiling, int64_t tile, int64_t channels) {
    const int64_t row = tiling.row(tile), column = tiling.column(tile), line = tiling.width * channels;
    const int64_t rows = std::min<int64_t>(4, tiling.height - row), columns = std::min<int64_t>(4, tiling.width - column);
    const int64_t corner = (tiling.image(tile) * tiling.height + row) * line + column * channels;
    const bool whole = rows == 4 && columns == 4;
    for (int64_t channel = 0; channel < channels; channel += lanes) {
        Vector half[24];  // Aᵀ M
        unroll<6>([&](auto c) INLINE {
            Vector in[6];
            unroll<6>([&](auto r) INLINE { in[r] = load(m + (6 * r + c) * place_step + channel); });
            transform_output(half + c, in, 6, 1);
        });
        unroll<4>([&](auto r) INLINE {
            Vector out[4];
            transform_output(out, half + 6 * r, 1, 1);
            unroll<4>([&](auto c) INLINE {
                if (!whole && (r >= rows || c >= columns)) return;
                const int64_t place = corner + r * line + c * channels + channel;
                store(y + place, epilogue(out[c], channel, place));
            });
        });
    }
}

// Tiles that are worked on together: V and M of these should stay in the second-level cache.
int64_t tiles_per_task(int64_t in, int64_t out) {
    const int64_t fitting = 98304 / (places * (in + out));  // 384 KiB of floats
    return std::clamp<int64_t>(fitting / tile_rows * tile_rows, 4 * tile_rows, 16 * tile_rows);
}

// y (batch, height, width, blocks.out) from x (…, blocks.in) and U.
void convolve(float* y, const float* x, const float* u, const Epilogue& epilogue, const ConvShape& s, const Blocks& blocks, bool relu) {
    const Tiling tiling(s.height, s.width);
    const int64_t weights = blocks.in * blocks.out, tiles = s.batch * tiling.per_image(), group = tiles_per_task(blocks.in, blocks.out);
    // Places lie a multiple of the group apart, and one cache line more: a tile's 36 places must not share a few sets of the cache.
    const int64_t v_step = group * blocks.in + lanes, m_step = group * blocks.out + lanes;
    parallel_tasks((tiles + group - 1) / group, [&](int64_t task) {
        const int64_t first = task * group, count = std::min(group, tiles - first);
        float *v = scratch<1>(places * v_step + blocks.in), *m = scratch<2>(places * m_step), *zeros = v + places * v_step;
        std::fill(zeros, zeros + blocks.in, 0.0f);
        for (int64_t tile = 0; tile < count; ++tile) {
            const float* image = x + tiling.image(first + tile) * s.height * s.width * blocks.in;
            (relu ? gather_tile<true> : gather_tile<false>)(v + tile * blocks.in, v_step, image, zeros, tiling, first + tile, blocks.in);
        }
        for (int64_t place = 0; place < places; ++place)
            for (int64_t block = 0; block < blocks.count(); ++block) {
                const int64_t column = block * blocks.block_width();
                block_product(m + place * m_step + column, blocks.out, v + place * v_step, blocks.in, count, blocks.in,
                              blocks.vectors(block), u + place * weights + column * blocks.in);
            }
        for (int64_t tile = 0; tile < count; ++tile)
            scatter_tile(y, m + tile * blocks.out, m_step, epilogue, tiling, first + tile, blocks.out);
    });
}

}  // namespace

bool winograd_applies(const ConvShape& s) {
    return s.kernel == 3 && s.stride == 1 && s.padding == 1 && !s.pool && s.in % lanes == 0 && s.out % lanes == 0 && s.height >= 4 && s.width >= 4;
}

void winograd(float* y, const float* x, const float* w, const float* bias, const float* addend, const ConvShape& s) {
    static const char maker = 0;
    const Blocks blocks(s.in, s.out);
    const float* u = prepared_weights(&maker, s.weights, places * s.in * s.out, [&](float* made) { transform_weights(made, w, blocks); });
    convolve(y, x, u, {bias, nullptr, addend}, s, blocks, s.relu);
}

// A convolution with the taps in reverse and the channels exchanged.
void winograd_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* addend, const ConvShape& s) {
    static const char maker = 0;
    const Blocks blocks(s.out, s.in);
    const float* u = prepared_weights(&maker, s.weights, places * s.in * s.out, [&](float* made) {
        float* turned = scratch<0>(9 * s.in * s.out);
        for (int64_t tap = 0; tap < 9; ++tap) exchange_channels(turned + tap * s.in * s.out, w + (8 - tap) * s.in * s.out, s.in, s.out);
        transform_weights(made, turned, blocks);
    });
    convolve(dx, dy, u, {nullptr, s.relu ? x : nullptr, addend}, s, blocks, false);
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
