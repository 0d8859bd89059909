// Convolution by implicit GEMM in AMX tiles: C (16×16, fp32) += A (16×32, bf16) B (32×16, bf16) per instruction.
//
// BF16x3 emulates fp32. Each element is a pair x = hi + lo: hi is the nearest bf16, lo the nearest bf16 of the rest,
// 16 of the 24 bits of the significand together. Then
//   x w ≈ hi hi + hi lo + lo hi,
// three bf16 MACs. The omitted terms are at most 2^-15 |x w| and random in sign: the result's relative error is about
// 4e-6 of its norm, four times that of winograd.cpp. (Above 3.38e38 hi is infinite and the result NaN.)
//
// The pairs of an image are stored with its zero padding, in rows of `pitch` positions. The result at position p is
// Σ_t A[p + shift(t)] B_t over the taps t. Neighbouring positions are a constant stride apart whatever the tap, so a
// tile takes 16 consecutive positions, across the ends of rows; results that fall into the padding are dropped.
//
//   stride 1        one plane; tap (kh, kw) reads kh rows down, kw positions right
//   stride 2        four polyphase planes: even and odd rows and columns of the padded image; a tap reads one of them
//   average pooling a 3×3 convolution of stride 2 on the box-filtered image (tiled_conv.cpp), filtered on the way
//                   into the planes
//   dgrad           the same with dy for x and the weights transposed, their taps reversed; at stride 2 each phase of
//                   dx (even and odd rows and columns of the padded image) has its own taps
//   few channels    im2col: the elements under all taps of a pixel (27 of an RGB image) are one row of A
#include "cpu/fast/algorithms.h"

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns falsely of its own intrinsics (GCC bug 105593)
#include <immintrin.h>

#include "cpu/fast/tiles.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

namespace {

using Bf16 = uint16_t;
constexpr int64_t k_step = 32, tile_size = 16 * k_step;  // K of a tile; elements in a tile of A or B
constexpr int64_t block_rows = 32;                       // positions per block: two tiles

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Once per thread: eight tiles of 16 rows of 64 bytes.
void configure_tiles() {
    thread_local bool configured = false;
    if (configured) return;
    struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    } config;
    for (int tile = 0; tile < 8; ++tile) {
        config.row_bytes[tile] = 64;
        config.rows[tile] = 16;
    }
    asm volatile("" ::"r"(&config) : "memory");  // the intrinsic declares only 8 of these bytes as read
    _tile_loadconfig(&config);
    configured = true;
}

// ---- bf16 pairs ---------------------------------------------------------------------------------

// The rows of A as pairs: all hi, then, `size` elements later, all lo. A position has `depth` elements, K of the GEMM
// rounded up to whole tiles.
struct Bf16Pairs {
    Bf16* hi;
    int64_t size, depth;
    Bf16* position(int64_t p) const { return hi + p * depth; }
};

// The 32 elements of a and b as pairs.
INLINE inline void store_pairs(Bf16* to, int64_t size, __m512 a, __m512 b) {
    const auto widened = [](__m256i half)
                             INLINE { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); };
    const __m512i hi = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    const __m512 rest_a = a - widened(_mm512_castsi512_si256(hi)),
                 rest_b = b - widened(_mm512_extracti64x4_epi64(hi, 1));
    _mm512_storeu_si512(to, hi);
    _mm512_storeu_si512(to + size, (__m512i)_mm512_cvtne2ps_pbh(rest_b, rest_a));
}

// 16 elements of x or max(x, 0); NaN stays NaN.
template <bool relu>
INLINE inline __m512 load_activated(const float* x) {
    const __m512 value = _mm512_loadu_ps(x);
    if (!relu) return value;
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_NLE_UQ), value);
}

void zero_positions(const Bf16Pairs& to, int64_t p, int64_t count) {
    std::fill_n(to.position(p), count * to.depth, Bf16(0));
    std::fill_n(to.position(p) + to.size, count * to.depth, Bf16(0));
}

// Position p from the `channels` elements at x (a multiple of 16), zero-filled to whole tiles.
template <bool relu>
INLINE inline void convert_position(const Bf16Pairs& to, int64_t p, const float* x, int64_t channels) {
    Bf16* target = to.position(p);
    for (int64_t c = 0; c < channels; c += 32) {
        const auto half = [&](int64_t from)
                              INLINE { return from < channels ? load_activated<relu>(x + from) : _mm512_setzero_ps(); };
        store_pairs(target + c, to.size, half(c), half(c + 16));
    }
}

