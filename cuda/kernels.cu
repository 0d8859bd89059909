// Kernels in which one index owns one output: pointwise functions, the updates of Adam and the Langevin chains, batch
// norm, pooling and upsampling, random fills. One body for all devices (launch.h); without atomics, so that results do
// not depend on the order of evaluation.
#include "random.cuh"

namespace dualmcmc::DEVICE_NAMESPACE {

// ---- pointwise ----------------------------------------------------------------------------------

void fill(real* y, real value, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = value; });
}

void add(real* y, const real* a, const real* b, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = a[i] + b[i]; });
}

void multiply(real* y, const real* a, const real* b, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = a[i] * b[i]; });
}

void scale(real* y, const real* x, real factor, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = factor * x[i]; });
}

void leaky_relu(real* y, const real* x, real slope, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = x[i] > 0 ? x[i] : slope * x[i]; });
}

void leaky_relu_backward(real* dx, const real* y, const real* dy, real slope, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { dx[i] = y[i] > 0 ? dy[i] : slope * dy[i]; });
}

void tanh(real* y, const real* x, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = tanh_vectorised(x[i]); });
}

void tanh_backward(real* dx, const real* y, const real* dy, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { dx[i] = dy[i] * (1 - y[i] * y[i]); });
}

void swish(real* y, const real* x, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = x[i] * sigmoid_vectorised(x[i]); });
}

void swish_backward(real* dx, const real* x, const real* dy, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) {
        const real s = sigmoid_vectorised(x[i]);
        dx[i] = dy[i] * s * (1 + x[i] * (1 - s));
    });
}

void exp(real* y, const real* x, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = std::exp(x[i]); });
}

void fill_from_scalar(real* y, const real* scalar, real factor, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = factor * scalar[0]; });
}

void scaled_difference(real* y, const real* a, const real* b, const real* scalar, real factor, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = factor * scalar[0] * (a[i] - b[i]); });
}

// ---- the encoder's distribution and the two updates ---------------------------------------------

void reparametrise(real* z, const real* mu, const real* logvar, const real* eps, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { z[i] = mu[i] + std::exp(0.5f * logvar[i]) * eps[i]; });
}

void reparametrise_backward(real* dlogvar, const real* logvar, const real* eps, const real* dz, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { dlogvar[i] = 0.5f * dz[i] * std::exp(0.5f * logvar[i]) * eps[i]; });
}

void gaussian_nll_backward(real* dmu, real* dlogvar, const real* z, const real* mu, const real* logvar,
                           const real* scalar, real factor, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) {
        const real variance = std::exp(logvar[i]), inverse = 1 / (real(1e-6) + variance), difference = z[i] - mu[i];
        const real upstream = factor * scalar[0];
        dmu[i] = -upstream * difference * inverse;
        dlogvar[i] = 0.5f * upstream * (1 - difference * difference * inverse * inverse * variance);
    });
}

void langevin_update(real* y, const real* x, const real* gradient, const real* noise, real half_step_sq, real noise_std,
                     int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = x[i] - half_step_sq * gradient[i] + noise_std * noise[i]; });
}

void ema_update(real* y, const real* x, real decay, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) { y[i] = decay * y[i] + (1 - decay) * x[i]; });
}

void sum_rows(real* y, const real* x, double factor, int64_t rows, int64_t n) {
    parallel_for(n, [=] DEVICE(int64_t i) {
        double total = 0;
        for (int64_t row = 0; row < rows; ++row) total += double(x[row * n + i]);
        y[i] = real(factor * total);
    });
}

void adam_update(real* w, real* m, real* v, const real* gradient, real corrected_lr, double beta1, double beta2,
                 real rsqrt_bias_correction2, real epsilon, real weight_decay, int64_t n) {
    const real decay1 = real(beta1), add1 = real(1 - beta1), decay2 = real(beta2), add2 = real(1 - beta2);
    parallel_for(n, [=] DEVICE(int64_t i) {
        const real g = gradient[i] + weight_decay * w[i];
        m[i] = decay1 * m[i] + add1 * g;
        v[i] = decay2 * v[i] + add2 * g * g;
        w[i] -= corrected_lr * m[i] / (std::sqrt(v[i]) * rsqrt_bias_correction2 + epsilon);
    });
}

