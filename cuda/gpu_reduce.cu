// Reductions on the GPU: scalars, column statistics, matrix-vector products. Deterministic: the data is cut into parts whose number and
// bounds depend on its size alone; a block sums its part in a fixed order, and a second kernel the parts. Scalars stay on the device.
#include "gpu.h"

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

// ---- one number -----------------------------------------------------------------------------------------------------------------

// Σ value over the block's threads (a multiple of 16, at most block_size), the same in each of them.
__device__ double block_sum(double value) {
    __shared__ double values[block_size], strips[16];
    values[threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.x < 16) {
        double strip = 0;
        for (unsigned i = threadIdx.x; i < blockDim.x; i += 16) strip += values[i];
        strips[threadIdx.x] = strip;
    }
    __syncthreads();
    double total = 0;
    for (const double strip : strips) total += strip;
    return total;
}

// partial[part] = Σ term(i) over the part's `length` indices.
template <class Term>
__global__ void sum_parts(double* partial, int64_t n, int64_t length, Term term) {
    const int64_t begin = blockIdx.x * length, end = begin + length < n ? begin + length : n;
    double total = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) total += double(term(i));
    total = block_sum(total);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// finish(Σ partial).
template <class Finish>
__global__ void sum_partials(const double* partial, unsigned parts, Finish finish) {
    double total = 0;
    for (unsigned i = threadIdx.x; i < parts; i += blockDim.x) total += partial[i];
    total = block_sum(total);
    if (threadIdx.x == 0) finish(total);
}

template <class Term, class Finish>
void sum_terms(int64_t n, Term term, Finish finish) {
    const int64_t length = std::max<int64_t>(4096, (n + block_size - 1) / block_size);
    const unsigned parts = blocks_for(n, length);
    double* partial = scratch<double>(partial_slot, block_size);
    launch(parts, block_size, sum_parts<Term>, partial, n, length, term);
    launch(1, block_size, sum_partials<Finish>, partial, parts, finish);
}

// ---- one number a column ----------------------------------------------------------------------------------------------------------

constexpr int64_t max_parts = 64;
constexpr unsigned strip_columns = 32, strip_rows = 8;  // a block's threads

// A part's sums of the `count` terms that term(row, column, total) adds: partial (parts, count, columns).
template <int count, class Term>
__global__ void column_parts(double* partial, int64_t rows, int64_t columns, int64_t length, Term term) {
    __shared__ double lanes[strip_rows][strip_columns][count];
    const int64_t column = int64_t(blockIdx.x) * strip_columns + threadIdx.x;
    const int64_t begin = blockIdx.y * length, end = begin + length < rows ? begin + length : rows;
    float total[count] = {};
    if (column < columns)
        for (int64_t row = begin + threadIdx.y; row < end; row += strip_rows) term(row, column, total);
    for (int k = 0; k < count; ++k) lanes[threadIdx.y][threadIdx.x][k] = double(total[k]);
    __syncthreads();
    if (threadIdx.y > 0 || column >= columns) return;
    for (int k = 0; k < count; ++k) {
        double sum = 0;
        for (unsigned lane = 0; lane < strip_rows; ++lane) sum += lanes[lane][threadIdx.x][k];
        partial[(blockIdx.y * count + k) * columns + column] = sum;
    }
}

// finish(column, totals) with the `count` totals of each column.
template <int count, class Term, class Finish>
void sum_columns(int64_t rows, int64_t columns, Term term, Finish finish) {
    const int64_t length = std::max<int64_t>(64, (rows + max_parts - 1) / max_parts);
    const unsigned parts = blocks_for(rows, length);
    double* partial = scratch<double>(partial_slot, parts * count * columns);
    launch({blocks_for(columns, strip_columns), parts}, {strip_columns, strip_rows}, column_parts<count, Term>, partial, rows, columns,
           length, term);
    parallel_for(columns, [=] KERNEL(int64_t column) {
        double totals[count] = {};
        for (unsigned part = 0; part < parts; ++part)
            for (int k = 0; k < count; ++k) totals[k] += partial[(part * count + k) * columns + column];
        finish(column, totals);
    });
}

}  // namespace

void sum(float* scalar, const float* x, float factor, int64_t n) {
    sum_terms(n, [=] KERNEL(int64_t i) { return x[i]; }, [=] KERNEL(double total) { scalar[0] = float(double(factor) * total); });
}

void dot(float* scalar, const float* a, const float* b, int64_t n) {
    sum_terms(n, [=] KERNEL(int64_t i) { return a[i] * b[i]; }, [=] KERNEL(double total) { scalar[0] = float(total); });
}

void squared_error(float* scalar, const float* a, const float* b, float factor, int64_t n) {
    sum_terms(n, [=] KERNEL(int64_t i) { return (a[i] - b[i]) * (a[i] - b[i]); },
              [=] KERNEL(double total) { scalar[0] = float(double(factor) * total); });
}

