// Convolution: forward, gradient of the input, gradient of the weight. The CPU's body.
//
// All three are sums of products of matrices on shifted views of one image. With a border of zeros round the image (its "halo")
// an output pixel p that reads tap t finds its input at base[p] + offset[t], whatever the stride; so
//
//   forward         y[p, o]     = Σ_t Σ_i x[base[p] + offset[t] + i] w[t, i, o]
//   gradient of x   the same sum with dy for x and w's taps mirrored and transposed; with a stride s, input pixels fall into s×s
//                   phases (their position modulo s), each of which meets its own subset of the taps, and no product is wasted
//   gradient of w   dw[t, i, o] = Σ_p x[base[p] + offset[t] + i] dy[p, o]
//
// The inner loop (tile.h) takes 6 pixels × up to 4 vectors of output channels at a time. A matrix product (a linear layer) is the
// case of one tap and images of one pixel. Some go other ways: with AMX most of them through amx.cu; without it, 3×3 ones at stride 1
// through winograd.cu and the same before pooling through pooled.cu; those with a few output channels (an image's three colours)
// through narrow below.
#include <vector>

#include "cpu/fast/amx.h"
#include "cpu/fast/tiles.h"
#include "cpu/fast/winograd.h"

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

// ---- geometry -------------------------------------------------------------------------------------------------------------------

// Pixels of one phase of one image, and the taps that they meet.
struct Phase {
    std::vector<int64_t> base, target;       // offsets in floats: into the haloed image, into the output image
    std::vector<int64_t> tap_offset;         // into the haloed image
    std::vector<int64_t> tap;                // which of the kernel's taps that is
};

// One image with its halo: rows of `width` pixels, the image itself at (top, left).
struct Halo {
    int64_t height, width, top, left, channels;
    int64_t size() const { return height * width * channels; }
};

Halo forward_halo(const ConvShape& s) {
    return {s.height + 2 * s.padding, s.width + 2 * s.padding, s.padding, s.padding, s.in};
}

Phase forward_phase(const ConvShape& s, const Halo& halo) {
    Phase phase;
    for (int64_t row = 0; row < s.out_height(); ++row)
        for (int64_t column = 0; column < s.out_width(); ++column) {
            phase.base.push_back((row * s.stride * halo.width + column * s.stride) * s.in);
            phase.target.push_back((row * s.out_width() + column) * s.out);
        }
    for (int64_t kh = 0; kh < s.kernel; ++kh)
        for (int64_t kw = 0; kw < s.kernel; ++kw) {
            phase.tap_offset.push_back((kh * halo.width + kw) * s.in);
            phase.tap.push_back(kh * s.kernel + kw);
        }
    return phase;
}

// Input row h has q = h + padding; tap kh reaches it from output row (q - kh) / stride where that is whole: kh = q mod s + s m,
// output row q / s - m. The halo holds the rows that lie before 0 and after the last.
Halo backward_halo(const ConvShape& s) {
    const int64_t before = (s.kernel + s.stride - 1) / s.stride - 1;
    return {before + std::max(s.out_height(), (s.height - 1 + s.padding) / s.stride + 1),
            before + std::max(s.out_width(), (s.width - 1 + s.padding) / s.stride + 1), before, before, s.out};
}

Phase backward_phase(const ConvShape& s, const Halo& halo, int64_t phase_row, int64_t phase_column) {
    Phase phase;
    for (int64_t h = 0; h < s.height; ++h)
        for (int64_t w = 0; w < s.width; ++w) {
            const int64_t row = h + s.padding, column = w + s.padding;
            if (row % s.stride != phase_row || column % s.stride != phase_column) continue;
            phase.base.push_back(((row / s.stride + halo.top) * halo.width + column / s.stride + halo.left) * s.out);
            phase.target.push_back((h * s.width + w) * s.in);
        }
    for (int64_t kh = phase_row; kh < s.kernel; kh += s.stride)
        for (int64_t kw = phase_column; kw < s.kernel; kw += s.stride) {
            phase.tap_offset.push_back(-(kh / s.stride * halo.width + kw / s.stride) * s.out);
            phase.tap.push_back(kh * s.kernel + kw);
        }
    return phase;
}