// ---- GEMM ---------------------------------------------------------------------------------------

// The weights as tiles of B, in panels of two tiles of columns. Within a panel: for each tap and each 32 rows, hi of
// both tiles, then lo of both. Row r of a tile interleaves rows 2r and 2r + 1 of the matrix.
struct AmxPanels {
    int64_t depth, columns;  // K and N, rounded up to whole tiles
    AmxPanels(int64_t depth_, int64_t columns_) : depth(round_up(depth_, k_step)), columns(round_up(columns_, 16)) {}
    int64_t floats(int64_t taps) const { return taps * depth * columns; }
};

// Packs factor · W. row(tap, k) returns row k of a tap's matrix, readable in whole vectors, or null for zeros.
template <class Row>
void pack_panels(Bf16* to, const AmxPanels& p, int64_t taps, float factor, Row row) {
    const __m512 factors = _mm512_set1_ps(factor);
    for (int64_t column = 0; column < p.columns; column += 32) {
        const int64_t tiles = std::min<int64_t>(2, (p.columns - column) / 16);
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t k = 0; k < p.depth; k += k_step, to += 2 * tiles * tile_size)
                for (int64_t r = 0; r < 16; ++r) {
                    const float *even = row(tap, k + 2 * r), *odd = row(tap, k + 2 * r + 1);
                    for (int64_t tile = 0; tile < tiles; ++tile) {
                        const auto load = [&](const float* from) {
                            return from ? factors * _mm512_loadu_ps(from + column + 16 * tile) : _mm512_setzero_ps();
                        };
                        const auto words = [](__m512 x) {
                            return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
                        };
                        const __m512 a = load(even), b = load(odd);
                        const __m512i hi_a = words(a), hi_b = words(b);
                        const __m512i lo_a = words(a - _mm512_castsi512_ps(_mm512_slli_epi32(hi_a, 16)));
                        const __m512i lo_b = words(b - _mm512_castsi512_ps(_mm512_slli_epi32(hi_b, 16)));
                        Bf16* target = to + tile * tile_size + r * 32;
                        _mm512_storeu_si512(target, _mm512_or_si512(hi_a, _mm512_slli_epi32(hi_b, 16)));
                        _mm512_storeu_si512(target + tiles * tile_size,
                                            _mm512_or_si512(lo_a, _mm512_slli_epi32(lo_b, 16)));
                    }
                }
    }
}

// out (16 m rows, `out_step` floats apart, of 16 n columns) = Σ_t A[shift[t] + row] B_t. Tiles 0 to 3 hold the sums,
// 4 and 5 A, 6 and 7 B.
template <int m, int n>
INLINE inline void gemm_block(float* out, int64_t out_step, const Bf16* a, int64_t size, int64_t depth,
                              const int64_t* shift, int64_t taps, const Bf16* b) {
    const int64_t line = depth * int64_t(sizeof(Bf16)), next = 16 * depth;
    asm volatile("" ::: "memory");  // the intrinsics do not declare that they read memory
    _tile_zero(0);
    if (n == 2) _tile_zero(1);
    if (m == 2) _tile_zero(2);
    if (m == 2 && n == 2) _tile_zero(3);
    const auto load_a = [&](const Bf16* from) INLINE {
        _tile_loadd(4, from, line);
        if (m == 2) _tile_loadd(5, from + next, line);
    };
    const auto load_b = [&](const Bf16* from) INLINE {
        _tile_stream_loadd(6, from, 64);
        if (n == 2) _tile_stream_loadd(7, from + tile_size, 64);
    };
    const auto multiply = [&]() INLINE {
        _tile_dpbf16ps(0, 4, 6);
        if (n == 2) _tile_dpbf16ps(1, 4, 7);
        if (m == 2) _tile_dpbf16ps(2, 5, 6);
        if (m == 2 && n == 2) _tile_dpbf16ps(3, 5, 7);
    };
    int steps = 0;
    for (int64_t t = 0; t < taps; ++t)
        for (int64_t k = 0; k < depth; k += k_step, b += 2 * n * tile_size) {
            const Bf16* from = a + shift[t] * depth + k;
            load_a(from + size);
            load_b(b);
            multiply();
            load_a(from);
            multiply();
            load_b(b + n * tile_size);
            multiply();
            if (++steps % 4 == 0)
                _tile_stored(0, out, out_step * 4);  // overwritten below; without it the last stores stall 1000 cycles
        }
    _tile_stored(0, out, out_step * 4);
    if (n == 2) _tile_stored(1, out + 16, out_step * 4);
    if (m == 2) _tile_stored(2, out + 16 * out_step, out_step * 4);
    if (m == 2 && n == 2) _tile_stored(3, out + 16 * out_step + 16, out_step * 4);
}