void batch_norm(real* y, const real* x, const real* mean, const real* rstd, const real* weight, const real* bias,
                real slope, int64_t rows, int64_t columns) {
    parallel_for_columns(rows, columns, [=] DEVICE(auto type, int64_t c) {
        using T = decltype(type);
        const T average = at<T>(mean + c), factor = at<T>(rstd + c) * at<T>(weight + c), beta = at<T>(bias + c);
        return [=](int64_t row) {
            const int64_t i = row * columns + c;
            const T value = (at<T>(x + i) - average) * factor + beta;
            store(y + i, value > 0 ? value : slope * value);
        };
    });
}

// With g = dy back through the LeakyReLU and x̂ = (x - mean) rstd, over N rows,
// dx = weight rstd (g - Σ g / N - x̂ Σ g x̂ / N).
void batch_norm_backward_elemt(real* dx, const real* dweight, const real* dbias, const real* mean, const real* rstd,
                               const real* x, const real* weight, const real* bias, const real* dy, real slope,
                               int64_t rows, int64_t columns) {
    const real inverse = 1.0f / real(rows);
    parallel_for_columns(rows, columns, [=] DEVICE(auto type, int64_t c) {
        using T = decltype(type);
        const T average = at<T>(mean + c), factor = at<T>(rstd + c) * at<T>(weight + c), beta = at<T>(bias + c);
        // Σ g / N, and rstd Σ g x̂ / N
        const T mean_g = inverse * at<T>(dbias + c), mean_g_xhat = at<T>(rstd + c) * (inverse * at<T>(dweight + c));
        return [=](int64_t row) {
            const int64_t i = row * columns + c;
            const T centred = at<T>(x + i) - average, upstream = at<T>(dy + i);
            const T g = centred * factor + beta > 0 ? upstream : slope * upstream;
            store(dx + i, factor * (g - mean_g - centred * mean_g_xhat));
        };
    });
}

void batch_norm_inference(real* y, const real* x, const real* mean, const real* var, const real* weight,
                          const real* bias, real epsilon, int64_t rows, int64_t columns) {
    parallel_for_rows(rows, columns, [=] DEVICE(int64_t row) {
        const real* source = x + row * columns;
        real* target = y + row * columns;
        return [=](int64_t c) {
            const real value = (source[c] - mean[c]) / std::sqrt(var[c] + epsilon) * weight[c] + bias[c];
            target[c] = value <= 0 ? 0 : value;  // NaN stays NaN
        };
    });
}

void batch_norm_inference_backward(real* dx, const real* y, const real* dy, const real* var, const real* weight,
                                   real epsilon, int64_t rows, int64_t columns) {
    parallel_for_rows(rows, columns, [=] DEVICE(int64_t row) {
        const real *value = y + row * columns, *upstream = dy + row * columns;
        real* target = dx + row * columns;
        return
            [=](int64_t c) { target[c] = weight[c] / std::sqrt(var[c] + epsilon) * (value[c] <= 0 ? 0 : upstream[c]); };
    });
}

// ---- gathers over images ------------------------------------------------------------------------

// Rows count over the whole batch. Output row r reads the input rows 2r and 2r + 1, or r / 2, of the same image, so the
// pooling kernels need not split r into image and row.

void avg_pool2(real* y, const real* x, int64_t batch, int64_t height, int64_t width, int64_t channels) {
    const int64_t out_width = width / 2, line = width * channels;
    parallel_for_pixels(batch * (height / 2), out_width, channels, [=] DEVICE(int64_t row) {
        return [=](int64_t column) {
            const real* source = x + (row * 2 * width + column * 2) * channels;
            real* target = y + (row * out_width + column) * channels;
            return [=](int64_t c) {
                target[c] = 0.25f * (source[c] + source[c + channels] + source[c + line] + source[c + line + channels]);
            };
        };
    });
}