// A kernel as large as the image, without padding, sees each image once, whole: a matrix product over images of one pixel, and the
// weights lie in memory as they should.
ConvShape simplified(ConvShape s) {
    if (s.padding == 0 && s.kernel == s.height && s.kernel == s.width)
        return {s.batch, 1, 1, s.kernel * s.kernel * s.in, s.out, 1, 1, 0};
    return s;
}

// Copies the images [first, first + count) of x into `haloed`, one after the other, with zeros round them.
void fill_halo(float* haloed, const float* x, const Halo& halo, int64_t height, int64_t width, int64_t first, int64_t count) {
    std::fill(haloed, haloed + count * halo.size(), 0.0f);
    for (int64_t image = 0; image < count; ++image)
        for (int64_t row = 0; row < height; ++row)
            std::copy_n(x + ((first + image) * height + row) * width * halo.channels, width * halo.channels,
                        haloed + image * halo.size() + ((row + halo.top) * halo.width + halo.left) * halo.channels);
}

// How many images make one task: small images go together, so that tiles are full.
int64_t images_per_task(int64_t pixels_per_image, int64_t batch) {
    return std::min(batch, std::max<int64_t>(1, 48 / pixels_per_image));
}

// ---- y = gather(x) · w, the body of the forward pass and of the gradient of the input ---------------------------------------------

// packed: for each block, each chunk: (taps, chunk, block's columns). element(tap, i, o) reads the weight.
template <class Element>
void pack_weights(float* packed, const Blocks& blocks, int64_t taps, Element element) {
    for (int64_t block = 0; block < blocks.count(); ++block) {
        const int64_t columns = blocks.vectors(block) * lanes, first_out = block * blocks.block_width();
        for (int64_t first = 0; first < blocks.in; first += blocks.chunk)
            for (int64_t tap = 0; tap < taps; ++tap)
                for (int64_t i = first; i < std::min(blocks.in, first + blocks.chunk); ++i)
                    for (int64_t c = 0; c < columns; ++c)
                        *packed++ = first_out + c < blocks.out ? element(tap, i, first_out + c) : 0.0f;
    }
}

// One tile: `rows` pixels, all taps, the input channels [0, channels) behind `source`, into or onto `out`.
template <int rows, int vectors>
void gather_tile(float* const* out, const float* const* source, const Phase& phase, const float* weights, int64_t channels,
                 const float* bias, bool continues) {
    Tile<rows, vectors> tile;
    if (continues) tile.load_from(out);
    else if (bias) unroll<rows>([&](auto r) INLINE { unroll<vectors>([&](auto v) INLINE { tile.acc[r][v] = load(bias + v * lanes); }); });
    else tile.clear();
    for (const int64_t offset : phase.tap_offset) {
        const float* values[rows];
        unroll<rows>([&](auto r) INLINE { values[r] = source[r] + offset; });
        for (int64_t i = 0; i < channels; ++i, weights += vectors * lanes) tile.multiply_add(values, i, weights);
    }
    tile.store_to(out);
}

