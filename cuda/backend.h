// The table of kernels: all that this program asks of a device, one line each.
//
// Arguments stand in the order outputs, saved values, inputs, sizes. All arrays are float32 on the device; images are NHWC
// (channels innermost), convolution weights (kh, kw, in, out), linear weights (in, out). A "scalar" is an array of one element
// on the device. Every kernel owns its outputs (they may not overlap inputs unless the comment says "in place").
// Results never depend on the number of threads: pointwise kernels own one output per index, reductions have a fixed order.
//
// cuda/*.cu implements the table once per instruction set (g++, four times), once for CUDA (nvcc), and for the tests once more for a
// GPU that the host plays (tests/simt); gpu_*.cu are the GPU's own bodies. Nothing outside cuda/ names a device's types.
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
    uint64_t weights = 0;  // a number that only these weights have, so that what a kernel makes of them may be kept; 0: they may change
    // With relu, room for a bit for each number of x, rounded up to 32: conv2d may note there which pass, for conv2d_backward_input of the same
    // table and shape, which may then read that in place of x. Null: it reads x.
    uint16_t* signs = nullptr;
    int64_t out_height() const { return ((height + 2 * padding - kernel) / stride + 1) / (pool ? 2 : 1); }
    int64_t out_width() const { return ((width + 2 * padding - kernel) / stride + 1) / (pool ? 2 : 1); }
    int64_t x_size() const { return batch * height * width * in; }
    int64_t y_size() const { return batch * out_height() * out_width() * out; }
};

// A place in the random stream: value = f(seed, stream, step, index). See random.cuh.
struct RandomKey {
    uint64_t seed;    // Philox key
    uint32_t stream;  // a named purpose, below 256
    uint64_t step;    // below 2^56
};

// A weight under spectral normalisation.
struct SpectralWeight {
    float *y, *sigma, *u, *v;  // y like w; a number; (columns); (rows)
    const float* w;            // (rows, columns)
    int64_t rows, columns;
};

