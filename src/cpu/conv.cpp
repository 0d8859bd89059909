// Convolution as it is defined, on the CPU: forward, the gradient of the input (dgrad) and the gradient of the weight
// (wgrad).
//
//   y[p, q, o]      = Σ x[h, v, i] w[kh, kw, i, o]     over kh, kw, i, where h = p stride + kh - padding, v = q stride
//   + kw - padding dx[h, v, i]     = Σ dy[p, q, o] w[kh, kw, i, o]    over all p, q, kh, kw, o that meet this h, v
//   dw[kh, kw, i, o] = Σ x[h, v, i] dy[p, q, o]        over images and all p, q, h, v that meet under this tap
//
// The three go through the taps (kh, kw) of the kernel, one after the other; for_each_pair names the pixels that meet
// under a tap, and each of the three says what it sums there. Channels lie innermost in memory, so the inner loops run
// over them. There are no tiles, no packed weights and no other algorithm here: that is src/cpu/fast.
#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

// visit(output pixel, input pixel) for all that meet under `tap` = kh kernel + kw in one image; over the padding
// nothing does.
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
int64_t x_image(const ConvShape& s) { return s.x_size() / s.batch; }  // elements of one image
int64_t y_image(const ConvShape& s) { return s.y_size() / s.batch; }

void forward(float* y, const float* x, const float* w, const float* bias, const ConvShape& s) {
    parallel_dynamic(s.batch, [&](int64_t image) {
        float* const target = y + image * y_image(s);
        for (int64_t e = 0; e < y_image(s); ++e) target[e] = bias ? bias[e % s.out] : 0;
        for (int64_t tap = 0; tap < taps(s); ++tap)
            for_each_pair(s, tap, [&](int64_t out_pixel, int64_t in_pixel) {
                const float *values = x + image * x_image(s) + in_pixel * s.in, *weights = w + tap * s.in * s.out;
                float* const sums = target + out_pixel * s.out;
                for (int64_t i = 0; i < s.in; ++i)
#pragma omp simd
                    for (int64_t o = 0; o < s.out; ++o) sums[o] += values[i] * weights[i * s.out + o];
            });
    });
}

void backward_input(float* dx, const float* dy, const float* w, const ConvShape& s) {
    parallel_dynamic(s.batch, [&](int64_t image) {
        float* const target = dx + image * x_image(s);
        for (int64_t e = 0; e < x_image(s); ++e) target[e] = 0;
        for (int64_t tap = 0; tap < taps(s); ++tap)
            for_each_pair(s, tap, [&](int64_t out_pixel, int64_t in_pixel) {
                const float *upstream = dy + image * y_image(s) + out_pixel * s.out, *weights = w + tap * s.in * s.out;
                for (int64_t i = 0; i < s.in; ++i) {
                    float sum = 0;
#pragma omp simd reduction(+ : sum)
                    for (int64_t o = 0; o < s.out; ++o) sum += upstream[o] * weights[i * s.out + o];
                    target[in_pixel * s.in + i] += sum;
                }
            });
    });
}

// Each tap has one owner, which adds the images in order: the result does not depend on the number of threads.
void backward_weight(float* dw, const float* x, const float* dy, const ConvShape& s) {
    parallel_dynamic(taps(s), [&](int64_t tap) {
        float* const target = dw + tap * s.in * s.out;
        for (int64_t e = 0; e < s.in * s.out; ++e) target[e] = 0;
        for (int64_t image = 0; image < s.batch; ++image)
            for_each_pair(s, tap, [&](int64_t out_pixel, int64_t in_pixel) {
                const float* const values = x + image * x_image(s) + in_pixel * s.in;
                const float* const upstream = dy + image * y_image(s) + out_pixel * s.out;
                for (int64_t i = 0; i < s.in; ++i)
#pragma omp simd
                    for (int64_t o = 0; o < s.out; ++o) target[i * s.out + o] += values[i] * upstream[o];
            });
    });
}

// ---- what goes with a convolution: a ReLU before it, average pooling and a residual after it ----

ConvShape without_pool(ConvShape s) {
    s.pool = false;
    return s;
}

// x, or max(x, 0) where the convolution is of that.
const float* convolved_input(const float* x, const ConvShape& s) {
    if (!s.relu) return x;
    float* const positive = workspace<0>(s.x_size());
    leaky_relu(positive, x, 0, s.x_size());
    return positive;
}

// dy as it is before the pooling.
const float* unpooled(const float* dy, const ConvShape& s) {
    if (!s.pool) return dy;
    const ConvShape full = without_pool(s);
    float* const before = workspace<1>(full.y_size());
    avg_pool2_backward(before, dy, s.batch, full.out_height(), full.out_width(), s.out);
    return before;
}

}  // namespace

void conv2d(float* y, const float* x, const float* w, const float* bias, const float* residual, ConvShape s) {
    const ConvShape full = without_pool(s);
    float* const before = s.pool ? workspace<1>(full.y_size()) : y;
    forward(before, convolved_input(x, s), w, bias, full);
    if (s.pool) avg_pool2(y, before, s.batch, full.out_height(), full.out_width(), s.out);
    if (residual) add(y, y, residual, s.y_size());
}

void conv2d_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                           ConvShape s) {
    float* const own = residual ? workspace<2>(s.x_size()) : dx;  // the residual may be dx itself
    backward_input(own, unpooled(dy, s), w, without_pool(s));
    if (s.relu) leaky_relu_backward(own, x, own, 0, s.x_size());
    if (residual) add(dx, own, residual, s.x_size());
}

void conv2d_backward_weight(float* dw, const float* x, const float* dy, ConvShape s) {
    backward_weight(dw, convolved_input(x, s), unpooled(dy, s), without_pool(s));
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