void gaussian_nll(float* scalar, const float* z, const float* mu, const float* logvar, float factor, int64_t n) {
    sum_terms(n, [=] KERNEL(int64_t i) {
        const float difference = z[i] - mu[i];
        return logvar[i] + difference * difference / (1e-6f + expf(logvar[i]));
    }, [=] KERNEL(double total) { scalar[0] = float(0.5 * double(factor) * total); });
}

void column_sum(float* y, const float* x, int64_t rows, int64_t columns) {
    sum_columns<1>(rows, columns, [=] KERNEL(int64_t row, int64_t c, float* total) { total[0] += x[row * columns + c]; },
                   [=] KERNEL(int64_t c, const double* totals) { y[c] = float(totals[0]); });
}

// ---- batch normalisation ----------------------------------------------------------------------------------------------------------

void batch_statistics(float* mean, float* rstd, float* running_mean, float* running_var, const float* x, float epsilon, float momentum,
                      int64_t rows, int64_t columns) {
    sum_columns<1>(rows, columns, [=] KERNEL(int64_t row, int64_t c, float* total) { total[0] += x[row * columns + c]; },
                   [=] KERNEL(int64_t c, const double* totals) { mean[c] = float(totals[0] / double(rows)); });
    sum_columns<1>(rows, columns, [=] KERNEL(int64_t row, int64_t c, float* total) {
        const float difference = x[row * columns + c] - mean[c];
        total[0] += difference * difference;
    }, [=] KERNEL(int64_t c, const double* totals) {
        rstd[c] = float(1 / sqrt(totals[0] / double(rows) + double(epsilon)));
        // The running variance is the unbiased one, as in PyTorch.
        running_mean[c] += momentum * (mean[c] - running_mean[c]);
        running_var[c] += momentum * (float(totals[0] / double(rows > 1 ? rows - 1 : 1)) - running_var[c]);
    });
}

// The LeakyReLU's input is computed again from x.
void batch_norm_sums(float* dweight, float* dbias, const float* mean, const float* rstd, const float* x, const float* weight,
                     const float* bias, const float* dy, float slope, int64_t rows, int64_t columns) {
    sum_columns<2>(rows, columns, [=] KERNEL(int64_t row, int64_t c, float* total) {
        const float centred = x[row * columns + c] - mean[c];
        const float gradient = (centred * (rstd[c] * weight[c]) + bias[c] > 0 ? 1 : slope) * dy[row * columns + c];
        total[0] += gradient;
        total[1] += gradient * centred;
    }, [=] KERNEL(int64_t c, const double* totals) {
        dbias[c] = float(totals[0]);
        dweight[c] = float(totals[1] * double(rstd[c]));
    });
}

// ---- matrix-vector products and spectral normalisation ------------------------------------------------------------------------------

namespace {

// y[row] = <row of A, x>, a block each.
__global__ void row_products(float* y, const float* a, const float* x, int64_t columns) {
    const float* row = a + blockIdx.x * columns;
    float total = 0;
    for (int64_t c = threadIdx.x; c < columns; c += blockDim.x) total += row[c] * x[c];
    const double product = block_sum(double(total));
    if (threadIdx.x == 0) y[blockIdx.x] = float(product);
}

// y = x / max(‖x‖, ε), by one block; y may be x. And <y, x>, unless `inner` is null.
__global__ void normalise_vector(float* y, float* inner, const float* x, float epsilon, int64_t n) {
    double squares = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) squares += double(x[i] * x[i]);
    squares = block_sum(squares);
    const float norm = sqrtf(float(squares)), inverse = 1 / (norm > epsilon ? norm : epsilon);
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i] * inverse;
    if (inner && threadIdx.x == 0) *inner = float(squares * double(inverse));
}

}  // namespace

void normalise(float* y, float epsilon, int64_t n) { launch(1, block_size, normalise_vector, y, nullptr, y, epsilon, n); }

void spectral_norm(float* y, float* sigma, float* u, float* v, const float* w, float epsilon, int64_t rows, int64_t columns) {
    float* product = scratch<float>(vector_slot, columns);  // Wᵀv
    launch(unsigned(rows), columns > 128 ? block_size : 64, row_products, v, w, u, columns);
    normalise(v, epsilon, rows);
    sum_columns<1>(rows, columns, [=] KERNEL(int64_t row, int64_t c, float* total) { total[0] += w[row * columns + c] * v[row]; },
                   [=] KERNEL(int64_t c, const double* totals) { product[c] = float(totals[0]); });
    launch(1, block_size, normalise_vector, u, sigma, product, epsilon, columns);
    parallel_for(rows * columns, [=] KERNEL(int64_t i) { y[i] = w[i] / sigma[0]; });
}

void spectral_norm_backward(float* dw, const float* y, const float* sigma, const float* u, const float* v, const float* dy,
                            int64_t rows, int64_t columns) {
    float* inner = scratch<float>(vector_slot, 1);
    dot(inner, dy, y, rows * columns);
    parallel_for_rows(rows, columns, [=] KERNEL(int64_t row) {
        const float* upstream = dy + row * columns;
        const float along = inner[0] * v[row], inverse = 1 / sigma[0];
        float* target = dw + row * columns;
        return [=](int64_t c) { target[c] = (upstream[c] - along * u[c]) * inverse; };
    });
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