void avg_pool2_backward(real* dx, const real* dy, int64_t batch, int64_t height, int64_t width, int64_t channels) {
    parallel_for_pixels(batch * height, width, channels, [=] DEVICE(int64_t row) {
        return [=](int64_t column) {
            const real* source = dy + (row / 2 * (width / 2) + column / 2) * channels;
            real* target = dx + (row * width + column) * channels;
            return [=](int64_t c) { target[c] = 0.25f * source[c]; };
        };
    });
}

// Bilinear ×2 with align_corners: output i of 2n lies at input position i (n - 1) / (2n - 1) = i / 2 - i / (4n - 2).
// The last term is at most ½, so the integer part is (i - 1) / 2, rounded down, or 0 for i = 0. The fraction has a
// single rounding.
struct BilinearSource {
    int64_t floor;
    real fraction;
    DEVICE BilinearSource(int64_t i, int64_t n)
        : floor(i > 0 ? (i - 1) / 2 : 0), fraction(real(i * (n - 1) - floor * (2 * n - 1)) / real(2 * n - 1)) {}
};

void upsample2(real* y, const real* x, int64_t batch, int64_t height, int64_t width, int64_t channels) {
    parallel_for_pixels(batch * 2 * height, 2 * width, channels, [=] DEVICE(int64_t index) {
        const int64_t image = uint32_t(index) / uint32_t(2 * height);  // fewer than 2^32 rows
        const BilinearSource row(index - image * 2 * height, height);
        // The last row and column have no neighbour; their fraction is 0, so they read themselves.
        const real* above = x + (image * height + row.floor) * width * channels;
        const real* below = row.floor + 1 < height ? above + width * channels : above;
        return [=](int64_t index_in_row) {
            const BilinearSource column(index_in_row, width);
            const int64_t before = column.floor * channels,
                          after = column.floor + 1 < width ? before + channels : before;
            const real down = row.fraction, right = column.fraction;
            real* target = y + (index * 2 * width + index_in_row) * channels;
            return [=](int64_t c) {
                target[c] = (1 - down) * ((1 - right) * above[before + c] + right * above[after + c]) +
                            down * ((1 - right) * below[before + c] + right * below[after + c]);
            };
        };
    });
}

// The adjoint: input k contributes to the outputs 2k - 1 … 2k + 2 at most, to each with the weight
// max(0, 1 - |position - k|). Outputs beyond the edge have weight 0 and offset 0, which is safe to read.
struct BilinearAdjoint {
    real weight[4];
    int64_t offset[4];
    DEVICE BilinearAdjoint(int64_t k, int64_t n, int64_t stride) {
        for (int64_t j = 0; j < 4; ++j) {
            const int64_t i = 2 * k - 1 + j, distance = i * (n - 1) - k * (2 * n - 1),
                          magnitude = distance < 0 ? -distance : distance;
            const bool inside = i >= 0 && i < 2 * n;
            weight[j] = inside && magnitude < 2 * n - 1 ? 1 - real(magnitude) / real(2 * n - 1) : 0;
            offset[j] = (inside ? i : 0) * stride;
        }
    }
};

void upsample2_backward(real* dx, const real* dy, int64_t batch, int64_t height, int64_t width, int64_t channels) {
    parallel_for_pixels(batch * height, width, channels, [=] DEVICE(int64_t index) {
        const int64_t image = uint32_t(index) / uint32_t(height);  // fewer than 2^32 rows
        const BilinearAdjoint down(index - image * height, height, 2 * width * channels);
        const real* source = dy + image * 4 * height * width * channels;
        return [=](int64_t column) {
            const BilinearAdjoint right(column, width, channels);
            real* target = dx + (index * width + column) * channels;
            return [=](int64_t c) {
                real total = 0;
                for (int j = 0; j < 4; ++j) {
                    const real* line = source + down.offset[j] + c;
                    total += down.weight[j] *
                             (right.weight[0] * line[right.offset[0]] + right.weight[1] * line[right.offset[1]] +
                              right.weight[2] * line[right.offset[2]] + right.weight[3] * line[right.offset[3]]);
                }
                target[c] = total;
            };
        };
    });
}

