// Convolution by its definition, on the CPU: forward, gradient of the input (dgrad), gradient of the weight (wgrad).
//
//   y[p, q, o]       = Σ x[h, v, i] w[kh, kw, i, o]    over kh, kw, i, at h = p stride + kh - padding,
//                                                                         v = q stride + kw - padding
//   dx[h, v, i]      = Σ dy[p, q, o] w[kh, kw, i, o]   over o and all p, q, kh, kw with these h, v
//   dw[kh, kw, i, o] = Σ x[h, v, i] dy[p, q, o]        over images and all p, q with their h, v
//
// Each of the three loops over the taps (kh, kw) of the kernel. for_each_pair finds the pairs of output and input pixel
// that a tap connects; what is left is a sum over channels, which lie innermost in memory. Tiles, packed weights and
// other algorithms are in src/cpu/fast.
#include <algorithm>

#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

// Calls visit(output pixel, input pixel) for all pairs in one image that `tap` = kh kernel + kw connects. The padding
// has no input pixels.
template <class Visit>
void for_each_pair(const ConvShape& s, int64_t tap, Visit visit) {
    const int64_t kh = tap / s.kernel, kw = tap % s.kernel;
    for (int64_t p = 0; p < s.out_height(); ++p)
        for (int64_t q = 0; q < s.out_width(); ++q) {
            const int64_t h = p * s.stride + kh - s.padding, v = q * s.stride + kw - s.padding;
            if (h >= 0 && h < s.height && v >= 0 && v < s.width) visit(p * s.out_width() + q, h * s.width + v);
        }
}

int64_t taps(const ConvShape& s) { return s.kernel * s.kernel; }
int64_t x_image_size(const ConvShape& s) { return s.x_size() / s.batch; }  // in elements
int64_t y_image_size(const ConvShape& s) { return s.y_size() / s.batch; }

void forward(real* y, const real* x, const real* w, const real* bias, const ConvShape& s) {
    parallel_dynamic(s.batch, [&](int64_t image) {
        const real* const x_image = x + image * x_image_size(s);
        real* const y_image = y + image * y_image_size(s);
        for (int64_t e = 0; e < y_image_size(s); ++e) y_image[e] = bias ? bias[e % s.out] : 0;
        for (int64_t tap = 0; tap < taps(s); ++tap)
            for_each_pair(s, tap, [&](int64_t out_pixel, int64_t in_pixel) {
                const real *x_pixel = x_image + in_pixel * s.in, *w_tap = w + tap * s.in * s.out;
                real* const y_pixel = y_image + out_pixel * s.out;
                for (int64_t i = 0; i < s.in; ++i)
#pragma omp simd
                    for (int64_t o = 0; o < s.out; ++o) y_pixel[o] += x_pixel[i] * w_tap[i * s.out + o];
            });
    });
}

void backward_input(real* dx, const real* dy, const real* w, const ConvShape& s) {
    parallel_dynamic(s.batch, [&](int64_t image) {
        const real* const dy_image = dy + image * y_image_size(s);
        real* const dx_image = dx + image * x_image_size(s);
        std::fill_n(dx_image, x_image_size(s), real(0));
        for (int64_t tap = 0; tap < taps(s); ++tap)
            for_each_pair(s, tap, [&](int64_t out_pixel, int64_t in_pixel) {
                const real *dy_pixel = dy_image + out_pixel * s.out, *w_tap = w + tap * s.in * s.out;
                real* const dx_pixel = dx_image + in_pixel * s.in;
                for (int64_t i = 0; i < s.in; ++i) {
                    real sum = 0;
#pragma omp simd reduction(+ : sum)
                    for (int64_t o = 0; o < s.out; ++o) sum += dy_pixel[o] * w_tap[i * s.out + o];
                    dx_pixel[i] += sum;
                }
            });
    });
}

// One task per tap, which adds the images in order: the result does not depend on the number of threads.
void backward_weight(real* dw, const real* x, const real* dy, const ConvShape& s) {
    parallel_dynamic(taps(s), [&](int64_t tap) {
        real* const dw_tap = dw + tap * s.in * s.out;
        std::fill_n(dw_tap, s.in * s.out, real(0));
        for (int64_t image = 0; image < s.batch; ++image)
            for_each_pair(s, tap, [&](int64_t out_pixel, int64_t in_pixel) {
                const real* const x_pixel = x + image * x_image_size(s) + in_pixel * s.in;
                const real* const dy_pixel = dy + image * y_image_size(s) + out_pixel * s.out;
                for (int64_t i = 0; i < s.in; ++i)
#pragma omp simd
                    for (int64_t o = 0; o < s.out; ++o) dw_tap[i * s.out + o] += x_pixel[i] * dy_pixel[o];
            });
    });
}

// ---- with a ReLU before, average pooling and a residual after ------------------------------------

ConvShape without_pool(ConvShape s) {
    s.pool = false;
    return s;
}

// x, or max(x, 0) where the shape has a ReLU.
const real* activated(const real* x, const ConvShape& s) {
    if (!s.relu) return x;
    real* const positive = workspace<0>(s.x_size());
    leaky_relu(positive, x, 0, s.x_size());
    return positive;
}

// The gradient of the convolution's result before pooling.
const real* unpooled(const real* dy, const ConvShape& s) {
    if (!s.pool) return dy;
    const ConvShape full = without_pool(s);
    real* const before = workspace<1>(full.y_size());
    avg_pool2_backward(before, dy, s.batch, full.out_height(), full.out_width(), s.out);
    return before;
}

}  // namespace

void conv2d(real* y, const real* x, const real* w, const real* bias, const real* residual, ConvShape s) {
    const ConvShape full = without_pool(s);
    real* const before = s.pool ? workspace<1>(full.y_size()) : y;
    forward(before, activated(x, s), w, bias, full);
    if (s.pool) avg_pool2(y, before, s.batch, full.out_height(), full.out_width(), s.out);
    if (residual) add(y, y, residual, s.y_size());
}

void conv2d_backward_input(real* dx, const real* dy, const real* w, const real* x, const real* residual, ConvShape s) {
    real* const own = residual ? workspace<2>(s.x_size()) : dx;  // the residual may be dx itself
    backward_input(own, unpooled(dy, s), w, without_pool(s));
    if (s.relu) leaky_relu_backward(own, x, own, 0, s.x_size());
    if (residual) add(dx, own, residual, s.x_size());
}

void conv2d_backward_weight(real* dw, const real* x, const real* dy, ConvShape s) {
    backward_weight(dw, activated(x, s), unpooled(dy, s), without_pool(s));
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