// out (rows rounded up to 16, panels.columns): the results at `rows` positions from `first` on.
void gemm(float* out, const Bf16Pairs& a, int64_t first, int64_t rows, const int64_t* shift, int64_t taps,
          const AmxPanels& panels, const Bf16* b) {
    for (int64_t row = 0; row < rows; row += block_rows) {
        const Bf16* panel = b;
        for (int64_t column = 0; column < panels.columns; column += 32) {
            const bool tall = rows - row > 16, wide = panels.columns - column > 16;
            const auto block = [&](auto m, auto n) {
                gemm_block<m, n>(out + row * panels.columns + column, panels.columns, a.position(first + row), a.size,
                                 a.depth, shift, taps, panel);
            };
            constexpr std::integral_constant<int, 1> one;
            constexpr std::integral_constant<int, 2> two;
            if (tall) wide ? block(two, two) : block(two, one);
            else wide ? block(one, two) : block(one, one);
            panel += taps * panels.depth * (wide ? 64 : 32);
        }
    }
}

// ---- geometry -----------------------------------------------------------------------------------

// One sweep of the GEMM: the taps of the kernel that it sums, and where its results lie. Result (row, column) of the
// grid is that of position first + row · pitch + column.
struct TapSchedule {
    int64_t first = 0, rows = 0, columns = 0, pitch = 0, taps = 0;
    int64_t shift[16] = {}, tap[16] = {};
    void add(int64_t shift_, int64_t tap_) {
        shift[taps] = shift_;
        tap[taps++] = tap_;
    }
    int64_t positions() const { return (rows - 1) * pitch + columns; }
};

// Calls visit(row, column, count, values) for all results: values (count, panels.columns) at consecutive columns of a
// row of the grid.
template <class Visit>
void for_each_result(const TapSchedule& schedule, const Bf16Pairs& a, const AmxPanels& panels, const Bf16* b,
                     Visit visit) {
    float* results = workspace<2>(block_rows * panels.columns);
    for (int64_t p = 0, row = 0, column = 0; p < schedule.positions(); p += block_rows) {
        const int64_t count = std::min(block_rows, schedule.positions() - p);
        gemm(results, a, schedule.first + p, count, schedule.shift, schedule.taps, panels, b);
        for (int64_t done = 0; done < count;) {
            const int64_t in_row = std::min(count - done, schedule.pitch - column),
                          in_grid = std::min(in_row, schedule.columns - column);
            if (in_grid > 0) visit(row, column, in_grid, results + done * panels.columns);
            done += in_row;
            column += in_row;
            if (column == schedule.pitch) {
                column = 0;
                ++row;
            }
        }
    }
}

// `count` planes of one padded image, each (rows, pitch) positions.
struct PolyphasePlanes {
    int64_t rows = 0, pitch = 0, count = 0, depth = 0;
    int64_t plane_size() const { return rows * pitch; }
    // In this thread's workspace, with room at the end: the last block may read beyond the last position.
    Bf16Pairs allocate() const {
        const int64_t size = (count * plane_size() + pitch + 2 * block_rows) * depth;
        return {reinterpret_cast<Bf16*>(workspace<1>(size)), size, depth};
    }
};

// Stride 1: one plane, with `border` rows of zeros above and below and `border` zeros between rows.
template <bool relu>
void fill_plane(const Bf16Pairs& to, const PolyphasePlanes& planes, const float* x, int64_t height, int64_t width,
                int64_t channels, int64_t border) {
    zero_positions(to, 0, border * (planes.pitch + 1));
    for (int64_t row = 0; row < height; ++row) {
        int64_t p = (row + border) * planes.pitch + border;
        for (int64_t column = 0; column < width; ++column, x += channels) convert_position<relu>(to, p++, x, channels);
        zero_positions(to, p, row + 1 < height ? border : border * (planes.pitch + 1));
    }
}

