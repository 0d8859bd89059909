// Reductions on the GPU: scalars, column statistics, matrix-vector products. Deterministic: the data is divided into
// parts that depend on its size alone; a thread block sums each part in a fixed order, and a second kernel sums the
// parts' totals. Scalars stay on the device.
#include "gpu/gpu.h"

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

// ---- scalars ------------------------------------------------------------------------------------

// Σ value over the block's threads (a multiple of 16); all of them get the same total.
constexpr unsigned max_block_size = 1024;
__device__ double block_sum(double value) {
    __shared__ double values[max_block_size], strips[16];
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

// partial[part] = Σ term(i) over the `length` indices of each part, one thread block a part.
template <class Term>
__global__ void sum_parts(double* partial, int64_t n, int64_t length, Term term) {
    const int64_t begin = blockIdx.x * length, end = begin + length < n ? begin + length : n;
    double total = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) total += double(term(i));
    total = block_sum(total);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// Calls finish(Σ partial) on one thread.
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
    double* partial = workspace<double>(partial_slot, block_size);
    launch(parts, block_size, sum_parts<Term>, partial, n, length, term);
    launch(1, block_size, sum_partials<Finish>, partial, parts, finish);
}

// ---- columns ------------------------------------------------------------------------------------

constexpr int64_t max_parts = 64;
__host__ __device__ inline int64_t rows_per_part(int64_t rows) {
    return rows > 64 * max_parts ? (rows + max_parts - 1) / max_parts : 64;
}
constexpr unsigned strip_columns = 32, strip_rows = 8;  // a thread block's shape

// term(row, column, total) adds a row's `count` terms to total. Writes each part's sums: partial (parts, count,
// columns).
template <int count, class Term>
__global__ void column_parts(double* partial, int64_t rows, int64_t columns, int64_t length, Term term) {
    __shared__ double partials[strip_rows][strip_columns][count];
    const int64_t column = int64_t(blockIdx.x) * strip_columns + threadIdx.x;
    const int64_t begin = blockIdx.y * length, end = begin + length < rows ? begin + length : rows;
    float total[count] = {};
    if (column < columns)
        for (int64_t row = begin + threadIdx.y; row < end; row += strip_rows) term(row, column, total);
    for (int k = 0; k < count; ++k) partials[threadIdx.y][threadIdx.x][k] = double(total[k]);
    __syncthreads();
    if (threadIdx.y > 0 || column >= columns) return;
    for (int k = 0; k < count; ++k) {
        double sum = 0;
        for (unsigned lane = 0; lane < strip_rows; ++lane) sum += partials[lane][threadIdx.x][k];
        partial[(blockIdx.y * count + k) * columns + column] = sum;
    }
}

// Calls finish(column, totals) with the `count` totals of each column.
template <int count, class Term, class Finish>
void sum_columns(int64_t rows, int64_t columns, Term term, Finish finish) {
    const int64_t length = rows_per_part(rows);
    const unsigned parts = blocks_for(rows, length);
    double* partial = workspace<double>(partial_slot, parts * count * columns);
    launch({blocks_for(columns, strip_columns), parts}, {strip_columns, strip_rows}, column_parts<count, Term>, partial,
           rows, columns, length, term);
    parallel_for(columns, [=] DEVICE(int64_t column) {
        double totals[count] = {};
        for (unsigned part = 0; part < parts; ++part)
            for (int k = 0; k < count; ++k) totals[k] += partial[(part * count + k) * columns + column];
        finish(column, totals);
    });
}

}  // namespace

void sum(float* scalar, const float* x, float factor, int64_t n) {
    sum_terms(
        n, [=] DEVICE(int64_t i) { return x[i]; },
        [=] DEVICE(double total) { scalar[0] = float(double(factor) * total); });
}

void dot(float* scalar, const float* a, const float* b, int64_t n) {
    sum_terms(
        n, [=] DEVICE(int64_t i) { return a[i] * b[i]; }, [=] DEVICE(double total) { scalar[0] = float(total); });
}

void squared_error(float* scalar, const float* a, const float* b, float factor, int64_t n) {
    sum_terms(
        n, [=] DEVICE(int64_t i) { return (a[i] - b[i]) * (a[i] - b[i]); },
        [=] DEVICE(double total) { scalar[0] = float(double(factor) * total); });
}

void gaussian_nll(float* scalar, const float* z, const float* mu, const float* logvar, float factor, int64_t n) {
    sum_terms(
        n,
        [=] DEVICE(int64_t i) {
            const float difference = z[i] - mu[i];
            return logvar[i] + difference * difference / (1e-6f + expf(logvar[i]));
        },
        [=] DEVICE(double total) { scalar[0] = float(0.5 * double(factor) * total); });
}