// X(name, (arguments))
// clang-format off
#define DUALMCMC_KERNELS(X)                                                                                                        \
    /* ---- memory: bytes on the device; allocate throws when there is none left ---- */                                           \
    X(copy,                 (float* y, const float* x, int64_t n))                              /* y = x                        */ \
    X(upload,               (float* y, const float* host, int64_t n))                           /* y = host                     */ \
    X(download,             (float* host, const float* x, int64_t n))                           /* host = x; waits              */ \
    X(fill,                 (float* y, float value, int64_t n))                                 /* y = value                    */ \
    /* ---- pointwise ---- */                                                                                                      \
    X(add,                  (float* y, const float* a, const float* b, int64_t n))              /* y = a + b; in place allowed  */ \
    X(multiply,             (float* y, const float* a, const float* b, int64_t n))              /* y = a b                      */ \
    X(scale,                (float* y, const float* x, float factor, int64_t n))                /* y = factor x; in place ok    */ \
    X(leaky_relu,           (float* y, const float* x, float slope, int64_t n))                 /* y = x > 0 ? x : slope x      */ \
    X(leaky_relu_backward,  (float* dx, const float* y, const float* dy, float slope, int64_t n)) /* dx = dy (y > 0 ? 1 : slope) */ \
    X(tanh,                 (float* y, const float* x, int64_t n))                              /* y = tanh x                   */ \
    X(tanh_backward,        (float* dx, const float* y, const float* dy, int64_t n))            /* dx = dy (1 - y²)             */ \
    X(swish,                (float* y, const float* x, int64_t n))                              /* y = x s(x), s the sigmoid     */ \
    X(swish_backward,       (float* dx, const float* x, const float* dy, int64_t n))            /* dx = dy s(x) (1 + x (1 - s(x))) */ \
    X(exp,                  (float* y, const float* x, int64_t n))                              /* y = e^x                      */ \
    X(broadcast,            (float* y, const float* scalar, float factor, int64_t n))           /* y = factor scalar            */ \
    X(difference_by,        (float* y, const float* a, const float* b, const float* scalar, float factor, int64_t n)) /* y = factor scalar (a - b) */ \
    X(reparametrise,        (float* z, const float* mu, const float* logvar, const float* eps, int64_t n)) /* z = mu + e^(logvar/2) eps */ \
    X(reparametrise_backward, (float* dlogvar, const float* logvar, const float* eps, const float* dz, int64_t n)) /* dlogvar = ½ dz e^(logvar/2) eps */ \
    X(gaussian_nll_backward, (float* dmu, float* dlogvar, const float* z, const float* mu, const float* logvar, const float* scalar, float factor, int64_t n)) \
                                        /* Eq. 15, d of factor·scalar·½Σ[logvar + (z-mu)²/(1e-6+e^logvar)]; dz = -dmu            */ \
    X(langevin_update,      (float* y, const float* x, const float* gradient, const float* noise, float drift, float scale, int64_t n)) \
                                        /* Eq. 3, 6: y = x - drift·gradient + scale·noise; in place allowed                      */ \
    X(langevin_update_normal, (float* y, const float* x, const float* gradient, RandomKey key, float drift, float scale, int64_t n)) \
                                        /* the same with the noise that `normal` draws at this key                               */ \
    X(moving_average,       (float* y, const float* x, float keep, int64_t n))                  /* y = keep y + (1 - keep) x     */ \
    X(adam_update,          (float* w, float* m, float* v, const float* gradient, float step_size, double beta1, double beta2,    \
                             float denominator_scale, float epsilon, float weight_decay, int64_t n))                               \
                                        /* g += decay w; m,v moments; w -= step m / (sqrt(v) denominator_scale + epsilon)        */ \
    X(fixed_norm,           (float* y, const float* x, const float* mean, const float* var, const float* weight, const float* bias, \
                             float epsilon, int64_t rows, int64_t columns))                                                        \
                                        /* y = max(0, (x - mean) / sqrt(var + epsilon) weight + bias), columns each its own      */ \
    X(fixed_norm_backward,  (float* dx, const float* y, const float* dy, const float* var, const float* weight, float epsilon,     \
                             int64_t rows, int64_t columns))                                                                       \
                                        /* dx = weight / sqrt(var + epsilon) dy where y > 0, else 0                              */ \
    /* ---- gathers over images (batch, height, width, channels), named by their input's sides ---- */                             \
    X(avg_pool2,            (float* y, const float* x, int64_t batch, int64_t height, int64_t width, int64_t channels))            \
                                        /* 2×2 means, stride 2; height and width even                                            */ \
    X(avg_pool2_backward,   (float* dx, const float* dy, int64_t batch, int64_t height, int64_t width, int64_t channels))          \
    X(box_filter2,          (float* y, const float* x, int64_t batch, int64_t height, int64_t width, int64_t channels))            \
                                        /* y (height+1, width+1): 2×2 means at stride 1 of x with a border of one zero           */ \
    X(box_filter2_backward, (float* dx, const float* dy, int64_t batch, int64_t height, int64_t width, int64_t channels))          \
    X(upsample2,            (float* y, const float* x, int64_t batch, int64_t height, int64_t width, int64_t channels))            \
                                        /* bilinear, ×2, align_corners: y (2 height, 2 width)                                    */ \
    X(upsample2_backward,   (float* dx, const float* dy, int64_t batch, int64_t height, int64_t width, int64_t channels))          \
    X(global_avg_pool,      (float* y, const float* x, int64_t batch, int64_t pixels, int64_t channels)) /* y (batch, channels)  */ \
    X(global_avg_pool_backward, (float* dx, const float* dy, int64_t batch, int64_t pixels, int64_t channels))                     \
    /* ---- reductions, deterministic ---- */                                                                                      \
    X(sum,                  (float* scalar, const float* x, float factor, int64_t n))           /* scalar = factor Σ x          */ \
    X(dot,                  (float* scalar, const float* a, const float* b, int64_t n))         /* scalar = Σ a b               */ \
    X(squared_error,        (float* scalar, const float* a, const float* b, float factor, int64_t n)) /* factor Σ (a - b)²      */ \
    X(gaussian_nll,         (float* scalar, const float* z, const float* mu, const float* logvar, float factor, int64_t n))        \
                                        /* Eq. 15: factor ½Σ[logvar + (z-mu)²/(1e-6+e^logvar)]                                   */ \
    X(column_sum,           (float* y, const float* x, int64_t rows, int64_t columns))          /* y[c] = Σ_r x[r,c]            */ \
    X(batch_statistics,     (float* mean, float* rstd, float* running_mean, float* running_var, const float* x, float epsilon,     \
                             float momentum, int64_t rows, int64_t columns))                                                       \
                                        /* of each column, rstd = 1/sqrt(variance + ε); the running ones are updated             */ \
    X(batch_norm,           (float* y, const float* x, const float* mean, const float* rstd, const float* weight,                  \
                             const float* bias, float slope, int64_t rows, int64_t columns))                                       \
                                        /* y = LeakyReLU((x - mean) rstd weight + bias); slope 1: no LeakyReLU                   */ \
    X(batch_norm_sums,      (float* dweight, float* dbias, const float* mean, const float* rstd, const float* x,                   \
                             const float* weight, const float* bias, const float* dy, float slope, int64_t rows, int64_t columns)) \
                                        /* with g = dy back through the LeakyReLU: dbias = Σ g, dweight = Σ g (x - mean) rstd    */ \
    X(batch_norm_backward,  (float* dx, const float* dweight, const float* dbias, const float* mean, const float* rstd,            \
                             const float* x, const float* weight, const float* bias, const float* dy, float slope,                 \
                             int64_t batch_rows, int64_t rows, int64_t columns))                                                   \
                                        /* of these rows; dweight and dbias are over the batch_rows of the batch; dx may be dy   */ \
    /* ---- products ---- */                                                                                                       \
    X(normalise,            (float* y, float epsilon, int64_t n))                               /* y /= max(‖y‖, ε), in place   */ \
    X(spectral_norms,       (const SpectralWeight* weights, int64_t count, float epsilon)) /* of each, in a few launches for all:  */ \
                                        /* v = Wu/max(‖Wu‖, ε), u = Wᵀv/max(‖Wᵀv‖, ε), in place; σ = vᵀWu, y = W/σ               */ \
    X(spectral_norm_backward, (float* dw, const float* y, const float* sigma, const float* u, const float* v, const float* dy,     \
                             int64_t rows, int64_t columns))                                                                       \
                                        /* y = W/σ, σ = vᵀWu: dW = (dy - <dy, y> v uᵀ)/σ, W (rows, columns)                      */ \
    X(conv2d,               (float* y, const float* x, const float* w, const float* bias, const float* addend, ConvShape shape))     \
                                        /* y = x * w + bias (out) + addend (like y); either may be null                          */ \
    X(conv2d_backward_input, (float* dx, const float* dy, const float* w, const float* x, const float* addend, ConvShape shape))    \
                                        /* dx = adjoint of dy (0 where shape.relu and x <= 0; else x is not read) + addend, which */ \
                                        /* may be null, or dx itself                                                             */ \
    X(conv2d_backward_weight, (float* dw, const float* x, const float* dy, ConvShape shape))                                       \
    /* The same three, always by direct summation: the others may take quicker ways that round a little more (winograd.cu).      */ \
    X(conv2d_direct,        (float* y, const float* x, const float* w, const float* bias, const float* addend, ConvShape shape))     \
    X(conv2d_backward_input_direct, (float* dx, const float* dy, const float* w, const float* x, const float* addend, ConvShape shape)) \
    X(conv2d_backward_weight_direct, (float* dw, const float* x, const float* dy, ConvShape shape))                                \
    /* ---- random numbers: Philox4x32-10, index i of the stream goes to y[i] ---- */                                              \
    X(normal,               (float* y, RandomKey key, int64_t n))                               /* N(0, 1)                      */ \
    X(uniform,              (float* y, RandomKey key, float low, float high, int64_t n))        /* (low, high]                  */