// Stride 2: four planes of the image with a zero border of one.
template <bool relu>
void fill_polyphase(const Bf16Pairs& to, const PolyphasePlanes& planes, const float* x, int64_t height, int64_t width,
                    int64_t channels) {
    for (int64_t plane = 0; plane < 4; ++plane)
        for (int64_t r = 0; r < planes.rows; ++r)
            for (int64_t c = 0; c < planes.pitch; ++c) {
                const int64_t row = 2 * r + plane / 2 - 1, column = 2 * c + plane % 2 - 1,
                              p = plane * planes.plane_size() + r * planes.pitch + c;
                if (row < 0 || row >= height || column < 0 || column >= width) zero_positions(to, p, 1);
                else convert_position<relu>(to, p, x + (row * width + column) * channels, channels);
            }
}

// Average pooling: four planes of the box-filtered image. These are sums of 2×2 pixels; the packed weights hold the
// mean's factor ¼.
template <bool relu>
void fill_box_filtered(const Bf16Pairs& to, const PolyphasePlanes& planes, const float* x, int64_t height,
                       int64_t width, int64_t channels) {
    const int64_t line = width * channels;
    for (int64_t r = 0; r <= height; ++r) {
        const float *above = r > 0 ? x + (r - 1) * line : nullptr, *below = r < height ? x + r * line : nullptr;
        const int64_t p = (r % 2 * 2) * planes.plane_size() + r / 2 * planes.pitch;
        for (int64_t channel = 0; channel < channels; channel += 32) {
            __m512 left[2] = {}, right[2];
            for (int64_t c = 0; c <= width; ++c) {
                unroll<2>([&](auto half) INLINE {
                    right[half] = _mm512_setzero_ps();
                    const int64_t offset = c * channels + channel + 16 * half;
                    if (c == width || channel + 16 * half >= channels) return;
                    if (above) right[half] += load_activated<relu>(above + offset);
                    if (below) right[half] += load_activated<relu>(below + offset);
                });
                store_pairs(to.position(p + c % 2 * planes.plane_size() + c / 2) + channel, to.size, left[0] + right[0],
                            left[1] + right[1]);
                left[0] = right[0];
                left[1] = right[1];
            }
        }
    }
}

// im2col: row p of A holds the kernel² · in elements under the kernel at result p. A row of the kernel spans at most
// one vector, and at least half of one unless it is the only row, so a vector of A takes from at most two kernel rows.
void fill_im2col(const Bf16Pairs& to, const float* x, const ConvShape& s) {
    const int64_t line = (s.width + 2 * s.padding) * s.in, kernel_row = s.kernel * s.in, out_width = s.out_width();
    const int64_t padded_size = (s.height + 2 * s.padding) * line + lanes;
    float* padded = workspace<3>(padded_size);
    std::fill_n(padded, padded_size, 0.0f);
    for (int64_t row = 0; row < s.height; ++row)
        std::copy_n(x + row * s.width * s.in, s.width * s.in, padded + (row + s.padding) * line + s.padding * s.in);
    struct {  // of each vector of A: the lanes that it takes from two kernel rows, and the offsets of these two
        __m512i from;
        __mmask16 used;
        int64_t upper, lower;
    } take[4];
    for (int64_t v = 0; v < to.depth / lanes; ++v) {
        alignas(64) int from[lanes] = {};
        take[v].used = 0;
        const int64_t first = std::min(v * lanes / kernel_row, s.kernel - 1);
        for (int64_t lane = 0; lane < lanes; ++lane) {
            const int64_t element = v * lanes + lane, row = element / kernel_row;
            if (row >= s.kernel) continue;
            from[lane] = int((row - first) * lanes + element % kernel_row);
            take[v].used = __mmask16(take[v].used | 1u << lane);
        }
        take[v].from = _mm512_load_si512(from);
        take[v].upper = first * line;
        take[v].lower = std::min(first + 1, s.kernel - 1) * line;
    }
    for (int64_t row = 0; row < s.out_height(); ++row)
        for (int64_t column = 0; column < out_width; ++column) {
            const float* corner = padded + row * s.stride * line + column * s.stride * s.in;
            const auto vector = [&](int64_t v) INLINE {
                return _mm512_maskz_permutex2var_ps(take[v].used, _mm512_loadu_ps(corner + take[v].upper), take[v].from,
                                                    _mm512_loadu_ps(corner + take[v].lower));
            };
            Bf16* target = to.position(row * out_width + column);
            for (int64_t v = 0; v < to.depth / lanes; v += 2)
                store_pairs(target + v * lanes, to.size, vector(v), vector(v + 1));
        }
}