// All pixels of the phase in `count` haloed images, for all output channels.
void gather_product(float* y, const float* haloed, int64_t halo_size, int64_t y_size, int64_t count, const Phase& phase,
                    const Blocks& blocks, const float* packed, const float* bias) {
    const int64_t pixels = int64_t(phase.base.size()) * count, taps = int64_t(phase.tap_offset.size());
    for (int64_t block = 0; block < blocks.count(); ++block) {
        const int vectors = blocks.vectors(block);
        const int64_t width = vectors * lanes, first_out = block * blocks.block_width();
        const bool ragged = first_out + width > blocks.out;  // the last vector sticks out: results go through a small buffer
        for (int64_t first = 0; first < blocks.in; first += blocks.chunk) {
            const int64_t channels = std::min(blocks.chunk, blocks.in - first);
            const float* image = haloed + first;
            float* y_image = y + first_out;
            size_t place = 0;  // the next pixel, in `image`
            for (int64_t pixel = 0; pixel < pixels; pixel += tile_rows) {
                const int rows = int(std::min<int64_t>(tile_rows, pixels - pixel));
                alignas(64) float buffer[tile_rows][lanes * max_vectors];
                const float* source[tile_rows];
                float *target[tile_rows], *out[tile_rows];
                for (int r = 0; r < rows; ++r) {
                    source[r] = image + phase.base[place];
                    target[r] = y_image + phase.target[place];
                    if (++place == phase.base.size()) {
                        place = 0;
                        image += halo_size;
                        y_image += y_size;
                    }
                    out[r] = ragged ? buffer[r] : target[r];
                    if (ragged && first > 0) std::copy_n(target[r], blocks.out - first_out, buffer[r]);
                }
                dispatch<max_vectors>(vectors, [&](auto v) INLINE {
                    dispatch<tile_rows>(rows, [&](auto r) INLINE {
                        gather_tile<r, v>(out, source, phase, packed, channels, bias ? bias + first_out : nullptr, first > 0);
                    });
                });
                if (ragged)
                    for (int r = 0; r < rows; ++r) std::copy_n(buffer[r], blocks.out - first_out, target[r]);
            }
            packed += taps * channels * width;
        }
    }
}

// ---- few output channels -----------------------------------------------------------------------------------------------------------

// With three output channels most of a vector would be idle. Instead the taps' outputs stand side by side as columns: one matrix
// product gives z[q, t, o] = Σ_i x[q, i] w[t, i, o] for every pixel q, and y[p, o] = Σ_t z[p + t - padding, t, o] over the q inside the
// image. For the gradient of x the same with dy for x and p + padding - t.
bool narrow_applies(const ConvShape& s, int64_t out) { return s.kernel == 3 && s.stride == 1 && out <= 3; }

constexpr int64_t narrow_taps = 9;

using Vector4 = float __attribute__((vector_size(16), aligned(4)));

struct NarrowShape {
    int64_t batch, height, width, in, out_height, out_width, out, direction, shift;  // tap (kh, kw) reads p + direction (kh, kw) + shift
    uint64_t weights;                                                                // their number, as ConvShape's
};

// y (height, width, out) of one image from z (…, columns).
template <int out>
void gather_taps(float* y, const float* z, int64_t columns, const float* bias, const NarrowShape& s) {
    Vector4 start{};
    for (int64_t o = 0; bias && o < s.out; ++o) start[o] = bias[o];
    // The taps' places in z from that of the first; what each adds is of one output more than there are at most, which is not used.
    int64_t offset[narrow_taps];
    for (int64_t tap = 0; tap < narrow_taps; ++tap) offset[tap] = (s.direction * (tap / 3 * s.width + tap % 3)) * columns + tap * s.out;
    const auto inside = [](int64_t from, int64_t size) { return from >= 0 && from < size; };
    for (int64_t row = 0; row < s.out_height; ++row) {
        const int64_t from_row = row + s.shift, last_row = from_row + 2 * s.direction;
        const bool whole_rows = inside(from_row, s.height) && inside(last_row, s.height);
        for (int64_t column = 0; column < s.out_width; ++column, y += out) {
            const int64_t from_column = column + s.shift, last_column = from_column + 2 * s.direction;
            const float* source = z + (from_row * s.width + from_column) * columns;
            Vector4 total = start;
            if (whole_rows && inside(from_column, s.width) && inside(last_column, s.width))
                unroll<narrow_taps>([&](auto tap) INLINE { total += *reinterpret_cast<const Vector4*>(source + offset[tap]); });
            else
                for (int64_t tap = 0; tap < narrow_taps; ++tap)
                    if (inside(from_row + tap / 3 * s.direction, s.height) && inside(from_column + tap % 3 * s.direction, s.width))
                        total += *reinterpret_cast<const Vector4*>(source + offset[tap]);
            for (int o = 0; o < out; ++o) y[o] = total[o];
        }
    }
}

