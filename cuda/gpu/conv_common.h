// What the GPU's two convolutions share (conv.cu, conv_mma.cu): conversion to the GEMMs' element types, the prologue
// (ReLU, box filter and padding of the input) and the epilogue of the output.
#pragma once
#include "gpu/conv_geometry.h"
#include "gpu/gpu.h"

namespace dualmcmc::DEVICE_NAMESPACE {

// ---- element types ------------------------------------------------------------------------------

using Bf16 = uint16_t;  // the upper half of a float's bits
struct Tf32 {
    uint32_t bits;  // a float's, the last 13 of them 0
};

// The bits of x without the last `dropped`, rounded to nearest, ties to even; NaN stays NaN.
DEVICE inline uint32_t rounded_bits(float x, int dropped) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x), half = (1u << (dropped - 1)) - 1;
    return x != x ? 0x7fffffffu >> dropped : (bits + half + (bits >> dropped & 1)) >> dropped;
}
DEVICE inline void convert(float& y, float x) { y = x; }
DEVICE inline void convert(Bf16& y, float x) { y = Bf16(rounded_bits(x, 16)); }
DEVICE inline void convert(Tf32& y, float x) { y.bits = rounded_bits(x, 13) << 13; }

// n values moved by one vector access.
template <class T, int n>
struct alignas(n * sizeof(T)) AlignedArray {
    T values[n];
};

// y = x, `vectors` times n values.
template <int n, class To>
void convert_vectors(To* y, const float* x, int64_t vectors) {
    parallel_for(vectors, [=] DEVICE(int64_t i) {
        const auto loaded = reinterpret_cast<const AlignedArray<float, n>*>(x)[i];
        AlignedArray<To, n> converted;
        for (int k = 0; k < n; ++k) convert(converted.values[k], loaded.values[k]);
        reinterpret_cast<AlignedArray<To, n>*>(y)[i] = converted;
    });
}
template <class To>
void convert_array(To* y, const float* x, int64_t n) {
    if (n % 4 == 0) convert_vectors<4>(y, x, n / 4);
    else convert_vectors<1>(y, x, n);
}

// ---- prologue: the padded source ----------------------------------------------------------------

// What is applied to x on its way into the padded buffer: max(x, 0); the 2×2 box filter of a convolution with pooling.
struct Prologue {
    bool relu, pool;
};

// max(x, 0) where asked for; NaN stays NaN.
template <int n>
DEVICE void add_activated(float (&total)[n], const float* x, bool relu) {
    const auto loaded = *reinterpret_cast<const AlignedArray<float, n>*>(x);
    for (int i = 0; i < n; ++i) total[i] += relu && loaded.values[i] <= 0 ? 0 : loaded.values[i];
}
template <int n, class To>
DEVICE void store_converted(To* out, const float (&values)[n], float factor) {
    AlignedArray<To, n> converted;
    for (int i = 0; i < n; ++i) convert(converted.values[i], factor * values[i]);
    *reinterpret_cast<AlignedArray<To, n>*>(out) = converted;
}

// `channels` is a multiple of n.
template <int n, class To>
void fill_padded(To* out, const float* x, const PaddedImages& source, int64_t channels, bool relu) {
    parallel_for_rows(source.size(), channels / n, [=] DEVICE(int64_t index) {
        const int64_t pixel = source.source_pixel(index);
        return [=](int64_t vector) {
            float value[n] = {};
            if (pixel >= 0) add_activated(value, x + pixel * channels + vector * n, relu);
            store_converted(out + index * channels + vector * n, value, 1);
        };
    });
}

// The same where the source is x box-filtered (one row and column larger) and has the four phases of stride 2. One
// index makes all four: their windows lie in the 3×3 pixels around (row, column), so x comes from memory once, and not
// once a phase.
template <int n, class To>
void fill_box_filtered(To* out, const float* x, const PaddedImages& source, int64_t channels, bool relu) {
    const int64_t height = source.rows.size - 1, width = source.columns.size - 1, phase_size = source.phase_size();
    parallel_for_rows(phase_size, channels / n, [=] DEVICE(int64_t padded) {
        const PaddedImages::Place at = source.place(uint32_t(padded));
        int64_t offset[3][3];  // in x; -1: outside the image
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j) {
                const int64_t row = at.row - 1 + i, column = at.column - 1 + j;
                const bool inside =
                    at.image < source.batch && row >= 0 && row < height && column >= 0 && column < width;
                offset[i][j] = inside ? ((at.image * height + row) * width + column) * channels : -1;
            }
        return [=](int64_t vector) {
            float value[3][3][n] = {};
            for (int i = 0; i < 3; ++i)
                for (int j = 0; j < 3; ++j)
                    if (offset[i][j] >= 0) add_activated(value[i][j], x + offset[i][j] + vector * n, relu);
            for (int phase = 0; phase < 4; ++phase) {
                const int i = phase / 2, j = phase % 2;
                float total[n];
                for (int k = 0; k < n; ++k)
                    total[k] = value[i + 1][j + 1][k] + value[i + 1][j][k] + value[i][j + 1][k] + value[i][j][k];
                store_converted(out + (phase * phase_size + padded) * channels + vector * n, total, 0.25f);
            }
        };
    });
}

