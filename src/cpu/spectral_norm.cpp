// Spectral normalisation: power iteration by matrix-vector products, W / σ, and the gradient.
#include "launch.h"

#include <algorithm>

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

// y = A x, A (rows, columns).
void matvec(real* y, const real* a, const real* x, int64_t rows, int64_t columns) {
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_threshold * 4)
    for (int64_t row = 0; row < rows; ++row) {
        real total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t c = 0; c < columns; ++c) total += a[row * columns + c] * x[c];
        y[row] = total;
    }
}

// y = Aᵀ x.
void matvec_transposed(real* y, const real* a, const real* x, int64_t rows, int64_t columns) {
    constexpr int64_t strip = 64;  // columns per task, which adds the rows in order
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_threshold * 4)
    for (int64_t first = 0; first < columns; first += strip) {
        const int64_t count = std::min(strip, columns - first);
        real total[strip] = {};
        for (int64_t row = 0; row < rows; ++row)
#pragma omp simd
            for (int64_t c = 0; c < count; ++c) total[c] += a[row * columns + first + c] * x[row];
        std::copy(total, total + count, y + first);
    }
}

}  // namespace

void normalize_l2(real* y, real epsilon, int64_t n) {
    real squares;
    dot(&squares, y, y, n);
    scale(y, y, 1 / std::max(std::sqrt(squares), epsilon), n);
}

void spectral_norms(const SpectralWeight* weights, int64_t count, real epsilon) {
    for (const SpectralWeight* s = weights; s != weights + count; ++s) {
        real* product = workspace<0>(s->columns);  // Wᵀv: σ = <u, Wᵀv> with the new u
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

void spectral_norm_backward(real* dw, const real* y, const real* sigma, const real* u, const real* v, const real* dy,
                            int64_t rows, int64_t columns) {
    real inner;
    dot(&inner, dy, y, rows * columns);
    const real inverse = 1 / sigma[0];
    parallel_for_rows(rows, columns, [=] DEVICE(int64_t row) {
        const real* upstream = dy + row * columns;
        const real along = inner * v[row];
        real* target = dw + row * columns;
        return [=](int64_t c) { target[c] = (upstream[c] - along * u[c]) * inverse; };
    });
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
