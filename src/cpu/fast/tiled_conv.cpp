// Convolution by implicit GEMM in register tiles, fp32: every shape, with exactly the definition's MACs (a quarter of
// them with pooling).
//
// All three passes are sums of GEMMs on shifted views of one padded image. Output pixel p reads its input under tap t
// at base[p] + offset[t], whatever the stride:
//
//   fprop   y[p, o]     = Σ_t Σ_i x[base[p] + offset[t] + i] w[t, i, o]
//   dgrad   the same with dy for x and the weights transposed, their taps reversed. At stride s the input pixels fall
//           into s×s phases (position modulo s); each phase has its own subset of the taps, so no MAC is wasted.
//   wgrad   dw[t, i, o] = Σ_p x[base[p] + offset[t] + i] dy[p, o]
//
// The inner loop (tiles.h) computes 6 pixels × up to 4 vectors of output channels at a time. A linear layer is the
// case of one tap and images of one pixel.
#include <vector>

#include "cpu/fast/algorithms.h"
#include "cpu/fast/box_filter.h"
#include "cpu/fast/tiles.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

namespace {

// ---- geometry -----------------------------------------------------------------------------------

// The pixels of one phase of an image, and the taps that apply to them. Offsets are in floats.
struct StridePhase {
    std::vector<int64_t> base, target;  // of a pixel: in the padded image, in the output image
    std::vector<int64_t> tap_offset;    // of a tap: in the padded image
    std::vector<int64_t> tap;           // its index kh · kernel + kw
};

// One image with its zero padding: rows of `width` pixels; the image itself starts at (top, left).
struct PaddedLayout {
    int64_t height, width, top, left, channels;
    int64_t size() const { return height * width * channels; }
};

PaddedLayout fprop_layout(const ConvShape& s) {
    return {s.height + 2 * s.padding, s.width + 2 * s.padding, s.padding, s.padding, s.in};
}

StridePhase fprop_phase(const ConvShape& s, const PaddedLayout& layout) {
    StridePhase phase;
    for (int64_t row = 0; row < s.out_height(); ++row)
        for (int64_t column = 0; column < s.out_width(); ++column) {
            phase.base.push_back((row * s.stride * layout.width + column * s.stride) * s.in);
            phase.target.push_back((row * s.out_width() + column) * s.out);
        }
    for (int64_t kh = 0; kh < s.kernel; ++kh)
        for (int64_t kw = 0; kw < s.kernel; ++kw) {
            phase.tap_offset.push_back((kh * layout.width + kw) * s.in);
            phase.tap.push_back(kh * s.kernel + kw);
        }
    return phase;
}

// Input row h, at q = h + padding, contributes to output row (q - kh) / s under tap kh where that is whole: for
// kh = q mod s + s m, to row q / s - m. The layout pads dy for rows before the first and after the last.
PaddedLayout dgrad_layout(const ConvShape& s) {
    const int64_t before = (s.kernel + s.stride - 1) / s.stride - 1;
    return {before + std::max(s.out_height(), (s.height - 1 + s.padding) / s.stride + 1),
            before + std::max(s.out_width(), (s.width - 1 + s.padding) / s.stride + 1), before, before, s.out};
}

StridePhase dgrad_phase(const ConvShape& s, const PaddedLayout& layout, int64_t phase_row, int64_t phase_column) {
    StridePhase phase;
    for (int64_t h = 0; h < s.height; ++h)
        for (int64_t w = 0; w < s.width; ++w) {
            const int64_t row = h + s.padding, column = w + s.padding;
            if (row % s.stride != phase_row || column % s.stride != phase_column) continue;
            phase.base.push_back(((row / s.stride + layout.top) * layout.width + column / s.stride + layout.left) *
                                 s.out);
            phase.target.push_back((h * s.width + w) * s.in);
        }
    for (int64_t kh = phase_row; kh < s.kernel; kh += s.stride)
        for (int64_t kw = phase_column; kw < s.kernel; kw += s.stride) {
            phase.tap_offset.push_back(-(kh / s.stride * layout.width + kw / s.stride) * s.out);
            phase.tap.push_back(kh * s.kernel + kw);
        }
    return phase;
}

// A kernel as large as the image, without padding, is one GEMM over the batch: a 1×1 convolution of images of one
// pixel. The layout of x and w in memory is already right.
ConvShape lowered_to_gemm(ConvShape s) {
    if (s.padding == 0 && s.kernel == s.height && s.kernel == s.width)
        return {s.batch, 1, 1, s.kernel * s.kernel * s.in, s.out, 1, 1, 0};
    return s;
}

// Copies the images [first, first + count) of x into `padded`, with zero padding.
void pad_images(float* padded, const float* x, const PaddedLayout& layout, int64_t height, int64_t width, int64_t first,
                int64_t count) {
    std::fill(padded, padded + count * layout.size(), 0.0f);
    for (int64_t image = 0; image < count; ++image)
        for (int64_t row = 0; row < height; ++row)
            std::copy_n(
                x + ((first + image) * height + row) * width * layout.channels, width * layout.channels,
                padded + image * layout.size() + ((row + layout.top) * layout.width + layout.left) * layout.channels);
}

// Images per task: small images share one, so that register tiles are full.
int64_t images_per_task(int64_t pixels_per_image, int64_t batch) {
    return std::min(batch, std::max<int64_t>(1, 48 / pixels_per_image));
}

// What the threads share: groups of images and, where this does not have each task pad the same images again, panels. A
// GEMM over a small batch has one group, but several panels.
struct Tasks {
    struct Task {
        int64_t first, count;  // images
        PanelRange panels;
    };
    int64_t batch, group, per_group;
    Panels panels;
    Tasks(int64_t pixels_per_image, int64_t batch_, const Panels& panels_, bool padding)
        : batch(batch_), group(images_per_task(pixels_per_image, batch_)), per_group(padding ? 1 : panels_.tasks()),
          panels(panels_) {}
    int64_t count() const { return (batch + group - 1) / group * per_group; }
    Task operator[](int64_t index) const {
        const int64_t first = index / per_group * group;
        return {first, std::min(group, batch - first), per_group == 1 ? panels.all() : panels.task(index % per_group)};
    }
};

// ---- gather-GEMM, the body of fprop and dgrad ---------------------------------------------------

// One tile: `rows` pixels, all taps, the input channels [0, channels) at `source`. `continues`: adds to `out`.
template <int rows, int vectors>
void gather_tile(float* const* out, const float* const* source, const StridePhase& phase, const float* weights,
                 int64_t channels, const float* bias, bool continues) {
    Tile<rows, vectors> tile;
    if (continues) tile.load_from(out);
    else if (bias)
        unroll<rows>([&](auto r)
                         INLINE { unroll<vectors>([&](auto v) INLINE { tile.acc[r][v] = load(bias + v * lanes); }); });
    else tile.clear();
    for (const int64_t offset : phase.tap_offset) {
        const float* values[rows];
        unroll<rows>([&](auto r) INLINE { values[r] = source[r] + offset; });
        for (int64_t i = 0; i < channels; ++i, weights += vectors * lanes) tile.multiply_add(values, i, weights);
    }
    tile.store_to(out);
}

// All pixels of the phase in `count` padded images, the output channels of the panels in `range`.
void gather_gemm(float* y, const float* padded, int64_t padded_size, int64_t y_size, int64_t count,
                 const StridePhase& phase, const Panels& panels, const PanelRange& range, const float* packed,
                 const float* bias) {
    const int64_t pixels = int64_t(phase.base.size()) * count, taps = int64_t(phase.tap_offset.size());
    packed += range.first * panels.panel_width() * taps * panels.in;
    for (int64_t panel = range.first; panel < range.end; ++panel) {
        const int vectors = panels.vectors(panel);
        const int64_t width = vectors * lanes, first_out = panel * panels.panel_width();
        const bool ragged = first_out + width > panels.out;  // the last vector is partial: results go through a buffer
        for (int64_t first = 0; first < panels.in; first += panels.chunk) {
            const int64_t channels = std::min(panels.chunk, panels.in - first);
            const float* image = padded + first;
            float* y_image = y + first_out;
            size_t next = 0;  // pixel of `image`
            for (int64_t pixel = 0; pixel < pixels; pixel += tile_rows) {
                const int rows = int(std::min<int64_t>(tile_rows, pixels - pixel));
                alignas(64) float buffer[tile_rows][lanes * max_vectors];
                const float* source[tile_rows];
                float *target[tile_rows], *out[tile_rows];
                for (int r = 0; r < rows; ++r) {
                    source[r] = image + phase.base[next];
                    target[r] = y_image + phase.target[next];
                    if (++next == phase.base.size()) {
                        next = 0;
                        image += padded_size;
                        y_image += y_size;
                    }
                    out[r] = ragged ? buffer[r] : target[r];
                    if (ragged && first > 0) std::copy_n(target[r], panels.out - first_out, buffer[r]);
                }
                dispatch<max_vectors>(vectors, [&](auto v) INLINE {
                    dispatch<tile_rows>(rows, [&](auto r) INLINE {
                        gather_tile<r, v>(out, source, phase, packed, channels, bias ? bias + first_out : nullptr,
                                          first > 0);
                    });
                });
                if (ragged)
                    for (int r = 0; r < rows; ++r) std::copy_n(buffer[r], panels.out - first_out, target[r]);
            }
            packed += taps * channels * width;
        }
    }
}

// ---- fprop and dgrad, without ReLU and pooling --------------------------------------------------

void fprop(float* y, const float* x, const float* w, const float* bias, const ConvShape& shape) {
    const ConvShape s = lowered_to_gemm(shape);
    const PaddedLayout layout = fprop_layout(s);
    const StridePhase phase = fprop_phase(s, layout);
    const Panels panels(s.in, s.out);
    const int64_t taps = s.kernel * s.kernel, pixels = int64_t(phase.base.size()), y_size = pixels * s.out;
    float* packed = workspace<0>(taps * panels.padded_out() * s.in + panels.padded_out());
    pack_weights(packed, panels, taps,
                 [=](int64_t tap, int64_t i, int64_t o) { return w[(tap * s.in + i) * s.out + o]; });
    float* padded_bias = bias ? packed + taps * s.in * panels.padded_out() : nullptr;
    if (bias) std::fill(std::copy_n(bias, s.out, padded_bias), padded_bias + panels.padded_out(), 0.0f);

    const Tasks tasks(pixels, s.batch, panels, s.padding > 0);
    parallel_dynamic(tasks.count(), [&](int64_t index) {
        const Tasks::Task task = tasks[index];
        const float* padded = x + task.first * layout.size();
        if (s.padding > 0) {
            float* filled = workspace<1>(task.count * layout.size());
            pad_images(filled, x, layout, s.height, s.width, task.first, task.count);
            padded = filled;
        }
        gather_gemm(y + task.first * y_size, padded, layout.size(), y_size, task.count, phase, panels, task.panels,
                    packed, padded_bias);
    });
}

void dgrad(float* dx, const float* dy, const float* w, const ConvShape& shape) {
    const ConvShape s = lowered_to_gemm(shape);
    const PaddedLayout layout = dgrad_layout(s);
    const Panels panels(s.out, s.in);
    const int64_t dx_size = s.height * s.width * s.in;
    std::vector<StridePhase> phases;
    std::vector<float*> packed;
    float* next = workspace<0>(s.kernel * s.kernel * panels.padded_out() * s.out);
    for (int64_t index = 0; index < s.stride * s.stride; ++index) {
        phases.push_back(dgrad_phase(s, layout, index / s.stride, index % s.stride));
        const StridePhase& phase = phases.back();
        packed.push_back(next);
        pack_weights(next, panels, int64_t(phase.tap.size()), [&](int64_t tap, int64_t o, int64_t i) {
            return w[(phase.tap[size_t(tap)] * s.in + i) * s.out + o];
        });
        next += int64_t(phase.tap.size()) * s.out * panels.padded_out();
    }
    const bool padding = layout.size() != s.out_height() * s.out_width() * s.out;
    const Tasks tasks(s.height * s.width, s.batch, panels, padding);
    parallel_dynamic(tasks.count(), [&](int64_t index) {
        const Tasks::Task task = tasks[index];
        const float* padded = dy + task.first * layout.size();
        if (padding) {
            float* filled = workspace<1>(task.count * layout.size());
            pad_images(filled, dy, layout, s.out_height(), s.out_width(), task.first, task.count);
            padded = filled;
        }
        for (size_t p = 0; p < phases.size(); ++p)
            gather_gemm(dx + task.first * dx_size, padded, layout.size(), dx_size, task.count, phases[p], panels,
                        task.panels, packed[p], nullptr);
    });
}

// ---- wgrad --------------------------------------------------------------------------------------

// One tile of dw: `rows` input channels, one panel, += Σ_p x[base[p] + i] dy[p, o]. K runs over pixels here, where it
// runs over channels in fprop.
template <int rows, int vectors>
void weight_tile(float* const* out, const float* x, const float* dy, const StridePhase& phase, int64_t dy_step) {
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

// A part of dw: input channels and panels.
struct WeightBlock {
    int64_t first_in, end_in;
    PanelRange panels;
};

// dw (taps, in, padded out) += the contribution of the phase's pixels, in the block; dy (pixels, padded out).
void accumulate_weight(float* dw, const float* padded, const float* dy, const StridePhase& phase, const Panels& panels,
                       const WeightBlock& block) {
    const int64_t step = panels.padded_out();
    for (size_t tap = 0; tap < phase.tap.size(); ++tap)
        for (int64_t panel = block.panels.first; panel < block.panels.end; ++panel)
            for (int64_t i = block.first_in; i < block.end_in; i += tile_rows) {
                const int rows = int(std::min<int64_t>(tile_rows, block.end_in - i));
                const int64_t column = panel * panels.panel_width();
                float* out[tile_rows];
                for (int r = 0; r < rows; ++r) out[r] = dw + (int64_t(tap) * panels.in + i + r) * step + column;
                dispatch<max_vectors>(panels.vectors(panel), [&](auto v) INLINE {
                    dispatch<tile_rows>(rows, [&](auto r) INLINE {
                        weight_tile<r, v>(out, padded + phase.tap_offset[tap] + i, dy + column, phase, step);
                    });
                });
            }
}

// The pixels of several small images as one phase, so that a tile sums over many pixels at a time.
StridePhase repeat_phase(const StridePhase& phase, int64_t images, int64_t padded_size) {
    StridePhase all = phase;
    all.base.clear();
    for (int64_t image = 0; image < images; ++image)
        for (const int64_t base : phase.base) all.base.push_back(image * padded_size + base);
    return all;
}

void wgrad(float* dw, const float* x, const float* dy, const ConvShape& shape) {
    const ConvShape s = lowered_to_gemm(shape);
    const PaddedLayout layout = fprop_layout(s);
    const StridePhase phase = fprop_phase(s, layout);
    const Panels panels(s.in, s.out);
    const int64_t pixels = int64_t(phase.base.size()), columns = panels.padded_out();
    const int64_t size = s.kernel * s.kernel * s.in * columns;
    // A GEMM: the threads share dw. They write to it in place, so its rows must be whole vectors.
    if (s.kernel == 1 && s.padding == 0 && pixels == 1 && columns == s.out) {
        const StridePhase whole = repeat_phase(phase, s.batch, layout.size());
        constexpr int64_t task_rows = 8 * tile_rows;
        return parallel_dynamic((s.in + task_rows - 1) / task_rows * panels.tasks(), [&](int64_t task) {
            const int64_t first = task / panels.tasks() * task_rows, end = std::min(s.in, first + task_rows);
            const WeightBlock block{first, end, panels.task(task % panels.tasks())};
            const int64_t column = block.panels.first * panels.panel_width(),
                          width = std::min(columns, block.panels.end * panels.panel_width()) - column;
            for (int64_t i = first; i < end; ++i) std::fill_n(dw + i * columns + column, width, 0.0f);
            accumulate_weight(dw, x, dy, whole, panels, block);
        });
    }
    // The batch is cut into parts, each with its own sum: few parts for large weights, whose sums fill the cache. Their
    // number depends on the shape only, so that results do not depend on the number of threads.
    const int64_t parts = std::min(s.batch, std::clamp<int64_t>((int64_t(1) << 21) / size, 4, 16));
    const int64_t group = images_per_task(pixels, (s.batch + parts - 1) / parts);
    float* partial = workspace<0>(parts * size);
    parallel_dynamic(parts, [&, partial](int64_t part) {
        float* total = partial + part * size;
        std::fill(total, total + size, 0.0f);
        const int64_t end = s.batch * (part + 1) / parts;
        for (int64_t first = s.batch * part / parts; first < end; first += group) {
            const int64_t count = std::min(group, end - first);
            const float *padded = x + first * layout.size(), *upstream = dy + first * pixels * s.out;
            if (s.padding > 0) {
                float* filled = workspace<1>(group * layout.size());
                pad_images(filled, x, layout, s.height, s.width, first, count);
                padded = filled;
            }
            if (columns != s.out) {
                float* filled = workspace<2>(group * pixels * columns);
                for (int64_t p = 0; p < count * pixels; ++p)
                    std::fill(std::copy_n(upstream + p * s.out, s.out, filled + p * columns),
                              filled + (p + 1) * columns, 0.0f);
                upstream = filled;
            }
            accumulate_weight(total, padded, upstream, count == 1 ? phase : repeat_phase(phase, count, layout.size()),
                              panels, {0, s.in, panels.all()});
        }
    });
    for_each_row(s.kernel * s.kernel * s.in, parts * s.out, [=](int64_t row) {
        float* target = dw + row * s.out;
        std::fill_n(target, s.out, 0.0f);
        for (int64_t part = 0; part < parts; ++part) {
            const float* source = partial + part * size + row * columns;
#pragma omp simd
            for (int64_t o = 0; o < s.out; ++o) target[o] += source[o];
        }
    });
}

// ---- ReLU, pooling, residuals -------------------------------------------------------------------

// Average pooling is a 2×2 box filter at stride 2, and box filter and convolution commute. So a pooled 3×3
// convolution is a 3×3 convolution of stride 2 of the box-filtered x, with a quarter of the MACs. This is exact, at
// the border too, where both read zeros.
ConvShape lowered_shape(ConvShape s) {
    if (s.pool) return {s.batch, s.height + 1, s.width + 1, s.in, s.out, 3, 2, 0};
    s.relu = false;
    return s;
}

// The input of the lowered convolution: x after ReLU and box filter, where the shape has them.
const float* preprocessed_input(const float* x, const ConvShape& s) {
    if (s.relu) {
        float* positive = workspace<4>(s.x_size());
        leaky_relu(positive, x, 0, s.x_size());
        x = positive;
    }
    if (s.pool) {
        float* filtered = workspace<5>(lowered_shape(s).x_size());
        box_filter2(filtered, x, s.batch, s.height, s.width, s.in);
        x = filtered;
    }
    return x;
}

}  // namespace

void tiled(float* y, const float* x, const float* w, const float* bias, const float* residual, const ConvShape& s) {
    fprop(y, preprocessed_input(x, s), w, bias, lowered_shape(s));
    if (residual) add(y, y, residual, s.y_size());
}

void tiled_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                          const ConvShape& s) {
    float* own = residual ? workspace<4>(s.x_size()) : dx;  // the residual may be dx itself
    float* lowered = s.pool ? workspace<5>(lowered_shape(s).x_size()) : own;
    dgrad(lowered, dy, w, lowered_shape(s));
    if (s.pool) box_filter2_backward(own, lowered, s.batch, s.height, s.width, s.in);
    if (s.relu) leaky_relu_backward(own, x, own, 0, s.x_size());
    if (residual) add(dx, own, residual, s.x_size());
}

void tiled_backward_weight(float* dw, const float* x, const float* dy, const ConvShape& s) {
    wgrad(dw, preprocessed_input(x, s), dy, lowered_shape(s));
}

// With few output channels most of a vector would be idle. Σ_p x[p + t] dy[p] = Σ_q x[q] dy[q - t]: the roles of x
// and dy can be exchanged.
void tiled_backward_weight_exchanged(float* dw, const float* x, const float* dy, const ConvShape& s) {
    constexpr int64_t taps = 9;
    float* exchanged = workspace<3>(taps * s.in * s.out);
    wgrad(exchanged, dy, preprocessed_input(x, s), {s.batch, s.height, s.width, s.out, s.in, s.kernel, 1, 1});
    for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t i = 0; i < s.in; ++i)
            for (int64_t o = 0; o < s.out; ++o)
                dw[(tap * s.in + i) * s.out + o] = exchanged[((taps - 1 - tap) * s.out + o) * s.in + i];
}

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast
