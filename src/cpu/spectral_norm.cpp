// Spectral normalisation: power iteration by matrix-vector products, W / σ, and the gradient.
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
    constexpr int64_t strip = 64;  // columns per task, which adds the rows in order
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

void normalize_l2(float* y, float epsilon, int64_t n) {
    float squares;
    dot(&squares, y, y, n);
    scale(y, y, 1 / std::max(std::sqrt(squares), epsilon), n);
}

void spectral_norms(const SpectralWeight* weights, int64_t count, float epsilon) {
    for (const SpectralWeight* s = weights; s != weights + count; ++s) {
        float* product = workspace<0>(s->columns);  // Wᵀv: σ = <u, Wᵀv> with the new u
        matvec(s->v, s->w, s->u, s->rows, s->columns);
        normalize_l2(s->v, epsilon, s->rows);
        matvec_transposed(product, s->w, s->v, s->rows, s->columns);
        copy(s->u, product, s->columns);
        normalize_l2(s->u, epsilon, s->columns);
        dot(s->sigma, s->u, product, s->columns);
        parallel_for(s->rows * s->columns,
                     [y = s->y, w = s->w, sigma = s->sigma](int64_t i) { y[i] = w[i] / sigma[0]; });
    }
}

void spectral_norm_backward(float* dw, const float* y, const float* sigma, const float* u, const float* v,
                            const float* dy, int64_t rows, int64_t columns) {
    float inner;
    dot(&inner, dy, y, rows * columns);
    const float inverse = 1 / sigma[0];
    parallel_for_rows(rows, columns, [=] DEVICE(int64_t row) {
        const float* upstream = dy + row * columns;
        const float along = inner * v[row];
        float* target = dw + row * columns;
        return [=](int64_t c) { target[c] = (upstream[c] - along * u[c]) * inverse; };
    });
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
