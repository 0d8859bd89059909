// Reductions to scalars and column statistics. They are deterministic: the data is cut into parts that depend on its
// size only, each part is summed in a fixed order, and the results are combined in order.
#include <algorithm>
#include <array>

#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE {

namespace {

constexpr int64_t max_parts = 64;

// Σ term(i) over 0 … n-1 in double precision.
template <class Term>
double sum_terms(int64_t n, Term term) {
    const int64_t length = std::max<int64_t>(4096, (n + max_parts - 1) / max_parts), parts = (n + length - 1) / length;
    double partial[max_parts] = {};
    parallel_dynamic(parts, [&](int64_t part) {
        double total = 0;
        const int64_t end = std::min(n, (part + 1) * length);
#pragma omp simd reduction(+ : total)
        for (int64_t i = part * length; i < end; ++i) total += double(term(i));
        partial[part] = total;
    });
    double total = 0;
    for (int64_t part = 0; part < parts; ++part) total += partial[part];
    return total;
}

struct RowParts {
    int64_t rows, length, count;
    explicit RowParts(int64_t rows_)
        : rows(rows_), length(std::max<int64_t>(64, (rows + max_parts - 1) / max_parts)),
          count((rows + length - 1) / length) {}
    int64_t begin(int64_t part) const { return part * length; }
    int64_t end(int64_t part) const { return std::min(rows, (part + 1) * length); }
};

// total[k][c] = Σ term(row, c)[k] over the rows [first, end). term<Values>(row, c) returns the terms of column c
// (real) or of `lanes` columns from c on (Vector). The sums stay in registers.
template <int count, class Term>
void sum_rows(const std::array<real*, count>& total, int64_t first, int64_t end, int64_t columns, Term term) {
    const auto sum = [=]<class Values, int width>(int64_t start) INLINE {
        constexpr int64_t step = sizeof(Values) / sizeof(real);
        Values sums[count][width] = {}, others[count][width] = {};  // even and odd rows: two chains of additions
        const auto add = [&](auto& to, int64_t row) INLINE {
            unroll<width>([&](auto w) INLINE {
                const std::array<Values, count> terms = term.template operator()<Values>(row, start + w * step);
                unroll<count>([&](auto k) INLINE { to[k][w] += terms[k]; });
            });
        };
        int64_t row = first;
        for (; row + 1 < end; row += 2) {
            add(sums, row);
            add(others, row + 1);
        }
        if (row < end) add(sums, row);
        for (int k = 0; k < count; ++k)
            for (int w = 0; w < width; ++w) store(total[k] + start + w * step, sums[k][w] + others[k][w]);
    };
    int64_t start = 0;
    for (; start + 2 * lanes <= columns; start += 2 * lanes) sum.template operator()<Vector, 2>(start);
    for (; start + lanes <= columns; start += lanes) sum.template operator()<Vector, 1>(start);
    for (; start < columns; ++start) sum.template operator()<real, 1>(start);
}

}  // namespace

void sum(real* scalar, const real* x, real factor, int64_t n) {
    scalar[0] = real(double(factor) * sum_terms(n, [=](int64_t i) { return x[i]; }));
}

void dot(real* scalar, const real* a, const real* b, int64_t n) {
    scalar[0] = real(sum_terms(n, [=](int64_t i) { return a[i] * b[i]; }));
}

void squared_error(real* scalar, const real* a, const real* b, real factor, int64_t n) {
    scalar[0] = real(double(factor) * sum_terms(n, [=](int64_t i) { return (a[i] - b[i]) * (a[i] - b[i]); }));
}

void gaussian_nll(real* scalar, const real* z, const real* mu, const real* logvar, real factor, int64_t n) {
    scalar[0] = real(0.5 * double(factor) * sum_terms(n, [=](int64_t i) {
                         const real difference = z[i] - mu[i];
                         return logvar[i] + difference * difference / (real(1e-6) + std::exp(logvar[i]));
                     }));
}