// element(tap, i, o) reads the weight.
template <class Element>
void narrow(float* y, const float* x, const float* bias, const NarrowShape& s, bool quick, Element element) {
    const Blocks columns(s.in, narrow_taps * s.out);
    const int64_t pixels = s.height * s.width, width = columns.padded_out();
    const bool tiles = quick && columns.count() == 1 && amx_product_applies(pixels, s.in, width);
    static const char makers[2] = {};  // tiles want them packed otherwise; each direction, another Element, has its own
    const int64_t packed_size = columns.in * width;
    const float* packed = prepared_weights(&makers[tiles], s.weights, tiles ? amx_packed_size(s.in, width) : packed_size, [&](float* made) {
        float* plain = tiles ? scratch<0>(packed_size) : made;
        pack_weights(plain, columns, 1, [&](int64_t, int64_t i, int64_t column) { return element(column / s.out, i, column % s.out); });
        if (tiles) amx_pack(made, plain, s.in, width);
    });
    parallel_tasks(s.batch, [&](int64_t image) {
        float* z = scratch<2>(pixels * width + 4);
        if (tiles) amx_product(z, x + image * pixels * s.in, packed, pixels, s.in, width);
        for (int64_t block = 0; !tiles && block < columns.count(); ++block) {
            const int64_t first = block * columns.block_width();
            block_product(z + first, width, x + image * pixels * s.in, s.in, pixels, s.in, columns.vectors(block), packed + first * s.in);
        }
        dispatch<3>(int(s.out), [&](auto out) { gather_taps<out>(y + image * s.out_height * s.out_width * s.out, z, width, bias, s); });
    });
}

// y = x * w + bias, neither ReLU nor pooling. `quick`: what can go through AMX's tiles may.
void sum_forward(float* y, const float* x, const float* w, const float* bias, const ConvShape& shape, bool quick) {
    const ConvShape s = simplified(shape);
    const auto element = [=](int64_t tap, int64_t i, int64_t o) { return w[(tap * s.in + i) * s.out + o]; };
    if (narrow_applies(s, s.out))
        return narrow(y, x, bias, {s.batch, s.height, s.width, s.in, s.out_height(), s.out_width(), s.out, 1, -s.padding, s.weights}, quick, element);
    const Halo halo = forward_halo(s);
    const Phase phase = forward_phase(s, halo);
    const Blocks blocks(s.in, s.out);
    const int64_t taps = s.kernel * s.kernel, pixels = int64_t(phase.base.size()), y_size = pixels * s.out;
    float* packed = scratch<0>(taps * blocks.padded_out() * s.in + blocks.padded_out());
    pack_weights(packed, blocks, taps, element);
    float* padded_bias = bias ? packed + taps * s.in * blocks.padded_out() : nullptr;
    if (bias) std::fill(std::copy_n(bias, s.out, padded_bias), padded_bias + blocks.padded_out(), 0.0f);

    const int64_t group = images_per_task(pixels, s.batch);
    parallel_tasks((s.batch + group - 1) / group, [&](int64_t task) {
        const int64_t first = task * group, count = std::min(group, s.batch - first);
        const float* haloed = x + first * halo.size();
        if (s.padding > 0) {
            float* filled = scratch<1>(group * halo.size());
            fill_halo(filled, x, halo, s.height, s.width, first, count);
            haloed = filled;
        }
        gather_product(y + first * y_size, haloed, halo.size(), y_size, count, phase, blocks, packed, padded_bias);
    });
}