void global_avg_pool(real* y, const real* x, int64_t batch, int64_t pixels, int64_t channels) {
    parallel_for_rows(batch, channels, [=] DEVICE(int64_t image) {
        const real* source = x + image * pixels * channels;
        real* target = y + image * channels;
        return [=](int64_t c) {
            real total = 0;
            for (int64_t pixel = 0; pixel < pixels; ++pixel) total += source[pixel * channels + c];
            target[c] = total / real(pixels);
        };
    });
}

void global_avg_pool_backward(real* dx, const real* dy, int64_t batch, int64_t pixels, int64_t channels) {
    parallel_for_rows(batch * pixels, channels, [=] DEVICE(int64_t pixel) {
        const real* source = dy + pixel / pixels * channels;
        real* target = dx + pixel * channels;
        return [=](int64_t c) { target[c] = source[c] / real(pixels); };
    });
}

// ---- random numbers -----------------------------------------------------------------------------

// Draws n values, four from each Philox block, philox_blocks blocks an index: value(word0, word1, a, b) turns two words
// into two values, and store(i, value) takes the i-th. `skipped` values of the first block precede key.first.
template <class Value, class Store>
void draw(RandomKey key, int64_t n, Value value, Store store) {
    constexpr int blocks = philox_blocks, size = 4 * blocks;
    const uint64_t first_block = key.first / 4;
    const int64_t skipped = int64_t(key.first % 4);
    parallel_for((n + skipped + size - 1) / size,
                 [=] DEVICE(int64_t index) {
                     const Philox4<blocks> random(key, first_block + uint64_t(index) * blocks);
                     real values[4][blocks];
#pragma omp simd
                     for (int i = 0; i < blocks; ++i) {
                         value(random.word[0][i], random.word[1][i], values[0][i], values[1][i]);
                         value(random.word[2][i], random.word[3][i], values[2][i], values[3][i]);
                     }
                     real ordered[size];
                     for (int i = 0; i < blocks; ++i)
                         for (int k = 0; k < 4; ++k) ordered[4 * i + k] = values[k][i];
                     const int64_t first = index * size - skipped;
                     if (first >= 0 && first + size <= n) {
#pragma omp simd
                         for (int i = 0; i < size; ++i) store(first + i, ordered[i]);
                     } else {
                         for (int i = 0; i < size; ++i)
                             if (first + i >= 0 && first + i < n) store(first + i, ordered[i]);
                     }
                 },
                 size);
}

struct Normal {
    DEVICE void operator()(uint32_t word0, uint32_t word1, real& a, real& b) const { box_muller(word0, word1, a, b); }
};

void normal(real* y, RandomKey key, int64_t n) {
    draw(key, n, Normal(), [=] DEVICE(int64_t i, real value) { y[i] = value; });
}

void langevin_update_normal(real* y, const real* x, const real* gradient, RandomKey key, real half_step_sq,
                            real noise_std, int64_t n) {
    draw(key, n, Normal(),
         [=] DEVICE(int64_t i, real value) { y[i] = x[i] - half_step_sq * gradient[i] + noise_std * value; });
}

void uniform(real* y, RandomKey key, real low, real high, int64_t n) {
    const auto to_range = [=] DEVICE(uint32_t word0, uint32_t word1, real & a, real & b) {
        a = low + (high - low) * to_uniform(word0);
        b = low + (high - low) * to_uniform(word1);
    };
    draw(key, n, to_range, [=] DEVICE(int64_t i, real value) { y[i] = value; });
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