void column_sum(real* y, const real* x, int64_t rows, int64_t columns) {
    const RowParts parts(rows);
    real* partial = workspace<0>(parts.count * columns);
    parallel_dynamic(parts.count, [&, partial](int64_t part) {
        sum_rows<1>({partial + part * columns}, parts.begin(part), parts.end(part), columns,
                    [=]<class T>(int64_t row, int64_t c) INLINE { return std::array{at<T>(x + row * columns + c)}; });
    });
    for (int64_t c = 0; c < columns; ++c) {
        double total = 0;
        for (int64_t part = 0; part < parts.count; ++part) total += double(partial[part * columns + c]);
        y[c] = real(total);
    }
}

// Each part computes its mean and then its squared deviations while it is in the cache, so that the data is read from
// memory once. Chan's formula combines the parts.
void batch_statistics(real* mean, real* rstd, real* running_mean, real* running_var, const real* x, real epsilon,
                      real momentum, int64_t rows, int64_t columns) {
    const RowParts parts(rows);
    real* partial = workspace<0>(parts.count * 2 * columns);
    parallel_dynamic(parts.count, [&, partial](int64_t part) {
        real *average = partial + part * 2 * columns, *deviation = average + columns;
        const real inverse = 1.0f / real(parts.end(part) - parts.begin(part));
        sum_rows<1>({average}, parts.begin(part), parts.end(part), columns,
                    [=]<class T>(int64_t row, int64_t c) INLINE { return std::array{at<T>(x + row * columns + c)}; });
        for (int64_t c = 0; c < columns; ++c) average[c] *= inverse;
        sum_rows<1>({deviation}, parts.begin(part), parts.end(part), columns,
                    [=]<class T>(int64_t row, int64_t c) INLINE {
                        const T difference = at<T>(x + row * columns + c) - at<T>(average + c);
                        return std::array{difference * difference};
                    });
    });
    for (int64_t c = 0; c < columns; ++c) {
        double average = 0, deviation = 0, count = 0;
        for (int64_t part = 0; part < parts.count; ++part) {
            const double size = double(parts.end(part) - parts.begin(part)),
                         shift = double(partial[part * 2 * columns + c]) - average;
            average += shift * size / (count + size);
            deviation += double(partial[(part * 2 + 1) * columns + c]) + shift * shift * count * size / (count + size);
            count += size;
        }
        mean[c] = real(average);
        rstd[c] = real(1 / std::sqrt(deviation / count + double(epsilon)));
        // As in PyTorch, the running variance is the unbiased one.
        running_mean[c] += momentum * (real(average) - running_mean[c]);
        running_var[c] += momentum * (real(deviation / std::max(count - 1, 1.0)) - running_var[c]);
    }
}

// The LeakyReLU's input is recomputed from x.
void batch_norm_backward_reduce(real* dweight, real* dbias, const real* mean, const real* rstd, const real* x,
                                const real* weight, const real* bias, const real* dy, real slope, int64_t rows,
                                int64_t columns) {
    const RowParts parts(rows);
    real* partial = workspace<0>(parts.count * 2 * columns);
    parallel_dynamic(parts.count, [=](int64_t part) {
        real* total = partial + part * 2 * columns;
        sum_rows<2>({total, total + columns}, parts.begin(part), parts.end(part), columns,
                    [=]<class T>(int64_t row, int64_t c) INLINE {
                        const T centred = at<T>(x + row * columns + c) - at<T>(mean + c),
                                upstream = at<T>(dy + row * columns + c);
                        const T gradient = centred * (at<T>(rstd + c) * at<T>(weight + c)) + at<T>(bias + c) > 0
                                               ? upstream
                                               : slope * upstream;
                        return std::array{gradient, gradient * centred};
                    });
    });
    for (int64_t c = 0; c < columns; ++c) {
        double total = 0, product = 0;
        for (int64_t part = 0; part < parts.count; ++part) {
            total += double(partial[part * 2 * columns + c]);
            product += double(partial[(part * 2 + 1) * columns + c]);
        }
        dbias[c] = real(total);
        dweight[c] = real(product * double(rstd[c]));
    }
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