// Its adjoint.
void sum_backward_input(float* dx, const float* dy, const float* w, const ConvShape& shape, bool quick) {
    const ConvShape s = simplified(shape);
    if (narrow_applies(s, s.in))
        return narrow(dx, dy, nullptr, {s.batch, s.out_height(), s.out_width(), s.out, s.height, s.width, s.in, -1, s.padding, s.weights}, quick,
                      [=](int64_t tap, int64_t o, int64_t i) { return w[(tap * s.in + i) * s.out + o]; });
    const int64_t pixels = s.height * s.width;
    if (quick && s.kernel == 1 && s.stride == 1 && s.padding == 0 && s.in < lanes && amx_product_applies(pixels, s.out, lanes)) {
        // A matrix product with few columns, padded to a vector.
        static const char maker = 0;
        const float* panels = prepared_weights(&maker, s.weights, amx_packed_size(s.out, lanes), [&](float* made) {
            float* turned = scratch<0>(s.out * lanes);
            for (int64_t o = 0; o < s.out; ++o)
                for (int64_t i = 0; i < lanes; ++i) turned[o * lanes + i] = i < s.in ? w[i * s.out + o] : 0;
            amx_pack(made, turned, s.out, lanes);
        });
        return parallel_tasks(s.batch, [&](int64_t image) {
            float* wide = scratch<2>(pixels * lanes);
            amx_product(wide, dy + image * pixels * s.out, panels, pixels, s.out, lanes);
            for (int64_t p = 0; p < pixels; ++p) for (int64_t i = 0; i < s.in; ++i) dx[(image * pixels + p) * s.in + i] = wide[p * lanes + i];
        });
    }
    const Halo halo = backward_halo(s);
    const Blocks blocks(s.out, s.in);
    const int64_t dx_size = s.height * s.width * s.in;
    std::vector<Phase> phases;
    std::vector<float*> packed;
    float* next = scratch<0>(s.kernel * s.kernel * blocks.padded_out() * s.out);
    for (int64_t index = 0; index < s.stride * s.stride; ++index) {
        phases.push_back(backward_phase(s, halo, index / s.stride, index % s.stride));
        const Phase& phase = phases.back();
        packed.push_back(next);
        pack_weights(next, blocks, int64_t(phase.tap.size()),
                     [&](int64_t tap, int64_t o, int64_t i) { return w[(phase.tap[size_t(tap)] * s.in + i) * s.out + o]; });
        next += int64_t(phase.tap.size()) * s.out * blocks.padded_out();
    }
    const int64_t group = images_per_task(s.height * s.width, s.batch);
    const bool bare = halo.size() == s.out_height() * s.out_width() * s.out;  // no halo is needed
    parallel_tasks((s.batch + group - 1) / group, [&](int64_t task) {
        const int64_t first = task * group, count = std::min(group, s.batch - first);
        const float* haloed = dy + first * halo.size();
        if (!bare) {
            float* filled = scratch<1>(group * halo.size());
            fill_halo(filled, dy, halo, s.out_height(), s.out_width(), first, count);
            haloed = filled;
        }
        for (size_t p = 0; p < phases.size(); ++p)
            gather_product(dx + first * dx_size, haloed, halo.size(), dx_size, count, phases[p], blocks, packed[p], nullptr);
    });
}

// dw[i .. i + rows, block] += Σ_p x[base[p] + i ..] dy[p, block]: the pixels take the part that the channels have in the forward pass.
template <int rows, int vectors>
void weight_tile(float* const* out, const float* x, const float* dy, const Phase& phase, int64_t dy_step) {
    Tile<rows, vectors> tile;
    tile.load_from(out);
    const float* values[rows];
    unroll<rows>([&](auto r) INLINE { values[r] = x + r; });
    for (const int64_t base : phase.base) {
        tile.multiply_add(values, base, dy);
        dy += dy_step;
    }
    tile.store_to(out);
}

