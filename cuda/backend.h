// The table of kernels: all that this program asks of a device, one line each.
//
// Arguments stand in the order outputs, saved values, inputs, sizes. All arrays are float32 on the device; images are
// NHWC (channels innermost), convolution weights (kh, kw, in, out), linear weights (in, out). A "scalar" is an array of
// one element on the device. Every kernel owns its outputs (they may not overlap inputs unless the comment says "in
// place"). Results never depend on the number of threads: pointwise kernels own one output per index, reductions have a
// fixed order.
//
// cuda/*.cu implements the table once per instruction set (g++, four times), once for CUDA (nvcc), and for the tests
// once more for a GPU that the host plays (tests/simt); gpu_*.cu are the GPU's own bodies. Nothing outside cuda/ names
// a device's types.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dualmcmc {

// One convolution: x (batch, height, width, in) * w (kernel, kernel, in, out) -> y (batch, out_height, out_width, out).
struct ConvShape {
    int64_t batch, height, width, in, out, kernel, stride, padding;
    bool relu = false;  // of max(x, 0) in place of x
    bool pool = false;  // then 2×2 means: of a 3×3 kernel with stride 1 and padding 1, on even sides
    int64_t out_height() const { return ((height + 2 * padding - kernel) / stride + 1) / (pool ? 2 : 1); }
    int64_t out_width() const { return ((width + 2 * padding - kernel) / stride + 1) / (pool ? 2 : 1); }
    int64_t x_size() const { return batch * height * width * in; }
    int64_t y_size() const { return batch * out_height() * out_width() * out; }
};

// A place in the random stream: value = f(seed, stream, step, index). See random.cuh.
struct RandomKey {
    uint64_t seed;     // Philox key
    uint32_t purpose;  // what it is for, below 256
    uint64_t step;     // below 2^56
};

// A convolution at stride 1 of u = max(0, (x - mean) rstd weight + bias), each channel by its own, or of u upsampled as
// upsample2 does.
struct NormReluConv {
    const float *x, *mean, *rstd, *weight, *bias;  // (batch, h, w, in); (in) each
    ConvShape conv;  // of the convolution itself: its sides are h, w or, with `upsample`, twice as many
    bool upsample = false, upsample_residual = false;
};

// A weight under spectral normalisation.
struct SpectralWeight {
    float *y, *sigma, *u, *v;  // y like w; a number; (columns); (rows)
    const float* w;            // (rows, columns)
    int64_t rows, columns;
};