void column_sum(float* y, const float* x, int64_t rows, int64_t columns) {
    sum_columns<1>(
        rows, columns, [=] DEVICE(int64_t row, int64_t c, float* total) { total[0] += x[row * columns + c]; },
        [=] DEVICE(int64_t c, const double* totals) { y[c] = float(totals[0]); });
}

// ---- batch normalisation ------------------------------------------------------------------------

// Shifted by the column's first value, so that one pass gives both sums without cancellation where the mean is large.
void batch_statistics(float* mean, float* rstd, float* running_mean, float* running_var, const float* x, float epsilon,
                      float momentum, int64_t rows, int64_t columns) {
    sum_columns<2>(
        rows, columns,
        [=] DEVICE(int64_t row, int64_t c, float* total) {
            const float difference = x[row * columns + c] - x[c];
            total[0] += difference;
            total[1] += difference * difference;
        },
        [=] DEVICE(int64_t c, const double* totals) {
            const double mean_shift = totals[0] / double(rows), squares = totals[1] - totals[0] * mean_shift,
                         sum_squares = squares > 0 ? squares : 0;
            mean[c] = float(double(x[c]) + mean_shift);
            rstd[c] = float(1 / sqrt(sum_squares / double(rows) + double(epsilon)));
            // The running variance is the unbiased one, as in PyTorch.
            running_mean[c] += momentum * (mean[c] - running_mean[c]);
            running_var[c] += momentum * (float(sum_squares / double(rows > 1 ? rows - 1 : 1)) - running_var[c]);
        });
}

// Recomputes the LeakyReLU's input from x.
void batch_norm_backward_reduce(float* dweight, float* dbias, const float* mean, const float* rstd, const float* x,
                                const float* weight, const float* bias, const float* dy, float slope, int64_t rows,
                                int64_t columns) {
    sum_columns<2>(
        rows, columns,
        [=] DEVICE(int64_t row, int64_t c, float* total) {
            const float centred = x[row * columns + c] - mean[c];
            const float gradient = (centred * (rstd[c] * weight[c]) + bias[c] > 0 ? 1 : slope) * dy[row * columns + c];
            total[0] += gradient;
            total[1] += gradient * centred;
        },
        [=] DEVICE(int64_t c, const double* totals) {
            dbias[c] = float(totals[0]);
            dweight[c] = float(totals[1] * double(rstd[c]));
        });
}

// ---- spectral normalisation ---------------------------------------------------------------------

namespace {

// y /= max(‖y‖, ε), by one thread block. Returns <new y, old y> to each thread.
__device__ double normalize_l2_block(float* y, float epsilon, int64_t n) {
    double squares = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) squares += double(y[i] * y[i]);
    squares = block_sum(squares);
    const float norm = sqrtf(float(squares)), inverse = 1 / (norm > epsilon ? norm : epsilon);
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) y[i] *= inverse;
    return squares * double(inverse);
}

__global__ void normalize_l2_kernel(float* y, float epsilon, int64_t n) { normalize_l2_block(y, epsilon, n); }

// Each step of the power iteration is one launch for all weights; blockIdx.y selects the weight.
constexpr int64_t max_weights = 16;
struct SpectralWeights {
    SpectralWeight items[max_weights];
    int64_t columns;  // of the widest
    double* partial;  // (weights, max_parts, columns): partial sums of Wᵀv
    DEVICE static int64_t parts(const SpectralWeight& s) {
        return (s.rows + rows_per_part(s.rows) - 1) / rows_per_part(s.rows);
    }
    DEVICE double* part(int64_t index, int64_t part_index) const {
        return partial + (index * max_parts + part_index) * columns;
    }
};

// v = W u, one warp per row.
__global__ void spectral_rows(const __grid_constant__ SpectralWeights weights) {
    __shared__ double partials[strip_rows][strip_columns + 1];
    const SpectralWeight& s = weights.items[blockIdx.y];
    const int64_t first = int64_t(blockIdx.x) * strip_rows, row = first + threadIdx.y;
    float total = 0;
    if (row < s.rows)
        for (int64_t c = threadIdx.x; c < s.columns; c += strip_columns) total += s.w[row * s.columns + c] * s.u[c];
    partials[threadIdx.y][threadIdx.x] = double(total);
    __syncthreads();
    if (threadIdx.y > 0 || threadIdx.x >= strip_rows || first + threadIdx.x >= s.rows) return;
    double sum = 0;
    for (unsigned lane = 0; lane < strip_columns; ++lane) sum += partials[threadIdx.x][lane];
    s.v[first + threadIdx.x] = float(sum);
}