// clang-format on

// Gives the devices back all memory that waits for tensors (src/tensor.cpp); a kernel may call it that finds none for its own work.
void trim_pool();

struct Backend {
    const char* name;                  // "cpu (AVX-512)", ...
    bool concurrent;                   // several threads may run kernels at once: the CPU's kernels then run on their caller's thread
    std::string (*start)();            // finds the device and describes it; throws, in one line, why it cannot be had. Null: it is there
    void* (*allocate)(size_t bytes);   // 64-byte aligned; throws std::bad_alloc
    void (*release)(void* pointer);
    int64_t (*free_bytes)();           // what allocate could still give; null where nobody knows
    // Between begin_graph and end_graph kernels are recorded, not run; launch_graph runs the recorded ones, on the same memory. end_graph
    // gives null where the recording failed. Null where a device records nothing.
    void (*begin_graph)();
    void* (*end_graph)();
    void (*launch_graph)(void* graph);
    void (*release_graph)(void* graph);
#define DUALMCMC_FIELD(name, arguments) void (*name) arguments;
    DUALMCMC_KERNELS(DUALMCMC_FIELD)
#undef DUALMCMC_FIELD
};

// One per compilation of cuda/*.cu. The CPU's differ in the instructions that they use; all give the same results up to rounding.
extern const Backend backend_cpu_sse2, backend_cpu_avx2, backend_cpu_avx512, backend_cpu_amx;

// The GPU's, by the precision of its matrix products: fp32, tf32, bf16. None in a build without nvcc.
std::vector<const Backend*> cuda_backends();

}  // namespace dualmcmc