// X(name, (arguments)), each with what it computes above it.
// clang-format off
#define DUALMCMC_KERNELS(X) \
    /* ---- memory; allocate (below) throws when there is none left */ \
    /* y = x */ \
    X(copy, (float* y, const float* x, int64_t n)) \
    /* y = host */ \
    X(upload, (float* y, const float* host, int64_t n)) \
    /* host = x; waits for the device */ \
    X(download, (float* host, const float* x, int64_t n)) \
    /* y = value */ \
    X(fill, (float* y, float value, int64_t n)) \
    /* ---- pointwise */ \
    /* y = a + b; in place allowed */ \
    X(add, (float* y, const float* a, const float* b, int64_t n)) \
    /* y = a b */ \
    X(multiply, (float* y, const float* a, const float* b, int64_t n)) \
    /* y = factor x; in place allowed */ \
    X(scale, (float* y, const float* x, float factor, int64_t n)) \
    /* y = x > 0 ? x : slope x */ \
    X(leaky_relu, (float* y, const float* x, float slope, int64_t n)) \
    /* dx = dy (y > 0 ? 1 : slope); in place allowed */ \
    X(leaky_relu_backward, (float* dx, const float* y, const float* dy, float slope, int64_t n)) \
    /* y = tanh x */ \
    X(tanh, (float* y, const float* x, int64_t n)) \
    /* dx = dy (1 - y²) */ \
    X(tanh_backward, (float* dx, const float* y, const float* dy, int64_t n)) \
    /* y = x s(x), s the sigmoid */ \
    X(swish, (float* y, const float* x, int64_t n)) \
    /* dx = dy s(x) (1 + x (1 - s(x))) */ \
    X(swish_backward, (float* dx, const float* x, const float* dy, int64_t n)) \
    /* y = e^x */ \
    X(exp, (float* y, const float* x, int64_t n)) \
    /* y = factor scalar */ \
    X(fill_from_scalar, (float* y, const float* scalar, float factor, int64_t n)) \
    /* y = factor scalar (a - b) */ \
    X(scaled_difference, (float* y, const float* a, const float* b, const float* scalar, float factor, int64_t \
      n)) \
    /* z = mu + e^(logvar/2) eps */ \
    X(reparametrise, (float* z, const float* mu, const float* logvar, const float* eps, int64_t n)) \
    /* dlogvar = ½ dz e^(logvar/2) eps */ \
    X(reparametrise_backward, (float* dlogvar, const float* logvar, const float* eps, const float* dz, int64_t \
      n)) \
    /* Eq. 15: gradient of factor scalar ½ Σ [logvar + (z - mu)² / (1e-6 + e^logvar)]; dz = -dmu */ \
    X(gaussian_nll_backward, (float* dmu, float* dlogvar, const float* z, const float* mu, const float* \
      logvar, const float* scalar, float factor, int64_t n)) \
    /* Eq. 3, 6: y = x - half_step_sq gradient + noise_std noise; in place allowed */ \
    X(langevin_update, (float* y, const float* x, const float* gradient, const float* noise, float \
      half_step_sq, float noise_std, int64_t n)) \
    /* the same with the noise that `normal` draws at this key */ \
    X(langevin_update_normal, (float* y, const float* x, const float* gradient, RandomKey key, float \
      half_step_sq, float noise_std, int64_t n)) \
    /* y = decay y + (1 - decay) x */ \
    X(ema_update, (float* y, const float* x, float decay, int64_t n)) \
    /* g = gradient + weight_decay w; m, v its moments; w -= corrected_lr m / (sqrt(v) */ \
    /* rsqrt_bias_correction2 + epsilon), where corrected_lr = learning rate / bias_correction1 */ \
    X(adam_update, (float* w, float* m, float* v, const float* gradient, float corrected_lr, double beta1, \
      double beta2, float rsqrt_bias_correction2, float epsilon, float weight_decay, int64_t n)) \
    /* y = max(0, (x - mean) / sqrt(var + epsilon) weight + bias), each column by its own */ \
    X(batch_norm_inference, (float* y, const float* x, const float* mean, const float* var, const float* \
      weight, const float* bias, float epsilon, int64_t rows, int64_t columns)) \
    /* dx = weight / sqrt(var + epsilon) dy where y > 0, else 0 */ \
    X(batch_norm_inference_backward, (float* dx, const float* y, const float* dy, const float* var, const \
      float* weight, float epsilon, int64_t rows, int64_t columns)) \
    /* ---- gathers over images (batch, height, width, channels), named by their input's sides */ \
    /* 2×2 means, stride 2; height and width even */ \
    X(avg_pool2, (float* y, const float* x, int64_t batch, int64_t height, int64_t width, int64_t channels)) \
    /* its adjoint */ \
    X(avg_pool2_backward, (float* dx, const float* dy, int64_t batch, int64_t height, int64_t width, int64_t \
      channels)) \
    /* bilinear ×2, align_corners: y (batch, 2 height, 2 width, channels) */ \
    X(upsample2, (float* y, const float* x, int64_t batch, int64_t height, int64_t width, int64_t channels)) \
    /* its adjoint */ \
    X(upsample2_backward, (float* dx, const float* dy, int64_t batch, int64_t height, int64_t width, int64_t \
      channels)) \
    /* means over pixels: y (batch, channels) */ \
    X(global_avg_pool, (float* y, const float* x, int64_t batch, int64_t pixels, int64_t channels)) \
    /* its adjoint */ \
    X(global_avg_pool_backward, (float* dx, const float* dy, int64_t batch, int64_t pixels, int64_t channels)) \
    /* ---- reductions, deterministic */ \
    /* scalar = factor Σ x */ \
    X(sum, (float* scalar, const float* x, float factor, int64_t n)) \
    /* scalar = Σ a b */ \
    X(dot, (float* scalar, const float* a, const float* b, int64_t n)) \
    /* scalar = factor Σ (a - b)² */ \
    X(squared_error, (float* scalar, const float* a, const float* b, float factor, int64_t n)) \
    /* Eq. 15: scalar = factor ½ Σ [logvar + (z - mu)² / (1e-6 + e^logvar)] */ \
    X(gaussian_nll, (float* scalar, const float* z, const float* mu, const float* logvar, float factor, \
      int64_t n)) \
    /* y[c] = Σ_r x[r, c] */ \
    X(column_sum, (float* y, const float* x, int64_t rows, int64_t columns)) \
    /* of each column; rstd = 1 / sqrt(variance + epsilon); running_* move by the share momentum */ \
    X(batch_statistics, (float* mean, float* rstd, float* running_mean, float* running_var, const float* x, \
      float epsilon, float momentum, int64_t rows, int64_t columns)) \
    /* y = LeakyReLU((x - mean) rstd weight + bias); slope 1: no LeakyReLU */ \
    X(batch_norm, (float* y, const float* x, const float* mean, const float* rstd, const float* weight, const \
      float* bias, float slope, int64_t rows, int64_t columns)) \
    /* with g = dy back through the LeakyReLU: dbias = Σ g, dweight = Σ g (x - mean) rstd */ \
    X(batch_norm_backward_reduce, (float* dweight, float* dbias, const float* mean, const float* rstd, const \
      float* x, const float* weight, const float* bias, const float* dy, float slope, int64_t rows, int64_t \
      columns)) \
    /* dx from these; dx may be dy */ \
    X(batch_norm_backward_elemt, (float* dx, const float* dweight, const float* dbias, const float* mean, \
      const float* rstd, const float* x, const float* weight, const float* bias, const float* dy, float slope, \
      int64_t rows, int64_t columns)) \
    /* ---- GEMMs and what stands on them */ \
    /* y /= max(‖y‖, epsilon), in place */ \
    X(normalize_l2, (float* y, float epsilon, int64_t n)) \
    /* of each, in a few launches for all: v = Wu / max(‖Wu‖, epsilon), u = Wᵀv / max(‖Wᵀv‖, epsilon), in */ \
    /* place; then σ = vᵀWu, y = W / σ */ \
    X(spectral_norms, (const SpectralWeight* weights, int64_t count, float epsilon)) \
    /* with y = W / σ, σ = vᵀWu: dW = (dy - <dy, y> v uᵀ) / σ, W (rows, columns) */ \
    X(spectral_norm_backward, (float* dw, const float* y, const float* sigma, const float* u, const float* v, \
      const float* dy, int64_t rows, int64_t columns)) \
    /* y = x * w + bias (out) + residual (like y); either may be null */ \
    X(conv2d, (float* y, const float* x, const float* w, const float* bias, const float* residual, ConvShape \
      shape)) \
    /* dx = adjoint of dy (0 where shape.relu and x <= 0; else x is not read) + residual, which may be */ \
    /* null, or dx itself */ \
    X(conv2d_backward_input, (float* dx, const float* dy, const float* w, const float* x, const float* \
      residual, ConvShape shape)) \
    /* dw = Σ x dy over what meets under each tap */ \
    X(conv2d_backward_weight, (float* dw, const float* x, const float* dy, ConvShape shape)) \
    /* ---- random numbers: Philox4x32-10; element i of the stream goes to y[i] */ \
    /* N(0, 1) */ \
    X(normal, (float* y, RandomKey key, int64_t n)) \
    /* uniform in (low, high] */ \
    X(uniform, (float* y, RandomKey key, float low, float high, int64_t n))
