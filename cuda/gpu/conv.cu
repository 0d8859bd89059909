// Convolution on the GPU: sums of matrix products on shifted views of a haloed image (taps.h), without copies of
// patches.
//
//   forward              result[r, o]  = Σ_tap Σ_i x[r + shift, i] w[tap, i, o]      then the targets' places are
//   gathered, with the bias gradient of x        result[r, i]  = Σ_tap Σ_o dy[r + shift, o] w[tap, i, o]     one such
//   sum for each phase of dx gradient of w        dw[tap, i, o] = Σ_r x[r + shift, i] dy[r, o]                dy among
//   zeros: other places add nothing
//
// Here each tap is a product of cuBLAS's, added to the last one's result: the plain way, for fp32, for gradients of
// weights, and for what the tensor cores' own kernel (gpu_tensor.cu) cannot do. Inputs of the products are fp32, TF32
// or bf16; all are summed in fp32, in an order that the sizes fix.
//
// The ReLU before a convolution is taken while x is put among zeros. Pooling after it: convolution and 2×2 means
// commute, and pooling keeps every second pixel, so that y is a convolution with stride 2 of the box-filtered x, whose
// pixels are made in the same place.
#include "gpu/conv_common.h"

#include <limits>
#include <stdexcept>

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

enum class Precision { fp32, tf32, bf16 };

template <Precision precision>
using Element = std::conditional_t<precision == Precision::bf16, Bf16, float>;  // cuBLAS rounds to TF32 itself
template <Precision precision>
using TensorElement = std::conditional_t<precision == Precision::bf16, Bf16, Tf32>;

// ---- matrix products ----------------------------------------------------------------------------

// Row-major: C (m, n) = op(A) op(B), or added to C; op(A) is (m, k), op(B) is (k, n); lda, ldb, n: the rows' lengths in
// memory.
struct Product {
    bool transpose_a, transpose_b, add;
    int64_t m, n, k, lda, ldb;
};

template <Precision precision>
void multiply(float* c, const Element<precision>* a, const Element<precision>* b, const Product& p) {
    const int64_t most = std::numeric_limits<int>::max();
    if (p.m > most || p.k > most || p.n > most)
        throw std::runtime_error("a convolution is too large for cuBLAS; lower --batch");
    const cudaDataType_t type = precision == Precision::bf16 ? CUDA_R_16BF : CUDA_R_32F;
    const cublasComputeType_t compute =
        precision == Precision::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    const float one = 1, beta = p.add ? 1 : 0;
    // cuBLAS counts columns first: to it these are the transposed matrices, and Cᵀ = op(B)ᵀ op(A)ᵀ.
    CUBLAS_CHECK(cublasGemmEx(cublas(), p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                              p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, int(p.n), int(p.m), int(p.k), &one, b, type,
                              int(p.ldb), a, type, int(p.lda), &beta, c, CUDA_R_32F, int(p.n), compute,
                              CUBLAS_GEMM_DEFAULT));
}

template <class To>
const To* weights(const float* w, const ConvShape& s) {
    const int64_t n = s.kernel * s.kernel * s.in * s.out;
    if constexpr (std::is_same_v<To, float>) return w;
    To* out = workspace<To>(weight_slot, n);
    round_all(out, w, n);
    return out;
}

// ---- the three ----------------------------------------------------------------------------------

template <Precision precision>
void forward(float* y, const float* x, const float* w, const Epilogue& epilogue, const ConvShape& shape) {
    if constexpr (precision != Precision::fp32)
        if (tensor_forward<TensorElement<precision>>(y, x, w, epilogue, shape)) return;
    const ConvShape s = convolved(shape);
    const Halo halo = forward_halo(s);
    const auto* source = with_halo<Element<precision>>(source_slot, x, halo, s.in, {shape.relu, shape.pool});
    const auto* weight = weights<Element<precision>>(w, s);
    float* result = workspace<float>(target_slot, halo.places() * s.out);
    const std::vector<Tap> taps = forward_taps(s, halo);
    for (const Tap& tap : taps)
        multiply<precision>(result, source + tap.shift * s.in, weight + tap.weight * s.in * s.out,
                            {false, false, &tap != &taps[0], halo.places(), s.out, s.in, s.in, s.out});
    gather(y, result, epilogue, false, halo, forward_targets(s), s.out);
}

template <Precision precision>
void backward_input(float* dx, const float* dy, const float* w, const Epilogue& epilogue, const ConvShape& shape) {
    if constexpr (precision != Precision::fp32)
        if (tensor_backward_input<TensorElement<precision>>(dx, dy, w, epilogue, shape)) return;
    const ConvShape s = convolved(shape);
    const Halo halo = backward_halo(s);
    const auto* source = with_halo<Element<precision>>(source_slot, dy, halo, s.out);
    const auto* weight = weights<Element<precision>>(w, s);
    const int64_t phases = s.stride * s.stride, phase_size = halo.places() * s.in;
    float* result = workspace<float>(target_slot, phases * phase_size);
    for (int64_t phase = 0; phase < phases; ++phase) {
        const std::vector<Tap> taps = backward_taps(s, halo, phase);
        if (taps.empty()) fill(result + phase * phase_size, 0, phase_size);
        for (const Tap& tap : taps)
            multiply<precision>(result + phase * phase_size, source + tap.shift * s.out,
                                weight + tap.weight * s.in * s.out,
                                {false, true, &tap != &taps[0], halo.places(), s.in, s.out, s.out, s.out});
    }
    gather(dx, result, epilogue, shape.pool, halo, backward_targets(s), s.in);
}

template <Precision precision>
void backward_weight(float* dw, const float* x, const float* dy, const ConvShape& shape) {
    const ConvShape s = convolved(shape);
    const Halo halo = forward_halo(s);
    const auto* source = with_halo<Element<precision>>(source_slot, x, halo, s.in, {shape.relu, shape.pool});
    const auto* upstream = with_halo<Element<precision>>(target_slot, dy, target_halo(s, halo), s.out);
    for (const Tap& tap : forward_taps(s, halo))
        multiply<precision>(dw + tap.weight * s.in * s.out, source + tap.shift * s.in, upstream,
                            {true, false, false, s.in, s.out, halo.places(), s.in, s.out});
}

}  // namespace

#define CONVOLUTIONS(precision, suffix)                                                                        \
    void conv2d##suffix(float* y, const float* x, const float* w, const float* bias, const float* residual,    \
                        ConvShape shape) {                                                                     \
        forward<Precision::precision>(y, x, w, {bias, residual, nullptr}, shape);                              \
    }                                                                                                          \
    void conv2d_backward_input##suffix(float* dx, const float* dy, const float* w, const float* x,             \
                                       const float* residual, ConvShape shape) {                               \
        backward_input<Precision::precision>(dx, dy, w, {nullptr, residual, shape.relu ? x : nullptr}, shape); \
    }                                                                                                          \
    void conv2d_backward_weight##suffix(float* dw, const float* x, const float* dy, ConvShape shape) {         \
        backward_weight<Precision::precision>(dw, x, dy, shape);                                               \
    }
CONVOLUTIONS(fp32, )
CONVOLUTIONS(tf32, _tf32)
CONVOLUTIONS(bf16, _bf16)

}  // namespace dualmcmc::DEVICE_NAMESPACE
