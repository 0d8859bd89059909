// Convolutions on the GPU: fprop, dgrad and wgrad as GEMMs on shifted views of padded images (conv_geometry.h).
//
// Here each tap is one cuBLAS GEMM that adds to the last one's result. This is the reference, and what runs in fp32,
// for wgrad, and for shapes to which the tensor cores' kernel (conv_mma.cu) does not apply. wgrad of a layer with few
// channels on one side is a single GEMM. The GEMMs' inputs are fp32, TF32 or bf16; they accumulate in fp32, in an order
// that depends on the sizes alone.
//
// A ReLU before the convolution is applied while x is padded. Pooling after it: convolution and 2×2 means commute, and
// pooling keeps every second pixel, so y is a stride-2 convolution of the box-filtered x, which is made in the same
// pass.
#include "gpu/conv_patches.h"

#include <limits>

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

enum class Precision { fp32, tf32, bf16 };

// TF32 is rounded to nearest here: tensor cores may cut the lower bits off an fp32 input, a bias of half a unit.
template <Precision precision>
using Element = std::conditional_t<precision == Precision::bf16, Bf16,
                                   std::conditional_t<precision == Precision::tf32, Tf32, float>>;

// ---- GEMMs --------------------------------------------------------------------------------------

// Row-major: C (m, n) = op(A) op(B), or C += op(A) op(B); op(A) is (m, k), op(B) is (k, n). lda, ldb: the rows'
// strides; C's is n.
struct Gemm {
    bool transpose_a, transpose_b, accumulate;
    int64_t m, n, k, lda, ldb;
};

template <Precision precision>
void gemm(float* c, const Element<precision>* a, const Element<precision>* b, const Gemm& g) {
    const int64_t max_size = std::numeric_limits<int>::max();
    if (g.m > max_size || g.k > max_size || g.n > max_size)
        throw std::runtime_error("a convolution is too large for cuBLAS; lower --batch");
    const cudaDataType_t type = precision == Precision::bf16 ? CUDA_R_16BF : CUDA_R_32F;
    // Pedantic: no environment variable makes cuBLAS emulate fp32 by narrower types.
    const cublasComputeType_t compute = precision == Precision::tf32   ? CUBLAS_COMPUTE_32F_FAST_TF32
                                        : precision == Precision::fp32 ? CUBLAS_COMPUTE_32F_PEDANTIC
                                                                       : CUBLAS_COMPUTE_32F;
    const float one = 1, beta = g.accumulate ? 1 : 0;
    // cuBLAS is column-major: it sees the transposed matrices, and Cᵀ = op(B)ᵀ op(A)ᵀ.
    CUBLAS_CHECK(cublasGemmEx(cublas(), g.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                              g.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, int(g.n), int(g.m), int(g.k), &one, b, type,
                              int(g.ldb), a, type, int(g.lda), &beta, c, CUDA_R_32F, int(g.n), compute,
                              CUBLAS_GEMM_DEFAULT));
}

template <class To>
const To* converted_weights(const float* w, const ConvShape& s) {
    const int64_t n = s.kernel * s.kernel * s.in * s.out;
    if constexpr (std::is_same_v<To, float>) return w;
    To* out = workspace<To>(weight_slot, n);
    convert_array(out, w, n);
    return out;
}

// ---- fprop, dgrad, wgrad ------------------------------------------------------------------------

template <Precision precision>
void forward(float* y, const float* x, const float* w, const Epilogue& epilogue, const ConvShape& shape) {
    if constexpr (precision != Precision::fp32)
        if (mma_forward<Element<precision>>(y, x, w, epilogue, shape)) return;
    const ConvShape s = lowered_shape(shape);
    const PaddedImages source = fprop_source(s);
    const auto* a = padded_source<Element<precision>>(source_slot, x, source, s.in, {shape.relu, shape.pool});
    const auto* b = converted_weights<Element<precision>>(w, s);
    float* result = workspace<float>(result_slot, source.padded_pixels() * s.out);
    const std::vector<Tap> taps = fprop_taps(s, source);
    for (const Tap& tap : taps)
        gemm<precision>(result, a + tap.shift * s.in, b + tap.weight * s.in * s.out,
                        {false, false, &tap != &taps[0], source.padded_pixels(), s.out, s.in, s.in, s.out});
    gather(y, result, epilogue, false, source, fprop_output(s), s.out);
}