// clang-format on

// While one lives on a thread, the weights of the convolutions that this thread runs do not change: kernels may keep
// what they make of them.
class ConstantWeights {
public:
    explicit ConstantWeights(
        uint64_t id);  // of next(), the same on all threads that share the work; 0: nothing may be kept
    ~ConstantWeights();
    ConstantWeights(const ConstantWeights&) = delete;
    ConstantWeights& operator=(const ConstantWeights&) = delete;
    static uint64_t next();     // an id that no other has
    static uint64_t current();  // this thread's; 0 where none lives

private:
    uint64_t before_;
};

// Gives the devices back all memory that waits for tensors (src/tensor.cpp); a kernel may call it that finds none for
// its own work.
void empty_cache();

struct Backend {
    const char* name;                 // "cpu (AVX-512)", ...
    bool callable_from_many_threads;  // at once; a kernel then runs on its caller's thread
    const Backend* exact;  // the same device with convolutions that sum fp32 MACs as they stand; null: this one does
    std::string (
        *start)();  // finds the device and describes it; throws, in one line, why it cannot be had. Null: it is there
    void* (*allocate)(size_t bytes);  // 64-byte aligned; throws std::bad_alloc
    void (*release)(void* pointer);
    int64_t (*free_bytes)();  // what allocate could still give; null where nobody knows
    // Between begin_capture and end_capture kernels are recorded, not run; launch_graph runs the recorded ones, on the
    // same memory. end_capture gives null where the recording failed. Null where a device records nothing.
    void (*begin_capture)();
    void* (*end_capture)();
    void (*launch_graph)(void* graph);
    void (*destroy_graph)(void* graph);
    // y = conv2d(u, w, bias) + residual (or residual upsampled), w (kernel, kernel, in, out); its gradients: of x, norm
    // weight and norm bias over the batch, and, where upsample_residual, of the residual (else null); of w. Null where
    // a device has no such kernel: then the engine composes it from those above.
    void (*norm_relu_conv2d)(float* y, const NormReluConv& in, const float* w, const float* bias,
                             const float* residual);
    void (*norm_relu_conv2d_backward)(float* dx, float* dweight, float* dbias, float* dresidual, const NormReluConv& in,
                                      const float* w, const float* dy);
    void (*norm_relu_conv2d_backward_weight)(float* dw, const NormReluConv& in, const float* dy);
#define DUALMCMC_FIELD(name, arguments) void(*name) arguments;
    DUALMCMC_KERNELS(DUALMCMC_FIELD)
#undef DUALMCMC_FIELD
};

// One per compilation of cuda/*.cu. The CPU's differ in the instructions that they use; all give the same results up to
// rounding.
extern const Backend backend_cpu_sse2, backend_cpu_avx2, backend_cpu_avx512;
#ifndef PLAIN
extern const Backend backend_cpu_amx;
#endif

// The GPU's, by the precision of its matrix products: fp32, tf32, bf16. None in a build without nvcc.
std::vector<const Backend*> cuda_backends();

}  // namespace dualmcmc
