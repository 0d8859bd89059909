// Convolution on the GPU: sums of matrix products on shifted views of a haloed image (taps.h), by cuBLAS; no im2col copy.
//
//   forward              result[r, o]  = Σ_tap Σ_i x[r + shift, i] w[tap, i, o]      then the targets' places are gathered, with the bias
//   gradient of x        result[r, i]  = Σ_tap Σ_o dy[r + shift, o] w[tap, i, o]     one such sum for each phase of dx
//   gradient of w        dw[tap, i, o] = Σ_r x[r + shift, i] dy[r, o]                dy among zeros: other places add nothing
//
// Inputs of the products are fp32, fp32 rounded to TF32 by the tensor cores, or bf16; all are summed in fp32, in an order that cuBLAS
// fixes by the sizes. Where an image needs no halo (1×1, a linear layer) the products read and write it where it is.
#include "gpu.h"
#include "taps.h"

#include <limits>
#include <stdexcept>

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

enum class Precision { fp32, tf32, bf16 };
using Bf16 = uint16_t;  // the upper half of a float's bits

template <Precision precision>
using Element = std::conditional_t<precision == Precision::bf16, Bf16, float>;

KERNEL inline void round_to(float& y, float x) { y = x; }
// To nearest, ties to even; a NaN stays one.
KERNEL inline void round_to(Bf16& y, float x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    y = x != x ? Bf16(0x7fff) : Bf16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// ---- matrix products ------------------------------------------------------------------------------------------------------------

// Row-major: C (m, n) = op(A) op(B), or added to C; op(A) is (m, k), op(B) is (k, n); lda, ldb, n: the rows' lengths in memory.
struct Product {
    bool transpose_a, transpose_b, add;
    int64_t m, n, k, lda, ldb;
};

template <Precision precision>
void multiply(float* c, const Element<precision>* a, const Element<precision>* b, const Product& p) {
    const int64_t most = std::numeric_limits<int>::max();
    if (p.m > most || p.k > most || p.n > most) throw std::runtime_error("a convolution is too large for cuBLAS; lower --batch");
    const cudaDataType_t type = precision == Precision::bf16 ? CUDA_R_16BF : CUDA_R_32F;
    const cublasComputeType_t compute = precision == Precision::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    const float one = 1, beta = p.add ? 1 : 0;
    // cuBLAS counts columns first: to it these are the transposed matrices, and Cᵀ = op(B)ᵀ op(A)ᵀ.
    CUBLAS_CHECK(cublasGemmEx(cublas(), p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, int(p.n),
                              int(p.m), int(p.k), &one, b, type, int(p.ldb), a, type, int(p.lda), &beta, c, CUDA_R_32F, int(p.n), compute,
                              CUBLAS_GEMM_DEFAULT));
}

// ---- images among zeros -----------------------------------------------------------------------------------------------------------

// x (batch, rows.size, columns.size, channels) as the halo wants it; x itself where it wants nothing.
template <class To>
const To* with_halo(Slot slot, const float* x, const Halo& halo, int64_t channels) {
    if constexpr (std::is_same_v<To, float>)
        if (halo.bare()) return x;
    To* out = scratch<To>(slot, halo.phases() * halo.phase_size() * channels);
    parallel_for_rows(halo.phases() * halo.phase_size(), channels, [=] KERNEL(int64_t index) {
        const int64_t pixel = halo.source(index);
        const float* source = x + pixel * channels;
        To* target = out + index * channels;
        return [=](int64_t c) { round_to(target[c], pixel < 0 ? 0 : source[c]); };
    });
    return out;
}

template <class To>
const To* weights(const float* w, const ConvShape& s) {
    const int64_t n = s.kernel * s.kernel * s.in * s.out;
    if constexpr (std::is_same_v<To, float>) return w;
    To* out = scratch<To>(weight_slot, n);
    parallel_for(n, [=] KERNEL(int64_t i) { round_to(out[i], w[i]); });
    return out;
}

// y (pixels, channels) = the targets' places of `result`, plus the bias.
void gather(float* y, const float* result, const float* bias, const Halo& halo, const Targets& targets, int64_t channels) {
    parallel_for_rows(halo.batch * targets.height * targets.width, channels, [=] KERNEL(int64_t pixel) {
        const float* source = result + targets.place(halo, pixel) * channels;
        float* target = y + pixel * channels;
        return [=](int64_t c) { target[c] = source[c] + (bias ? bias[c] : 0); };
    });
}

void spread_bias(float* y, const float* bias, int64_t rows, int64_t channels) {
    parallel_for_rows(rows, channels, [=] KERNEL(int64_t row) {
        float* target = y + row * channels;
        return [=](int64_t c) { target[c] = bias[c]; };
    });
}

// A kernel as large as the image, without padding, sees each image once, whole: a matrix product over images of one pixel, and the
// weights lie in memory as they should.
ConvShape simplified(const ConvShape& s) {
    if (s.padding == 0 && s.kernel == s.height && s.kernel == s.width)
        return {s.batch, 1, 1, s.kernel * s.kernel * s.in, s.out, 1, 1, 0};
    return s;
}

// ---- the three ------------------------------------------------------------------------------------------------------------------

template <Precision precision>
void forward(float* y, const float* x, const float* w, const float* bias, const ConvShape& shape) {
    const ConvShape s = simplified(shape);
    const Halo halo = forward_halo(s);
    const auto* source = with_halo<Element<precision>>(source_slot, x, halo, s.in);
    const auto* weight = weights<Element<precision>>(w, s);
    // Without places between the images the products go straight to y, onto the bias.
    const bool direct = halo.image() == s.out_height() * s.out_width();
    float* result = direct ? y : scratch<float>(target_slot, halo.places() * s.out);
    bool add = direct && bias;
    if (add) spread_bias(y, bias, halo.places(), s.out);
    for (const Tap& tap : forward_taps(s, halo)) {
        multiply<precision>(result, source + tap.shift * s.in, weight + tap.weight * s.in * s.out,
                            {false, false, add, halo.places(), s.out, s.in, s.in, s.out});
        add = true;
    }
    if (!direct) gather(y, result, bias, halo, forward_targets(s), s.out);
}

template <Precision precision>
void backward_input(float* dx, const float* dy, const float* w, const ConvShape& shape) {
    const ConvShape s = simplified(shape);
    const Halo halo = backward_halo(s);
    const auto* source = with_halo<Element<precision>>(source_slot, dy, halo, s.out);
    const auto* weight = weights<Element<precision>>(w, s);
    const int64_t phases = s.stride * s.stride, phase_size = halo.places() * s.in;
    const bool direct = phases == 1 && halo.image() == s.height * s.width;
    float* result = direct ? dx : scratch<float>(target_slot, phases * phase_size);
    for (int64_t phase = 0; phase < phases; ++phase) {
        const std::vector<Tap> taps = backward_taps(s, halo, phase);
        if (taps.empty()) fill(result + phase * phase_size, 0, phase_size);
        for (const Tap& tap : taps)
            multiply<precision>(result + phase * phase_size, source + tap.shift * s.out, weight + tap.weight * s.in * s.out,
                                {false, true, &tap != &taps[0], halo.places(), s.in, s.out, s.out, s.out});
    }
    if (!direct) gather(dx, result, nullptr, halo, backward_targets(s), s.in);
}

template <Precision precision>
void backward_weight(float* dw, const float* x, const float* dy, const ConvShape& shape) {
    const ConvShape s = simplified(shape);
    const Halo halo = forward_halo(s);
    const auto* source = with_halo<Element<precision>>(source_slot, x, halo, s.in);
    const auto* upstream = with_halo<Element<precision>>(target_slot, dy, target_halo(s, halo), s.out);
    for (const Tap& tap : forward_taps(s, halo))
        multiply<precision>(dw + tap.weight * s.in * s.out, source + tap.shift * s.in, upstream,
                            {true, false, false, s.in, s.out, halo.places(), s.in, s.out});
}

}  // namespace

#define CONVOLUTIONS(precision, suffix)                                                                                           \
    void conv2d##suffix(float* y, const float* x, const float* w, const float* bias, ConvShape shape) {                           \
        forward<Precision::precision>(y, x, w, bias, shape);                                                                      \
    }                                                                                                                             \
    void conv2d_backward_input##suffix(float* dx, const float* dy, const float* w, ConvShape shape) {                             \
        backward_input<Precision::precision>(dx, dy, w, shape);                                                                   \
    }                                                                                                                             \
    void conv2d_backward_weight##suffix(float* dw, const float* x, const float* dy, ConvShape shape) {                            \
        backward_weight<Precision::precision>(dw, x, dy, shape);                                                                  \
    }
CONVOLUTIONS(fp32, )
CONVOLUTIONS(tf32, _tf32)
CONVOLUTIONS(bf16, _bf16)

void conv2d_direct(float* y, const float* x, const float* w, const float* bias, ConvShape shape) { conv2d(y, x, w, bias, shape); }
void conv2d_backward_input_direct(float* dx, const float* dy, const float* w, ConvShape shape) { conv2d_backward_input(dx, dy, w, shape); }

}  // namespace dualmcmc::DEVICE_NAMESPACE
