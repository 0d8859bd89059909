// Spectral normalisation: matrix-vector products and what it needs around them. (Matrix products proper are 1×1 convolutions: conv.cu.)
#include "launch.h"

#include <algorithm>

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

// y = A x, A (rows, columns).
void matvec(float* y, const float* a, const float* x, int64_t rows, int64_t columns) {
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_threshold * 4)
    for (int64_t row = 0; row < rows; ++row) {
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t c = 0; c < columns; ++c) total += a[row * columns + c] * x[c];
        y[row] = total;
    }
}

// y = Aᵀ x.
void matvec_transposed(float* y, const float* a, const float* x, int64_t rows, int64_t columns) {
    constexpr int64_t strip = 64;  // columns of one task: each output has one owner, which adds the rows in order
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_threshold * 4)
    for (int64_t first = 0; first < columns; first += strip) {
        const int64_t count = std::min(strip, columns - first);
        float total[strip] = {};
        for (int64_t row = 0; row < rows; ++row)
#pragma omp simd
            for (int64_t c = 0; c < count; ++c) total[c] += a[row * columns + first + c] * x[row];
        std::copy(total, total + count, y + first);
    }
}

}  // namespace

void normalise(float* y, float epsilon, int64_t n) {
    float squares;
    dot(&squares, y, y, n);
    scale(y, y, 1 / std::max(std::sqrt(squares), epsilon), n);
}

void spectral_norm(float* y, float* sigma, float* u, float* v, const float* w, float epsilon, int64_t rows, int64_t columns) {
    float* product = scratch<0>(columns);  // Wᵀv: σ = <u, Wᵀv> with the new u
    matvec(v, w, u, rows, columns);
    normalise(v, epsilon, rows);
    matvec_transposed(product, w, v, rows, columns);
    copy(u, product, columns);
    normalise(u, epsilon, columns);
    dot(sigma, u, product, columns);
    parallel_for(rows * columns, [=](int64_t i) { y[i] = w[i] / sigma[0]; });
}

void spectral_norm_backward(float* dw, const float* y, const float* sigma, const float* u, const float* v, const float* dy,
                            int64_t rows, int64_t columns) {
    float inner;
    dot(&inner, dy, y, rows * columns);
    const float inverse = 1 / sigma[0];
    parallel_for_rows(rows, columns, [=] KERNEL(int64_t row) {
        const float* upstream = dy + row * columns;
        const float along = inner * v[row];
        float* target = dw + row * columns;
        return [=](int64_t c) { target[c] = (upstream[c] - along * u[c]) * inverse; };
    });
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