// dw (taps, in, padded out) += the contribution of one image; dy (pixels, padded out).
void accumulate_weight(float* dw, const float* haloed, const float* dy, const Phase& phase, const Blocks& blocks) {
    const int64_t step = blocks.padded_out();
    for (size_t tap = 0; tap < phase.tap.size(); ++tap)
        for (int64_t block = 0; block < blocks.count(); ++block)
            for (int64_t i = 0; i < blocks.in; i += tile_rows) {
                const int rows = int(std::min<int64_t>(tile_rows, blocks.in - i));
                const int64_t column = block * blocks.block_width();
                float* out[tile_rows];
                for (int r = 0; r < rows; ++r) out[r] = dw + (int64_t(tap) * blocks.in + i + r) * step + column;
                dispatch<max_vectors>(blocks.vectors(block), [&](auto v) INLINE {
                    dispatch<tile_rows>(rows, [&](auto r) INLINE {
                        weight_tile<r, v>(out, haloed + phase.tap_offset[tap] + i, dy + column, phase, step);
                    });
                });
            }
}

// Small images are laid side by side into one phase, so that a tile sums over many pixels at a time.
Phase repeat_phase(const Phase& phase, int64_t images, int64_t halo_size) {
    Phase all = phase;
    all.base.clear();
    for (int64_t image = 0; image < images; ++image)
        for (const int64_t base : phase.base) all.base.push_back(image * halo_size + base);
    return all;
}

void sum_backward_weight(float* dw, const float* x, const float* dy, const ConvShape& shape) {
    const ConvShape s = simplified(shape);
    if (narrow_applies(s, s.out) && s.padding == 1 && s.in > s.out) {
        // A few columns would leave most of a vector idle: Σ_p x[p + t] dy[p] = Σ_q x[q] dy[q - t], with x and dy in each other's place.
        float* turned = scratch<3>(narrow_taps * s.in * s.out);
        sum_backward_weight(turned, dy, x, {s.batch, s.height, s.width, s.out, s.in, s.kernel, 1, 1});
        for (int64_t tap = 0; tap < narrow_taps; ++tap)
            for (int64_t i = 0; i < s.in; ++i)
                for (int64_t o = 0; o < s.out; ++o) dw[(tap * s.in + i) * s.out + o] = turned[((narrow_taps - 1 - tap) * s.out + o) * s.in + i];
        return;
    }
    const Halo halo = forward_halo(s);
    const Phase phase = forward_phase(s, halo);
    const Blocks blocks(s.in, s.out);
    const int64_t pixels = int64_t(phase.base.size()), padded = blocks.padded_out();
    const int64_t size = s.kernel * s.kernel * s.in * padded;
    // The batch is cut into parts, each with a sum of its own: few for large weights, whose sums fill the cache. Their number depends on
    // the shape alone, never on the threads.
    const int64_t parts = std::min(s.batch, std::clamp<int64_t>((int64_t(1) << 21) / size, 4, 16)), group = images_per_task(pixels, (s.batch + parts - 1) / parts);
    float* partial = scratch<0>(parts * size);
    parallel_tasks(parts, [&, partial](int64_t part) {
        float* total = partial + part * size;
        std::fill(total, total + size, 0.0f);
        const int64_t end = s.batch * (part + 1) / parts;
        for (int64_t first = s.batch * part / parts; first < end; first += group) {
            const int64_t count = std::min(group, end - first);
            const float *haloed = x + first * halo.size(), *upstream = dy + first * pixels * s.out;
            if (s.padding > 0) {
                float* filled = scratch<1>(group * halo.size());
                fill_halo(filled, x, halo, s.height, s.width, first, count);
                haloed = filled;
            }
            if (padded != s.out) {
                float* filled = scratch<2>(group * pixels * padded);
                for (int64_t p = 0; p < count * pixels; ++p)
                    std::fill(std::copy_n(upstream + p * s.out, s.out, filled + p * padded), filled + (p + 1) * padded, 0.0f);
                upstream = filled;
            }
            accumulate_weight(total, haloed, upstream, count == 1 ? phase : repeat_phase(phase, count, halo.size()), blocks);
        }
    });
    parallel_for_rows(s.kernel * s.kernel * s.in, s.out, [=] KERNEL(int64_t row) {
        const float* source = partial + row * padded;
        float* target = dw + row * s.out;
        return [=](int64_t o) {
            float total = 0;
            for (int64_t part = 0; part < parts; ++part) total += source[part * size + o];
            target[o] = total;
        };
    });
}