__global__ void spectral_v(const __grid_constant__ SpectralWeights weights, float epsilon) {
    const SpectralWeight& s = weights.items[blockIdx.y];
    normalize_l2_block(s.v, epsilon, s.rows);
}

// Partial sums of Wᵀ v: each thread block takes a part of the rows and a strip of the columns.
__global__ void spectral_columns(const __grid_constant__ SpectralWeights weights) {
    __shared__ double partials[strip_rows][strip_columns];
    const int64_t weight = blockIdx.y / max_parts, part = blockIdx.y % max_parts;
    const SpectralWeight& s = weights.items[weight];
    const int64_t length = rows_per_part(s.rows), end = (part + 1) * length < s.rows ? (part + 1) * length : s.rows;
    const int64_t column = int64_t(blockIdx.x) * strip_columns + threadIdx.x;
    float total = 0;
    if (column < s.columns)
        for (int64_t row = part * length + threadIdx.y; row < end; row += strip_rows)
            total += s.w[row * s.columns + column] * s.v[row];
    partials[threadIdx.y][threadIdx.x] = double(total);
    __syncthreads();
    if (threadIdx.y > 0 || column >= s.columns || part >= weights.parts(s)) return;
    double sum = 0;
    for (unsigned lane = 0; lane < strip_rows; ++lane) sum += partials[lane][threadIdx.x];
    weights.part(weight, part)[column] = sum;
}

__global__ void spectral_u(const __grid_constant__ SpectralWeights weights, float epsilon) {
    const SpectralWeight& s = weights.items[blockIdx.y];
    const double* const partial = weights.part(blockIdx.y, 0);
    const int64_t parts = weights.parts(s);
    for (int64_t c = threadIdx.x; c < s.columns; c += blockDim.x) {
        double total = 0;
        for (int64_t part = 0; part < parts; ++part) total += partial[part * weights.columns + c];
        s.u[c] = float(total);
    }
    const double sigma = normalize_l2_block(s.u, epsilon, s.columns);
    if (threadIdx.x == 0) *s.sigma = float(sigma);
}

__global__ void spectral_quotient(const __grid_constant__ SpectralWeights weights) {
    const SpectralWeight& s = weights.items[blockIdx.y];
    const int64_t n = s.rows * s.columns, step = int64_t(gridDim.x) * blockDim.x;
    const float sigma = *s.sigma;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) s.y[i] = s.w[i] / sigma;
}

}  // namespace

void normalize_l2(float* y, float epsilon, int64_t n) { launch(1, block_size, normalize_l2_kernel, y, epsilon, n); }

void spectral_norms(const SpectralWeight* all, int64_t count, float epsilon) {
    if (count > max_weights) {
        spectral_norms(all, max_weights, epsilon);
        return spectral_norms(all + max_weights, count - max_weights, epsilon);
    }
    if (count == 0) return;
    SpectralWeights weights{};
    int64_t rows = 0, max_size = 0;
    for (int64_t i = 0; i < count; ++i) {
        weights.items[i] = all[i];
        rows = std::max(rows, all[i].rows);
        weights.columns = std::max(weights.columns, all[i].columns);
        max_size = std::max(max_size, all[i].rows * all[i].columns);
    }
    weights.partial = workspace<double>(partial_slot, count * max_parts * weights.columns);
    const unsigned each = unsigned(count);
    launch({blocks_for(rows, strip_rows), each}, {strip_columns, strip_rows}, spectral_rows, weights);
    launch({1, each}, max_block_size, spectral_v, weights, epsilon);
    launch({blocks_for(weights.columns, strip_columns), each * unsigned(max_parts)}, {strip_columns, strip_rows},
           spectral_columns, weights);
    launch({1, each}, max_block_size, spectral_u, weights, epsilon);
    launch({std::min(256u, blocks_for(max_size, block_size)), each}, block_size, spectral_quotient, weights);
}

void spectral_norm_backward(float* dw, const float* y, const float* sigma, const float* u, const float* v,
                            const float* dy, int64_t rows, int64_t columns) {
    float* dy_dot_y = workspace<float>(vector_slot, 1);
    dot(dy_dot_y, dy, y, rows * columns);
    parallel_for_rows(rows, columns, [=] DEVICE(int64_t row) {
        const float* upstream = dy + row * columns;
        const float projection = dy_dot_y[0] * v[row], inverse = 1 / sigma[0];
        float* target = dw + row * columns;
        return [=](int64_t c) { target[c] = (upstream[c] - projection * u[c]) * inverse; };
    });
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