// ---- plans --------------------------------------------------------------------------------------

// fprop: the planes of x and one schedule.
struct FpropPlan {
    const ConvShape& s;
    bool im2col;
    int64_t depth;  // K
    PolyphasePlanes planes;
    TapSchedule schedule;

    FpropPlan(const ConvShape& shape, bool im2col_)
        : s(shape), im2col(im2col_), depth(im2col ? s.kernel * s.kernel * s.in : s.in) {
        const int64_t step = s.stride == 2 || s.pool ? 2 : 1, rows = s.out_height(), columns = s.out_width(),
                      padded = round_up(depth, k_step);
        if (im2col) planes = {rows, columns, 1, padded};
        else if (step == 2) planes = {rows + 1, columns + 1, 4, padded};
        else planes = {s.height + 2 * s.padding, s.width + s.padding, 1, padded};
        schedule = {.first = 0, .rows = rows, .columns = columns, .pitch = planes.pitch};
        if (im2col) schedule.add(0, 0);
        for (int64_t kh = 0; !im2col && kh < s.kernel; ++kh)
            for (int64_t kw = 0; kw < s.kernel; ++kw)
                schedule.add((kh % step * 2 + kw % step) * planes.plane_size() + kh / step * planes.pitch + kw / step,
                             kh * s.kernel + kw);
    }
    void fill(const Bf16Pairs& a, const float* x) const {
        if (im2col) fill_im2col(a, x, s);
        else if (s.pool)
            (s.relu ? fill_box_filtered<true> : fill_box_filtered<false>)(a, planes, x, s.height, s.width, s.in);
        else if (s.stride == 2)
            (s.relu ? fill_polyphase<true> : fill_polyphase<false>)(a, planes, x, s.height, s.width, s.in);
        else (s.relu ? fill_plane<true> : fill_plane<false>)(a, planes, x, s.height, s.width, s.in, s.padding);
    }
};

// dgrad: the plane of dy and the schedules, one for each phase of the image whose gradient the GEMMs give: x or, with
// pooling, the box-filtered x, whose sides are larger by one.
struct DgradPlan {
    int64_t border, step, count = 0;
    PolyphasePlanes planes;
    TapSchedule schedules[4];
    int64_t corner[4];  // the pixel of a schedule's first result, in an image of `width`
    int64_t width;

    explicit DgradPlan(const ConvShape& s) : step(s.pool || s.stride == 2 ? 2 : 1), width(s.width + s.pool) {
        const int64_t height = s.height + s.pool, padding = s.pool ? 0 : s.padding;
        border = step == 2 ? 1 : padding;
        planes = {s.out_height() + 2 * border, s.out_width() + border, 1, round_up(s.out, k_step)};
        for (int64_t phase = 0; phase < step * step; ++phase) {
            // Row h belongs to phase (h + padding) mod step. With q = (h + padding) / step, its taps kh = phase + step
            // m read rows q - m of dy.
            const int64_t row = phase / step, column = phase % step, h = (row + padding) % step,
                          v = (column + padding) % step;
            TapSchedule& schedule = schedules[count] = {
                .first = ((h + padding) / step + border) * planes.pitch + (v + padding) / step + border,
                .rows = (height - h + step - 1) / step,
                .columns = (width - v + step - 1) / step,
                .pitch = planes.pitch};
            for (int64_t kh = row; kh < s.kernel; kh += step)
                for (int64_t kw = column; kw < s.kernel; kw += step)
                    schedule.add(-(kh / step * planes.pitch + kw / step), kh * s.kernel + kw);
            corner[count++] = h * width + v;
        }
    }
};

