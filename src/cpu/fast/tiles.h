// The innermost loop of every product on the CPU: a tile of rows × vectors that stays in registers. Included by conv.cu, winograd.cu,
// pooled.cu and amx.cu.
//
// With AVX-512 a tile holds 6 rows × 4 vectors of 16 columns: 24 accumulators, 4 weight vectors, and a row's value broadcast from memory.
#pragma once
#include <algorithm>
#include <deque>
#include <memory>
#include <utility>

#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE {

constexpr int max_vectors = lanes == 16 ? 4 : 2, tile_rows = lanes == 4 ? 4 : 6;

// Calls body(integral_constant n) for the n = value in 1 … limit.
template <int limit, class Body>
INLINE inline void dispatch(int value, Body body) {
    if constexpr (limit > 0) {
        if (value == limit) body(std::integral_constant<int, limit>{});
        else dispatch<limit - 1>(value, body);
    }
}

// acc[r][v] += Σ_k rows[r][k · row_step] · weights[k · weight_step + v] : the one loop where all the time goes.
template <int rows, int vectors>
struct Tile {
    Vector acc[rows][vectors];

    INLINE inline void load_from(float* const* out) {
        unroll<rows>([&](auto r) INLINE { unroll<vectors>([&](auto v) INLINE { acc[r][v] = load(out[r] + v * lanes); }); });
    }
    INLINE inline void store_to(float* const* out) const {
        unroll<rows>([&](auto r) INLINE { unroll<vectors>([&](auto v) INLINE { store(out[r] + v * lanes, acc[r][v]); }); });
    }
    INLINE inline void clear() {
        unroll<rows>([&](auto r) INLINE { unroll<vectors>([&](auto v) INLINE { acc[r][v] = Vector{}; }); });
    }
    // `values[r]` is the place of row r's value; `weight` is that of the vectors.
    INLINE inline void multiply_add(const float* const* values, int64_t k, const float* weight) {
        Vector w[vectors];
        unroll<vectors>([&](auto v) INLINE { w[v] = load(weight + v * lanes); });
        unroll<rows>([&](auto r) INLINE {
            const float value = values[r][k];
            unroll<vectors>([&](auto v) INLINE { acc[r][v] += value * w[v]; });
        });
    }
};

// The columns of a result are cut into blocks of at most max_vectors vectors, the last one padded with zero weights; the
// rows of w (its input channels) into chunks, so that the weights of a chunk stay in the second-level cache.
struct Blocks {
    int64_t in, out, chunk;
    Blocks(int64_t in_, int64_t out_) : in(in_), out(out_), chunk(in_ <= 128 ? in_ : 64) {}
    int64_t block_width() const { return lanes * max_vectors; }
    int64_t count() const { return (out + block_width() - 1) / block_width(); }
    int64_t padded_out() const { return (out + lanes - 1) / lanes * lanes; }
    int vectors(int64_t block) const { return int(std::min(block_width(), padded_out() - block * block_width()) / lanes); }
};

// out (rows, vectors · lanes) = in (rows, channels) · weights (channels, vectors · lanes), rows out_step and in_step apart.
inline void block_product(float* out, int64_t out_step, const float* in, int64_t in_step, int64_t row_count, int64_t channels,
                          int vectors, const float* weights) {
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
                if (row == 0)  // what the next call wants is on its way from the outer caches meanwhile
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

// One tap's weights (in, out) as (out, in).
inline void exchange_channels(float* turned, const float* w, int64_t in, int64_t out) {
    for (int64_t o = 0; o < out; ++o)
        for (int64_t i = 0; i < in; ++i) turned[o * in + i] = w[i * out + o];
}

// U = S w Sᵀ of a 3×3 kernel for minimal filtering: w (9, in, out) -> u (36 places, block of columns, in, block's columns), what
// block_product wants. transform(u, g, to, from) takes three values `from` apart to six `to` apart, in one dimension.
template <class Transform>
void transform_weights(float* u, const float* w, const Blocks& blocks, Transform transform) {
    const int64_t place_size = blocks.in * blocks.out;
    for (int64_t block = 0; block < blocks.count(); ++block) {
        const int64_t first = block * blocks.block_width(), width = blocks.vectors(block) * lanes;
        for (int64_t i = 0; i < blocks.in; ++i)
            for (int64_t column = 0; column < width; column += lanes) {
                Vector g[9], rows[18], all[36];
                for (int tap = 0; tap < 9; ++tap) g[tap] = load(w + (tap * blocks.in + i) * blocks.out + first + column);
                for (int c = 0; c < 3; ++c) transform(rows + c, g + c, 3, 3);
                for (int r = 0; r < 6; ++r) transform(all + 6 * r, rows + 3 * r, 1, 1);
                float* target = u + first * blocks.in + i * width + column;
                for (int place = 0; place < 36; ++place) store(target + place * place_size, all[place]);
            }
    }
}

// What becomes of a sum before it is stored at y[place]: bias[channel] is added; it is dropped where `mask` is at most 0; then addend[place]
// is added. Each of the three may be null; addend may be y itself.
struct Epilogue {
    const float *bias = nullptr, *mask = nullptr, *addend = nullptr;
    INLINE inline Vector operator()(Vector sum, int64_t channel, int64_t place) const {
        if (bias) sum += load(bias + channel);
        if (mask) sum = load(mask + place) <= 0 ? Vector{} : sum;
        if (addend) sum += load(addend + place);
        return sum;
    }
};

// What a kernel makes of weights: `prepare(prepared)` fills `size` floats. The thread keeps it for weights that have a number
// (ConvShape::weights): a chain brings the same ones for each group of images. `maker` is an address of the caller's own.
template <class Prepare>
const float* prepared_weights(const void* maker, uint64_t number, int64_t size, Prepare prepare) {
    struct Kept {
        const void* maker;
        uint64_t number;
        std::unique_ptr<float, void (*)(void*)> floats;
        int64_t size;
    };
    constexpr size_t most_sets = 32;
    constexpr int64_t most_floats = int64_t(1) << 24;
    if (number == 0 || size > most_floats / 8) {
        float* once = scratch<6>(size);
        prepare(once);
        return once;
    }
    thread_local std::deque<Kept> kept;  // the newest first
    thread_local int64_t total = 0;
    for (const Kept& k : kept)
        if (k.maker == maker && k.number == number) return k.floats.get();
    Kept next{maker, number, {nullptr, release}, size};
    while (!kept.empty() && (kept.size() >= most_sets || total + size > most_floats)) {
        total -= kept.back().size;
        if (kept.back().size == size) next.floats = std::move(kept.back().floats);  // its memory serves again
        kept.pop_back();
    }
    if (!next.floats) next.floats.reset(static_cast<float*>(allocate(size_t(size) * sizeof(float))));
    prepare(next.floats.get());
    kept.push_front(std::move(next));
    total += size;
    return kept.front().floats.get();
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