template <Precision precision>
void backward_input(float* dx, const float* dy, const float* w, const Epilogue& epilogue, const ConvShape& shape) {
    if constexpr (precision != Precision::fp32)
        if (mma_backward_input<Element<precision>>(dx, dy, w, epilogue, shape)) return;
    const ConvShape s = lowered_shape(shape);
    const PaddedImages source = dgrad_source(s);
    const auto* a = padded_source<Element<precision>>(source_slot, dy, source, s.out);
    const auto* b = converted_weights<Element<precision>>(w, s);
    const int64_t phases = s.stride * s.stride, phase_size = source.padded_pixels() * s.in;
    float* result = workspace<float>(result_slot, phases * phase_size);
    for (int64_t phase = 0; phase < phases; ++phase) {
        const std::vector<Tap> taps = dgrad_taps(s, source, phase);
        if (taps.empty()) fill(result + phase * phase_size, 0, phase_size);
        for (const Tap& tap : taps)
            gemm<precision>(result + phase * phase_size, a + tap.shift * s.out, b + tap.weight * s.in * s.out,
                            {false, true, &tap != &taps[0], source.padded_pixels(), s.in, s.out, s.out, s.out});
    }
    gather(dx, result, epilogue, shape.pool, source, dgrad_output(s), s.in);
}

// n pixels of x or, with relu, max(x, 0), converted; x itself where there is nothing to do.
template <Precision precision>
const Element<precision>* converted(WorkspaceSlot slot, const float* x, int64_t pixels, int64_t channels,
                                    bool relu = false) {
    const PaddedImages flat{1, 0, {1, 1, 0, 1}, {pixels, 1, 0, pixels}};
    return padded_source<Element<precision>>(slot, x, flat, channels, {relu, false});
}

// Between few channels and many, wgrad is one GEMM over the few channels' patches; one a tap would have 3 rows or
// columns, and read all of the many channels each time. False where this does not apply.
template <Precision precision>
bool backward_weight_few(float* dw, const float* x, const float* dy, const ConvShape& shape) {
    const ConvShape s = lowered_shape(shape);
    const int64_t taps = s.kernel * s.kernel, in = s.in, out = s.out;
    if (taps == 1 || shape.pool) return false;
    if (taps * in <= max_patch) {  // dw (taps × in, out) = patches of xᵀ dy
        const int64_t pixels = s.y_size() / out, k = round_up(taps * in, 8);  // rows of whole vectors, for cuBLAS
        const auto* patches = im2col<Element<precision>>(source_slot, x, fprop_window(s), in, k, shape.relu);
        gemm<precision>(dw, patches, converted<precision>(result_slot, dy, pixels, out),
                        {true, false, false, taps * in, out, pixels, k, out});
        return true;
    }
    if (taps * out > max_patch || s.stride != 1) return false;
    // (taps × out, in) = patches of dyᵀ x, then transposed tap by tap.
    const int64_t pixels = s.x_size() / in, k = round_up(taps * out, 8);
    const auto* patches = im2col<Element<precision>>(result_slot, dy, dgrad_window(s), out, k);
    float* transposed = workspace<float>(weight_slot, taps * out * in);
    gemm<precision>(transposed, patches, converted<precision>(source_slot, x, pixels, in, shape.relu),
                    {true, false, false, taps * out, in, pixels, k, in});
    parallel_for_rows(taps * in, out, [=] DEVICE(int64_t row) {
        const uint32_t tap = uint32_t(row) / uint32_t(in), channel = uint32_t(row) - tap * uint32_t(in);
        return [=](int64_t f) { dw[row * out + f] = transposed[(tap * out + f) * in + channel]; };
    });
    return true;
}

template <Precision precision>
void backward_weight(float* dw, const float* x, const float* dy, const ConvShape& shape) {
    if (backward_weight_few<precision>(dw, x, dy, shape)) return;
    const ConvShape s = lowered_shape(shape);
    const PaddedImages source = fprop_source(s);
    const auto* a = padded_source<Element<precision>>(source_slot, x, source, s.in, {shape.relu, shape.pool});
    const auto* b = padded_source<Element<precision>>(result_slot, dy, wgrad_dy(s, source), s.out);
    for (const Tap& tap : fprop_taps(s, source))
        gemm<precision>(dw + tap.weight * s.in * s.out, a + tap.shift * s.in, b,
                        {true, false, false, s.in, s.out, source.padded_pixels(), s.in, s.out});
}

}  // namespace

#define CONVOLUTIONS(precision, suffix)                                                                     \
    void conv2d##suffix(float* y, const float* x, const float* w, const float* bias, const float* residual, \
                        ConvShape shape) {                                                                  \
        forward<Precision::precision>(y, x, w, {.bias = bias, .residual = residual}, shape);                \
    }                                                                                                       \
    void conv2d_backward_input##suffix(float* dx, const float* dy, const float* w, const float* x,          \
                                       const float* residual, ConvShape shape) {                            \
        const float* mask = shape.relu ? x : nullptr;                                                       \
        backward_input<Precision::precision>(dx, dy, w, {.mask = mask, .residual = residual}, shape);       \
    }                                                                                                       \
    void conv2d_backward_weight##suffix(float* dw, const float* x, const float* dy, ConvShape shape) {      \
        backward_weight<Precision::precision>(dw, x, dy, shape);                                            \
    }
CONVOLUTIONS(fp32, )
CONVOLUTIONS(tf32, _tf32)
CONVOLUTIONS(bf16, _bf16)

}  // namespace dualmcmc::DEVICE_NAMESPACE