// The box filter's adjoint: a pixel is part of four sums, one of each phase. Calls finish(pixel, channel, value) with
// their total.
template <class Finish>
void box_filter_adjoint(const float* const* filtered, int64_t pitch, const ConvShape& s, Finish finish) {
    for (int64_t row = 0; row < s.height; ++row)
        for (int64_t column = 0; column < s.width; ++column) {
            const float* source[4];
            for (int64_t phase = 0; phase < 4; ++phase) {
                const int64_t r = (row + (row % 2 != phase / 2)) / 2, q = (column + (column % 2 != phase % 2)) / 2;
                source[phase] = filtered[phase] + (r * pitch + q) * s.in;
            }
            for (int64_t c = 0; c < s.in; c += lanes)
                finish(row * s.width + column, c,
                       load(source[0] + c) + load(source[1] + c) + load(source[2] + c) + load(source[3] + c));
        }
}

// packed_weights, as tiles of B.
template <class Pack>
const Bf16* packed_tiles(const void* layout_tag, const float* w, int64_t floats, Pack pack) {
    return reinterpret_cast<const Bf16*>(
        packed_weights(layout_tag, w, floats, [&](float* packed) { pack(reinterpret_cast<Bf16*>(packed)); }));
}

}  // namespace

bool amx_gemm_applies(int64_t m, int64_t n, int64_t k) { return m % 32 == 0 && n % 16 == 0 && k % 16 == 0; }
int64_t amx_packed_size(int64_t n, int64_t k) { return AmxPanels(k, n).floats(1); }

void amx_pack(float* packed, const float* w, int64_t n, int64_t k) {
    pack_panels(reinterpret_cast<Bf16*>(packed), AmxPanels(k, n), 1, 1,
                [&](int64_t, int64_t row) { return row < k ? w + row * n : nullptr; });
}

void amx_gemm(float* y, const float* x, const float* packed, int64_t m, int64_t n, int64_t k) {
    configure_tiles();
    const AmxPanels panels(k, n);
    const int64_t shift[] = {0}, size = block_rows * panels.depth;
    const Bf16Pairs a{reinterpret_cast<Bf16*>(workspace<1>(size)), size, panels.depth};
    for (int64_t row = 0; row < m; row += block_rows) {
        for (int64_t r = 0; r < block_rows; ++r) convert_position<false>(a, r, x + (row + r) * k, k);
        gemm(y + row * n, a, 0, block_rows, shift, 1, panels, reinterpret_cast<const Bf16*>(packed));
    }
}

void amx(float* y, const float* x, const float* w, const float* bias, const float* residual, const ConvShape& s,
         bool im2col) {
    static const char tags[2] = {};  // with pooling the packed weights hold the factor ¼
    const FpropPlan plan(s, im2col);
    const TapSchedule& schedule = plan.schedule;
    const AmxPanels panels(plan.depth, s.out);
    const Bf16* b = packed_tiles(&tags[s.pool], w, panels.floats(schedule.taps), [&](Bf16* packed) {
        pack_panels(packed, panels, schedule.taps, s.pool ? 0.25f : 1, [&](int64_t t, int64_t k) {
            return k < plan.depth ? w + (schedule.tap[t] * plan.depth + k) * s.out : nullptr;
        });
    });
    const Epilogue epilogue{bias, nullptr, residual};
    parallel_dynamic(s.batch, [&](int64_t image) {
        configure_tiles();
        const Bf16Pairs a = plan.planes.allocate();
        plan.fill(a, x + image * s.height * s.width * s.in);
        const int64_t start = image * schedule.rows * schedule.columns * s.out;
        const bool contiguous = schedule.pitch == schedule.columns && schedule.positions() % 16 == 0;
        if (contiguous && !bias && !residual)  // straight into y
            return gemm(y + start, a, 0, schedule.positions(), schedule.shift, schedule.taps, panels, b);
        for_each_result(schedule, a, panels, b, [&](int64_t row, int64_t column, int64_t count, const float* values) {
            const int64_t first = start + (row * schedule.columns + column) * s.out;
            for (int64_t i = 0; i < count * s.out; i += s.out)
                for (int64_t c = 0; c < s.out; c += lanes)
                    store(y + first + i + c, epilogue(load(values + i + c), c, first + i + c));
        });
    });
}

