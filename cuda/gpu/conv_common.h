// What the two ways of a convolution on the GPU share (gpu_conv.cu, gpu_tensor.cu): numbers as they are multiplied,
// images among zeros, and what becomes of results.
#pragma once
#include "gpu/conv_geometry.h"
#include "gpu/gpu.h"

namespace dualmcmc::DEVICE_NAMESPACE {

using Bf16 = uint16_t;  // the upper half of a float's bits
struct Tf32 {
    uint32_t bits;  // a float's, the last 13 of them 0
};

DEVICE inline void round_to(float& y, float x) { y = x; }
// To nearest, ties to even; a NaN stays one.
DEVICE inline uint32_t rounded_bits(float x, int dropped) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x), half = (1u << (dropped - 1)) - 1;
    return x != x ? 0x7fffffffu >> dropped : (bits + half + (bits >> dropped & 1)) >> dropped;
}
DEVICE inline void round_to(Bf16& y, float x) { y = Bf16(rounded_bits(x, 16)); }
DEVICE inline void round_to(Tf32& y, float x) { y.bits = rounded_bits(x, 13) << 13; }

// ---- images among zeros -------------------------------------------------------------------------

// What the convolution sees of x.
struct View {
    bool relu, pool;
};

// The places in x of the pixels whose mean is one of the source's: itself, or up to four where the source is x
// box-filtered; -1: none.
struct Corners {
    int64_t place[4];
    DEVICE Corners(const Halo& halo, bool pool, int64_t pixel, int64_t channels) {
        const int64_t height = halo.rows.size - pool, width = halo.columns.size - pool,
                      image = pixel / (halo.rows.size * halo.columns.size);
        const int64_t row = pixel / halo.columns.size % halo.rows.size, column = pixel % halo.columns.size;
        for (int k = 0; k < 4; ++k) {
            const int64_t h = row - k / 2, w = column - k % 2;
            const bool there = pixel >= 0 && (k == 0 || pool) && h >= 0 && h < height && w >= 0 && w < width;
            place[k] = there ? ((image * height + h) * width + w) * channels : -1;
        }
    }
};

// So many numbers are read, or written, at a time.
template <class T, int n>
struct alignas(n * sizeof(T)) Pack {
    T values[n];
};

// to = from, `packs` times n numbers.
template <int n, class To>
void round_packs(To* to, const float* from, int64_t packs) {
    parallel_for(packs, [=] DEVICE(int64_t i) {
        const auto read = reinterpret_cast<const Pack<float, n>*>(from)[i];
        Pack<To, n> rounded;
        for (int k = 0; k < n; ++k) round_to(rounded.values[k], read.values[k]);
        reinterpret_cast<Pack<To, n>*>(to)[i] = rounded;
    });
}
template <class To>
void round_all(To* to, const float* from, int64_t n) {
    if (n % 4 == 0) round_packs<4>(to, from, n / 4);
    else round_packs<1>(to, from, n);
}

// `channels` is a multiple of n.
template <int n, class To>
void fill_halo(To* out, const float* x, const Halo& halo, int64_t channels, View view) {
    const float share = view.pool ? 0.25f : 1;
    parallel_for_rows(halo.phases() * halo.phase_size(), channels / n, [=] DEVICE(int64_t index) {
        const Corners corners(halo, view.pool, halo.source(index), channels);
        return [=](int64_t piece) {
            float total[n] = {};
            for (const int64_t place : corners.place) {
                if (place < 0) continue;
                const auto read = *reinterpret_cast<const Pack<float, n>*>(x + place + piece * n);
                for (int i = 0; i < n; ++i)
                    total[i] += view.relu && read.values[i] <= 0 ? 0 : read.values[i];  // a NaN stays one
            }
            Pack<To, n> rounded;
            for (int i = 0; i < n; ++i) round_to(rounded.values[i], share * total[i]);
            *reinterpret_cast<Pack<To, n>*>(out + index * channels + piece * n) = rounded;
        };
    });
}

