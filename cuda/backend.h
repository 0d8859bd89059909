// The table of kernels: everything the program needs from a device, one entry each.
//
// Arguments are in the order outputs, saved values, inputs, sizes. All arrays are of `real` on the device; images are
// NHWC (channels innermost), convolution weights (kh, kw, in, out), linear weights (in, out). A "scalar" is an array of
// one element on the device. Outputs may not overlap inputs unless the comment says "in place". Results never depend on
// the number of threads: in pointwise kernels an index owns its output, and reductions have a fixed order.
//
// cuda/kernels.cu has the kernels that all devices share, cuda/gpu/ the GPU's own, src/cpu/ the CPU's own. They are
// compiled once per CPU instruction set (g++), once for CUDA (nvcc), and once for the emulated GPU of the tests
// (tests/simt). No CUDA type is visible outside cuda/.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <vector>

#include "real.h"

namespace dualmcmc {

// One convolution: x (batch, height, width, in) * w (kernel, kernel, in, out) -> y (batch, out_height, out_width, out).
struct ConvShape {
    int64_t batch, height, width, in, out, kernel, stride, padding;
    bool relu = false;  // convolve max(x, 0)
    bool pool = false;  // followed by 2×2 average pooling; for 3×3 kernels, stride 1, padding 1, even sides
    int64_t out_height() const { return ((height + 2 * padding - kernel) / stride + 1) / (pool ? 2 : 1); }
    int64_t out_width() const { return ((width + 2 * padding - kernel) / stride + 1) / (pool ? 2 : 1); }
    int64_t x_size() const { return batch * height * width * in; }
    int64_t y_size() const { return batch * out_height() * out_width() * out; }
};

// A position in the random stream: value = f(seed, purpose, step, index). See random.cuh.
struct RandomKey {
    uint64_t seed;       // Philox key
    uint32_t purpose;    // below 256
    uint64_t step;       // below 2^56
    uint64_t first = 0;  // index of the first element that is drawn
};

// A convolution at stride 1 of u = max(0, (x - mean) rstd weight + bias), per channel, or of upsample2(u).
struct NormReluConv {
    const real *x, *mean, *rstd, *weight, *bias;  // (batch, h, w, in); (in) each
    ConvShape conv;                               // its sides are h, w or, with `upsample`, 2 h, 2 w
    bool upsample = false, upsample_residual = false;
};

// A weight under spectral normalisation.
struct SpectralWeight {
    real *y, *sigma, *u, *v;  // y like w; a scalar; (columns); (rows)
    const real* w;            // (rows, columns)
    int64_t rows, columns;
};

// X(name, (arguments)); the comment above each says what it computes.
// clang-format off
#define DUALMCMC_KERNELS(X) \
    /* ---- memory (allocation: Backend::allocate) */ \
    /* y = x */ \
    X(copy, (real* y, const real* x, int64_t n)) \
    /* y = host */ \
    X(upload, (real* y, const real* host, int64_t n)) \
    /* host = x; synchronises with the device */ \
    X(download, (real* host, const real* x, int64_t n)) \
    /* y = value */ \
    X(fill, (real* y, real value, int64_t n)) \
    /* ---- pointwise */ \
    /* y = a + b; in place allowed */ \
    X(add, (real* y, const real* a, const real* b, int64_t n)) \
    /* y = a b */ \
    X(multiply, (real* y, const real* a, const real* b, int64_t n)) \
    /* y = factor x; in place allowed */ \
    X(scale, (real* y, const real* x, real factor, int64_t n)) \
    /* y = x > 0 ? x : slope x */ \
    X(leaky_relu, (real* y, const real* x, real slope, int64_t n)) \
    /* dx = dy (y > 0 ? 1 : slope); in place allowed */ \
    X(leaky_relu_backward, (real* dx, const real* y, const real* dy, real slope, int64_t n)) \
    /* y = tanh x */ \
    X(tanh, (real* y, const real* x, int64_t n)) \
    /* dx = dy (1 - y²) */ \
    X(tanh_backward, (real* dx, const real* y, const real* dy, int64_t n)) \
    /* y = x s(x), s the sigmoid */ \
    X(swish, (real* y, const real* x, int64_t n)) \
    /* dx = dy s(x) (1 + x (1 - s(x))) */ \
    X(swish_backward, (real* dx, const real* x, const real* dy, int64_t n)) \
    /* y = e^x */ \
    X(exp, (real* y, const real* x, int64_t n)) \
    /* y = factor scalar */ \
    X(fill_from_scalar, (real* y, const real* scalar, real factor, int64_t n)) \
    /* y = factor scalar (a - b) */ \
    X(scaled_difference, (real* y, const real* a, const real* b, const real* scalar, real factor, int64_t \
      n)) \
    /* z = mu + e^(logvar/2) eps */ \
    X(reparametrise, (real* z, const real* mu, const real* logvar, const real* eps, int64_t n)) \
    /* dlogvar = ½ dz e^(logvar/2) eps */ \
    X(reparametrise_backward, (real* dlogvar, const real* logvar, const real* eps, const real* dz, int64_t \
      n)) \
    /* Eq. 15: gradient of factor scalar ½ Σ [logvar + (z - mu)² / (1e-6 + e^logvar)]; dz = -dmu */ \
    X(gaussian_nll_backward, (real* dmu, real* dlogvar, const real* z, const real* mu, const real* \
      logvar, const real* scalar, real factor, int64_t n)) \
    /* Eq. 3, 6: y = x - half_step_sq gradient + noise_std noise; in place allowed */ \
    X(langevin_update, (real* y, const real* x, const real* gradient, const real* noise, real \
      half_step_sq, real noise_std, int64_t n)) \
    /* the same, with the noise that `normal` draws at this key */ \
    X(langevin_update_normal, (real* y, const real* x, const real* gradient, RandomKey key, real \
      half_step_sq, real noise_std, int64_t n)) \
    /* y = decay y + (1 - decay) x */ \
    X(ema_update, (real* y, const real* x, real decay, int64_t n)) \
    /* y = factor Σ_r x[r], x (rows, n), in the order of rows and in double precision */ \
    X(sum_rows, (real* y, const real* x, double factor, int64_t rows, int64_t n)) \
    /* g = gradient + weight_decay w; m, v its moments; w -= corrected_lr m / (sqrt(v) */ \
    /* rsqrt_bias_correction2 + epsilon), where corrected_lr = learning rate / bias_correction1 */ \
    X(adam_update, (real* w, real* m, real* v, const real* gradient, real corrected_lr, double beta1, \
      double beta2, real rsqrt_bias_correction2, real epsilon, real weight_decay, int64_t n)) \
    /* y = max(0, (x - mean) / sqrt(var + epsilon) weight + bias), per column */ \
    X(batch_norm_inference, (real* y, const real* x, const real* mean, const real* var, const real* \
      weight, const real* bias, real epsilon, int64_t rows, int64_t columns)) \
    /* dx = weight / sqrt(var + epsilon) dy where y > 0, else 0 */ \
    X(batch_norm_inference_backward, (real* dx, const real* y, const real* dy, const real* var, const \
      real* weight, real epsilon, int64_t rows, int64_t columns)) \
    /* ---- gathers over images (batch, height, width, channels); height and width are the forward input's */ \
    /* 2×2 means, stride 2; height and width even */ \
    X(avg_pool2, (real* y, const real* x, int64_t batch, int64_t height, int64_t width, int64_t channels)) \
    /* its adjoint */ \
    X(avg_pool2_backward, (real* dx, const real* dy, int64_t batch, int64_t height, int64_t width, int64_t \
      channels)) \
    /* bilinear ×2, align_corners: y (batch, 2 height, 2 width, channels) */ \
    X(upsample2, (real* y, const real* x, int64_t batch, int64_t height, int64_t width, int64_t channels)) \
    /* its adjoint */ \
    X(upsample2_backward, (real* dx, const real* dy, int64_t batch, int64_t height, int64_t width, int64_t \
      channels)) \
    /* means over pixels: y (batch, channels) */ \
    X(global_avg_pool, (real* y, const real* x, int64_t batch, int64_t pixels, int64_t channels)) \
    /* its adjoint */ \
    X(global_avg_pool_backward, (real* dx, const real* dy, int64_t batch, int64_t pixels, int64_t channels)) \
    /* ---- reductions, deterministic */ \
    /* scalar = factor Σ x */ \
    X(sum, (real* scalar, const real* x, real factor, int64_t n)) \
    /* scalar = Σ a b */ \
    X(dot, (real* scalar, const real* a, const real* b, int64_t n)) \
    /* scalar = factor Σ (a - b)² */ \
    X(squared_error, (real* scalar, const real* a, const real* b, real factor, int64_t n)) \
    /* Eq. 15: scalar = factor ½ Σ [logvar + (z - mu)² / (1e-6 + e^logvar)] */ \
    X(gaussian_nll, (real* scalar, const real* z, const real* mu, const real* logvar, real factor, \
      int64_t n)) \
    /* y[c] = Σ_r x[r, c] */ \
    X(column_sum, (real* y, const real* x, int64_t rows, int64_t columns)) \
    /* per column; rstd = 1 / sqrt(variance + epsilon); running_* += momentum (batch's - running_*) */ \
    X(batch_statistics, (real* mean, real* rstd, real* running_mean, real* running_var, const real* x, \
      real epsilon, real momentum, int64_t rows, int64_t columns)) \
    /* y = LeakyReLU((x - mean) rstd weight + bias); slope 1: no LeakyReLU */ \
    X(batch_norm, (real* y, const real* x, const real* mean, const real* rstd, const real* weight, const \
      real* bias, real slope, int64_t rows, int64_t columns)) \
    /* with g = dy back through the LeakyReLU: dbias = Σ g, dweight = Σ g (x - mean) rstd */ \
    X(batch_norm_backward_reduce, (real* dweight, real* dbias, const real* mean, const real* rstd, const \
      real* x, const real* weight, const real* bias, const real* dy, real slope, int64_t rows, int64_t \
      columns)) \
    /* dx from these; dx may be dy */ \
    X(batch_norm_backward_elemt, (real* dx, const real* dweight, const real* dbias, const real* mean, \
      const real* rstd, const real* x, const real* weight, const real* bias, const real* dy, real slope, \
      int64_t rows, int64_t columns)) \
    /* ---- spectral norm and convolutions */ \
    /* y /= max(‖y‖, epsilon), in place */ \
    X(normalize_l2, (real* y, real epsilon, int64_t n)) \
    /* of all weights in a few launches: v = Wu / max(‖Wu‖, epsilon), u = Wᵀv / max(‖Wᵀv‖, epsilon), in */ \
    /* place; then σ = vᵀWu, y = W / σ */ \
    X(spectral_norms, (const SpectralWeight* weights, int64_t count, real epsilon)) \
    /* gradient of y = W / σ, σ = vᵀWu: dW = (dy - <dy, y> v uᵀ) / σ, W (rows, columns) */ \
    X(spectral_norm_backward, (real* dw, const real* y, const real* sigma, const real* u, const real* v, \
      const real* dy, int64_t rows, int64_t columns)) \
    /* fprop: y = x * w + bias (out) + residual (like y); either may be null */ \
    X(conv2d, (real* y, const real* x, const real* w, const real* bias, const real* residual, ConvShape \
      shape)) \
    /* dgrad: dx = adjoint of dy (with shape.relu 0 where x <= 0; else x is not read) + residual, which */ \
    /* may be null or dx itself */ \
    X(conv2d_backward_input, (real* dx, const real* dy, const real* w, const real* x, const real* \
      residual, ConvShape shape)) \
    /* wgrad: dw[kh, kw] = Σ xᵀ dy over the pixels that meet under tap (kh, kw) */ \
    X(conv2d_backward_weight, (real* dw, const real* x, const real* dy, ConvShape shape)) \
    /* ---- random numbers (random.cuh); y[i] is the stream's element key.first + i */ \
    /* N(0, 1) */ \
    X(normal, (real* y, RandomKey key, int64_t n)) \
    /* uniform in (low, high] */ \
    X(uniform, (real* y, RandomKey key, real low, real high, int64_t n))
// clang-format on

// While one lives on a thread, the weights of that thread's convolutions do not change, so kernels may cache what they
// compute from them under its id.
class ConstantWeights {
public:
    // id: from next(), the same on all threads that share the work; 0: no caching.
    explicit ConstantWeights(uint64_t id);
    ~ConstantWeights();
    ConstantWeights(const ConstantWeights&) = delete;
    ConstantWeights& operator=(const ConstantWeights&) = delete;
    static uint64_t next();     // a new id
    static uint64_t current();  // this thread's id, or 0

private:
    uint64_t before_;
};

// Frees all cached blocks of the memory pool (machine/pool.h).
void empty_cache();
// function(); if it finds the memory full, once more after empty_cache().
template <class Function>
auto with_room(const Function& function) {
    try {
        return function();
    } catch (const std::bad_alloc&) {
        empty_cache();
    }
    return function();
}

struct Backend {
    const char* name;                 // "cpu (AVX-512)", ...
    bool callable_from_many_threads;  // concurrently; each kernel then runs on its caller's thread
    const Backend* exact;             // the device's table with exact fp32 convolutions; null: this one
    // Initialises the device and describes it in a line; of several that one, counted round. Throws std::runtime_error,
    // in a line too, if it is not usable. Null: nothing to do.
    std::string (*start)(int index);
    void* (*allocate)(size_t bytes);  // 64-byte aligned; throws std::bad_alloc
    void (*release)(void* pointer);
    int64_t (*free_bytes)();  // free device memory; null: unknown
    int64_t (*peak_bytes)();  // the most that `allocate` and kernels' workspaces have held at a time; null: unknown
    // Graphs. Between begin_capture and end_capture kernels are captured, not run; launch_graph runs them, on the same
    // memory. end_capture returns null if the capture failed. Null where the device has no graphs.
    void (*begin_capture)();
    void* (*end_capture)();
    void (*launch_graph)(void* graph);
    void (*destroy_graph)(void* graph);
    // Fused kernels; null where the device has none and the engine composes them from the table.
    // y = conv2d(u, w, bias) + residual, or + upsample2(residual); w (kernel, kernel, in, out). The gradients are those
    // of u, of norm weight and norm bias over the batch and, with upsample_residual (else null), of the residual; of w.
    // batch_norm_backward_elemt turns that of u (with slope 0) into that of x.
    void (*norm_relu_conv2d)(real* y, const NormReluConv& in, const real* w, const real* bias, const real* residual);
    void (*norm_relu_conv2d_backward)(real* du, real* dweight, real* dbias, real* dresidual, const NormReluConv& in,
                                      const real* w, const real* dy);
    void (*norm_relu_conv2d_backward_weight)(real* dw, const NormReluConv& in, const real* dy);
#define DUALMCMC_FIELD(name, arguments) void(*name) arguments;
    DUALMCMC_KERNELS(DUALMCMC_FIELD)
#undef DUALMCMC_FIELD
};

// The CPU's tables, one per instruction set. Their results agree up to rounding.
extern const Backend backend_cpu_sse2, backend_cpu_avx2, backend_cpu_avx512;
#ifndef PLAIN
extern const Backend backend_cpu_amx;
#endif

// The GPU's tables, by the precision of its convolutions: fp32, tf32, bf16. Empty in a build without nvcc.
std::vector<const Backend*> cuda_backends();

}  // namespace dualmcmc