// ---- ReLU, pooling, addends -----------------------------------------------------------------------------------------------------

// Pooling a 3×3 convolution means four shifted sums, which is the sum over the mean of four shifts: the 2×2 box filter and the
// convolution commute, and pooling keeps every second pixel. So y is a convolution of box_filter2(x) with stride 2 and a quarter of
// the products; exact, at the border too, where both read zeros.
ConvShape boxed(const ConvShape& s) { return {s.batch, s.height + 1, s.width + 1, s.in, s.out, 3, 2, 0}; }
ConvShape plain(ConvShape s) {
    s.relu = s.pool = false;
    return s;
}

// max(x, 0) if the convolution is of that, then the box filter if it is pooled, in this thread's working memory.
const float* convolved(const float* x, const ConvShape& s) {
    if (s.relu) {
        float* passed = scratch<4>(s.x_size());
        leaky_relu(passed, x, 0, s.x_size());
        x = passed;
    }
    if (s.pool) {
        float* filtered = scratch<5>(boxed(s).x_size());
        box_filter2(filtered, x, s.batch, s.height, s.width, s.in);
        x = filtered;
    }
    return x;
}

void forward(float* y, const float* x, const float* w, const float* bias, const float* addend, const ConvShape& s, bool quick) {
    sum_forward(y, convolved(x, s), w, bias, s.pool ? boxed(s) : plain(s), quick);
    if (addend) add(y, y, addend, s.y_size());
}

void backward_input(float* dx, const float* dy, const float* w, const float* x, const float* addend, const ConvShape& s, bool quick) {
    float* d = addend ? scratch<4>(s.x_size()) : dx;
    if (s.pool) {
        float* filtered = scratch<5>(boxed(s).x_size());
        sum_backward_input(filtered, dy, w, boxed(s), quick);
        box_filter2_backward(d, filtered, s.batch, s.height, s.width, s.in);
    } else {
        sum_backward_input(d, dy, w, plain(s), quick);
    }
    if (s.relu) leaky_relu_backward(d, x, d, 0, s.x_size());
    if (addend) add(dx, d, addend, s.x_size());
}

}  // namespace

void conv2d_direct(float* y, const float* x, const float* w, const float* bias, const float* addend, ConvShape s) {
    forward(y, x, w, bias, addend, s, false);
}

void conv2d_backward_input_direct(float* dx, const float* dy, const float* w, const float* x, const float* addend, ConvShape s) {
    backward_input(dx, dy, w, x, addend, s, false);
}

void conv2d_backward_weight_direct(float* dw, const float* x, const float* dy, ConvShape s) {
    sum_backward_weight(dw, convolved(x, s), dy, s.pool ? boxed(s) : plain(s));
}

void conv2d_backward_weight(float* dw, const float* x, const float* dy, ConvShape s) {
    if (winograd_applies(s)) winograd_backward_weight(dw, x, dy, s);
    else conv2d_backward_weight_direct(dw, x, dy, s);
}

void conv2d(float* y, const float* x, const float* w, const float* bias, const float* addend, ConvShape s) {
    if (amx_applies(s)) amx(y, x, w, bias, addend, s);
    else if (winograd_applies(s)) winograd(y, x, w, bias, addend, s);
    else if (pooled_applies(s)) pooled(y, x, w, bias, addend, s);
    else forward(y, x, w, bias, addend, s, true);
}

void conv2d_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* addend, ConvShape s) {
    if (amx_backward_applies(s)) amx_backward_input(dx, dy, w, x, addend, s);
    else if (winograd_applies(s)) winograd_backward_input(dx, dy, w, x, addend, s);
    else if (pooled_applies(s)) pooled_backward_input(dx, dy, w, x, addend, s);
    else backward_input(dx, dy, w, x, addend, s, true);
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