// x, as the view has it, among the halo's zeros; x itself where nothing is asked for.
template <class To>
const To* with_halo(Slot slot, const float* x, const Halo& halo, int64_t channels, View view = {}) {
    if constexpr (std::is_same_v<To, float>)
        if (halo.bare() && !view.relu && !view.pool) return x;
    To* out = workspace<To>(slot, halo.phases() * halo.phase_size() * channels);
    (channels % 4 == 0 ? fill_halo<4, To> : fill_halo<1, To>)(out, x, halo, channels, view);
    return out;
}

// What becomes of a convolution's results: y = result (0 where mask <= 0) + bias (channels) + residual (like y); each
// but the result may be null.
struct Epilogue {
    const float *bias, *residual, *mask;
    // y[place] and its neighbours, n in all; place and channel are multiples of n.
    template <int n>
    DEVICE Pack<float, n> operator()(Pack<float, n> result, int64_t channel, int64_t place) const {
        const auto all = [](const float* from) { return *reinterpret_cast<const Pack<float, n>*>(from); };
        Pack<float, n> masks{}, biases{}, addends{};
        if (mask) masks = all(mask + place);
        if (bias) biases = all(bias + channel);
        if (residual) addends = all(residual + place);
        for (int i = 0; i < n; ++i)
            result.values[i] =
                (mask && masks.values[i] <= 0 ? 0 : result.values[i]) + biases.values[i] + addends.values[i];
        return result;
    }
};

// `channels` is a multiple of n.
template <int n>
void gather_packs(float* y, const float* result, const Epilogue& f, bool pool, const Halo& halo, const Targets& targets,
                  int64_t channels) {
    const int64_t height = targets.height - pool, width = targets.width - pool;
    const float share = pool ? 0.25f : 1;
    parallel_for_rows(halo.batch * height * width, channels / n, [=] DEVICE(int64_t pixel) {
        const int64_t image = pixel / (height * width), row = pixel / width % height, column = pixel % width;
        const float* from[4];
        for (int k = 0; k < 4; ++k) {
            const int64_t of = (image * targets.height + row + k / 2) * targets.width + column + k % 2;
            from[k] = k == 0 || pool ? result + targets.place(halo, of) * channels : nullptr;
        }
        const int64_t first = pixel * channels;
        return [=](int64_t piece) {
            Pack<float, n> total{};
            for (const float* const values : from) {
                if (!values) continue;
                const auto read = *reinterpret_cast<const Pack<float, n>*>(values + piece * n);
                for (int i = 0; i < n; ++i) total.values[i] += read.values[i];
            }
            for (int i = 0; i < n; ++i) total.values[i] *= share;
            *reinterpret_cast<Pack<float, n>*>(y + first + piece * n) = f(total, piece * n, first + piece * n);
        };
    });
}

// y (pixels, channels) from the targets' places; pool: the adjoint of the box filter, the mean of the four of which a
// pixel is a part.
inline void gather(float* y, const float* result, const Epilogue& f, bool pool, const Halo& halo,
                   const Targets& targets, int64_t channels) {
    (channels % 4 == 0 ? gather_packs<4> : gather_packs<1>)(y, result, f, pool, halo, targets, channels);
}

// The convolution of what the View shows. A kernel as large as the image, without padding, sees each image once, whole:
// a matrix product over images of one pixel, and the weights lie in memory as they should.
inline ConvShape convolved(const ConvShape& s) {
    if (s.pool) return {s.batch, s.height + 1, s.width + 1, s.in, s.out, s.kernel, 2, 0};
    if (s.padding == 0 && s.kernel == s.height && s.kernel == s.width)
        return {s.batch, 1, 1, s.kernel * s.kernel * s.in, s.out, 1, 1, 0};
    return {s.batch, s.height, s.width, s.in, s.out, s.kernel, s.stride, s.padding};
}

// ---- by the tensor cores alone, for Bf16 and Tf32 (gpu_tensor.cu) -------------------------------

// Where the convolution, or the gradient of its input, can go that way, they do it and return true.
template <class Element>
bool tensor_forward(float* y, const float* x, const float* w, const Epilogue& epilogue, const ConvShape& shape);
template <class Element>
bool tensor_backward_input(float* dx, const float* dy, const float* w, const Epilogue& epilogue,
                           const ConvShape& shape);

}  // namespace dualmcmc::DEVICE_NAMESPACE