// x after the prologue, padded and converted, in the workspace; x itself where there is nothing to do.
template <class To>
const To* padded_source(WorkspaceSlot slot, const float* x, const PaddedImages& source, int64_t channels,
                        Prologue prologue = {}) {
    if constexpr (std::is_same_v<To, float>)
        if (source.unpadded() && !prologue.relu && !prologue.pool) return x;
    check_pixels(source.size());
    To* out = workspace<To>(slot, source.size() * channels);
    const bool by_four = channels % 4 == 0;
    if (prologue.pool)
        (by_four ? fill_box_filtered<4, To> : fill_box_filtered<1, To>)(out, x, source, channels, prologue.relu);
    else (by_four ? fill_padded<4, To> : fill_padded<1, To>)(out, x, source, channels, prologue.relu);
    return out;
}

// ---- epilogue -----------------------------------------------------------------------------------

// What becomes of a result before it is stored: + bias[channel], then 0 where mask <= 0, then + residual; mask and
// residual are like y. Each may be null. The bias belongs to fprop and the mask to dgrad: never both are given.
struct Epilogue {
    const float *bias = nullptr, *mask = nullptr, *residual = nullptr;
    // n neighbouring results at `offset` of y; offset and channel are multiples of n.
    template <int n>
    DEVICE AlignedArray<float, n> operator()(AlignedArray<float, n> result, int64_t channel, int64_t offset) const {
        const auto load = [](const float* from) { return *reinterpret_cast<const AlignedArray<float, n>*>(from); };
        AlignedArray<float, n> masks_or_biases{}, residuals{};
        if (mask || bias) masks_or_biases = load(mask ? mask + offset : bias + channel);
        if (residual) residuals = load(residual + offset);
        for (int i = 0; i < n; ++i)
            result.values[i] = apply(result.values[i], masks_or_biases.values[i], residuals.values[i]);
        return result;
    }
    // To one result, with its mask or else its bias, and its residual; 0 stands for what is null.
    DEVICE float apply(float result, float mask_or_bias, float added) const {
        return (!mask ? result + mask_or_bias : mask_or_bias <= 0 ? 0 : result) + added;
    }
};

// `channels` is a multiple of n.
template <int n>
void gather_vectors(float* y, const float* result, const Epilogue& epilogue, bool pool, const PaddedImages& source,
                    const OutputMap& out, int64_t channels) {
    const int64_t height = out.height - pool, width = out.width - pool;
    const float weight = pool ? 0.25f : 1;
    parallel_for_rows(source.batch * height * width, channels / n, [=] DEVICE(int64_t pixel) {
        const uint32_t line = uint32_t(pixel) / uint32_t(width), column = uint32_t(pixel) - line * uint32_t(width),
                       image = line / uint32_t(height), row = line - image * uint32_t(height);
        const float* from[4];
        for (unsigned k = 0; k < 4; ++k)
            from[k] = k == 0 || pool ? result + out.result_index(source, image, row + k / 2, column + k % 2) * channels
                                     : nullptr;
        const int64_t first = pixel * channels;
        return [=](int64_t vector) {
            AlignedArray<float, n> total{};
            for (const float* const values : from) {
                if (!values) continue;
                const auto loaded = *reinterpret_cast<const AlignedArray<float, n>*>(values + vector * n);
                for (int i = 0; i < n; ++i) total.values[i] += loaded.values[i];
            }
            for (int i = 0; i < n; ++i) total.values[i] *= weight;
            *reinterpret_cast<AlignedArray<float, n>*>(y + first + vector * n) =
                epilogue(total, vector * n, first + vector * n);
        };
    });
}

// y (pixels, channels) from the rows of `result` that are outputs. pool: the adjoint of the box filter, the mean of the
// four windows that hold the pixel.
inline void gather(float* y, const float* result, const Epilogue& epilogue, bool pool, const PaddedImages& source,
                   const OutputMap& out, int64_t channels) {
    check_pixels(source.batch * out.height * out.width);
    (channels % 4 == 0 ? gather_vectors<4> : gather_vectors<1>)(y, result, epilogue, pool, source, out, channels);
}

// ---- shapes and the tensor cores' path ----------------------------------------------------------

// The convolution that is left after the prologue. A kernel as large as the image, without padding, is a GEMM over
// images of one pixel; its weights already lie in memory as that needs them.
inline ConvShape lowered_shape(const ConvShape& s) {
    if (s.pool) return {s.batch, s.height + 1, s.width + 1, s.in, s.out, s.kernel, 2, 0};
    if (s.padding == 0 && s.kernel == s.height && s.kernel == s.width)
        return {s.batch, 1, 1, s.kernel * s.kernel * s.in, s.out, 1, 1, 0};
    return {s.batch, s.height, s.width, s.in, s.out, s.kernel, s.stride, s.padding};
}

// fprop and dgrad in the tensor cores (conv_mma.cu), for Bf16 and Tf32. They return false, and do nothing, where their
// kernels do not apply to the shape.
template <class Element>
bool mma_forward(float* y, const float* x, const float* w, const Epilogue& epilogue, const ConvShape& shape);
template <class Element>
bool mma_backward_input(float* dx, const float* dy, const float* w, const Epilogue& epilogue, const ConvShape& shape);

}  // namespace dualmcmc::DEVICE_NAMESPACE