void amx_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                        const ConvShape& s) {
    static const char tags[2] = {};  // with pooling the packed weights hold the factor ¼
    const DgradPlan plan(s);
    const int64_t taps = s.kernel * s.kernel;
    const AmxPanels panels(s.out, s.in);
    const int64_t size = s.height * s.width * s.in;
    const Bf16* b = packed_tiles(&tags[s.pool], w, panels.floats(taps), [&](Bf16* packed) {
        float* transposed_w = workspace<0>(taps * s.in * s.out);
        for (int64_t tap = 0; tap < taps; ++tap)
            transpose_io(transposed_w + tap * s.in * s.out, w + tap * s.in * s.out, s.in, s.out);
        for (const TapSchedule* schedule = plan.schedules; schedule != plan.schedules + plan.count; ++schedule) {
            pack_panels(packed, panels, schedule->taps, s.pool ? 0.25f : 1, [&](int64_t t, int64_t o) {
                return o < s.out ? transposed_w + (schedule->tap[t] * s.out + o) * s.in : nullptr;
            });
            packed += 2 * panels.floats(schedule->taps);
        }
    });
    const Epilogue epilogue{nullptr, s.relu ? x : nullptr, residual};
    parallel_dynamic(s.batch, [&](int64_t image) {
        configure_tiles();
        const Bf16Pairs a = plan.planes.allocate();
        const float* upstream = dy + image * s.out_height() * s.out_width() * s.out;
        fill_plane<false>(a, plan.planes, upstream, s.out_height(), s.out_width(), s.out, plan.border);
        const auto finish = [&](int64_t pixel, int64_t c, Vector value) INLINE {
            const int64_t offset = image * size + pixel * s.in + c;
            store(dx + offset, epilogue(value, c, offset));
        };
        const int64_t filtered_size = (plan.schedules[0].positions() + block_rows) * s.in;
        float *next = s.pool ? workspace<3>(4 * filtered_size) : nullptr, *filtered[4];
        const Bf16* weights = b;
        for (int64_t k = 0; k < plan.count; ++k) {
            const TapSchedule& schedule = plan.schedules[k];
            if (s.pool) {
                filtered[k] = next;
                next += filtered_size;
                gemm(filtered[k], a, schedule.first, schedule.positions(), schedule.shift, schedule.taps, panels,
                     weights);
            } else {
                for_each_result(schedule, a, panels, weights,
                                [&](int64_t row, int64_t column, int64_t count, const float* values) {
                                    const int64_t first = plan.corner[k] + plan.step * (row * plan.width + column);
                                    for (int64_t i = 0; i < count; ++i)
                                        for (int64_t c = 0; c < s.in; c += lanes)
                                            finish(first + plan.step * i, c, load(values + i * s.in + c));
                                });
            }
            weights += 2 * panels.floats(schedule.taps);
        }
        if (s.pool) box_filter_adjoint(filtered, plan.planes.pitch, s, finish);
    });
}

void amx_backward_input_im2col(float* dx, const float* dy, const float* w, const float* residual, const ConvShape& s) {
    const int64_t taps = s.kernel * s.kernel;
    float* transposed_w = workspace<0>(taps * s.in * s.out);
    for (int64_t tap = 0; tap < taps; ++tap)
        transpose_io(transposed_w + (taps - 1 - tap) * s.in * s.out, w + tap * s.in * s.out, s.in, s.out);
    const ConstantWeights none(0);  // transposed_w does not outlive this call
    amx(dx, dy, transposed_w, nullptr, residual, dgrad_as_conv(s), true);
}

// A GEMM whose columns, fewer than a vector has lanes, are padded to a vector.
void amx_backward_input_narrow(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                               const ConvShape& s) {
    const int64_t pixels = s.height * s.width;
    static const char tag = 0;
    const float* packed = packed_weights(&tag, w, amx_packed_size(lanes, s.out), [&](float* to) {
        float* transposed_w = workspace<0>(s.out * lanes);
        for (int64_t o = 0; o < s.out; ++o)
            for (int64_t i = 0; i < lanes; ++i) transposed_w[o * lanes + i] = i < s.in ? w[i * s.out + o] : 0;
        amx_pack(to, transposed_w, lanes, s.out);
    });
    float* own = residual ? workspace<4>(s.x_size()) : dx;  // the residual may be dx itself
    parallel_dynamic(s.batch, [&](int64_t image) {
        float* padded = workspace<2>(pixels * lanes);
        amx_gemm(padded, dy + image * pixels * s.out, packed, pixels, lanes, s.out);
        for (int64_t p = 0; p < pixels; ++p) std::copy_n(padded + p * lanes, s.in, own + (image * pixels + p) * s.in);
    });
    if (s.relu) leaky_relu_backward(own, x, own, 0, s.x_size());
    if (residual) add(dx, own, residual, s.x_size());
}

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast
