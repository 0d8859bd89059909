// Every kernel of the table against a loop in double precision or a closed form, on each backend that this machine
// supports.
//
// Each array lies between two guards of NaN, and outputs hold NaN before the call. So elements that are not written,
// writes out of bounds, and reads out of bounds that affect a result are all detected. Each call is made with 1, 2 and
// 3 threads and must give the same bits. (On the emulated GPU these are three orders in which its threads run.)
// Elsewhere are the values of random numbers (random_test.cpp) and gradients as derivatives (ops_test.cpp).
//
// Tolerances are bounds on rounding, in units u = 2^-24 (in double 2^-53), the largest relative error of one rounding:
// of a formula by a running error analysis, of a sum by the size of its partial sums (rounding.h). What a kernel reads
// from another's output is taken as it is.
#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <optional>

#include "compare.h"
#include "rounding.h"

namespace dualmcmc::test {
namespace {

class Kernel : public EachBackend {};
INSTANTIATE_TEST_SUITE_P(Cpu, Kernel, testing::ValuesIn(cpu_backends()), backend_name);
INSTANTIATE_TEST_SUITE_P(Gpu, Kernel, testing::ValuesIn(gpu_backends_of_all_precisions()), backend_name);

// One element, less than a vector, several vectors and a remainder, and enough for several threads.
constexpr int64_t sizes[] = {1, 3, 37, 20011};

constexpr real nan = std::numeric_limits<real>::quiet_NaN();

// An array on the device between two guards. Each array's guards hold a NaN with bits of their own, so that a NaN
// computed from another array's guard is not mistaken for them.
class Buffer {
public:
    Buffer(const Values& values) : n_(int64_t(values.size())), memory_(Shape{n_ + 2 * guard}) {
        static uint32_t serial = 0;
        mark_ = std::bit_cast<real>(std::bit_cast<Bits>(nan) + (++serial & 0xfffff));
        Values all(size_t(memory_.size()), mark_);
        std::copy(values.begin(), values.end(), all.begin() + guard);
        memory_.copy_from_host(all);
    }
    operator real*() const { return memory_.data() + guard; }

    Values read() const {
        const Values all = memory_.to_host();
        const auto marked = [this](real value) { return std::bit_cast<Bits>(value) == std::bit_cast<Bits>(mark_); };
        EXPECT_TRUE(std::all_of(all.begin(), all.begin() + guard, marked))
            << "a write before the first of " << n_ << " values";
        EXPECT_TRUE(std::all_of(all.end() - guard, all.end(), marked))
            << "a write beyond the last of " << n_ << " values";
        return {all.begin() + guard, all.end() - guard};
    }

private:
    using Bits = std::conditional_t<sizeof(real) == 4, uint32_t, uint64_t>;
    static constexpr int64_t guard = 64;
    int64_t n_;
    real mark_;
    Tensor memory_;
};

bool same_bits(const Values& a, const Values& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(real)) == 0);
}

// Runs call(arrays) on arrays that hold `before`, with 1, 2 and 3 threads, and returns their contents afterwards.
template <class Call>
std::vector<Values> run(const std::vector<Values>& before, Call call) {
    std::vector<Values> first;
    for (const int threads : {1, 2, 3}) {
        const WithThreads with(threads);
        const std::vector<Buffer> arrays(before.begin(), before.end());
        call(arrays);
        for (size_t k = 0; k < arrays.size(); ++k) {
            const Values after = arrays[k].read();
            if (threads == 1) first.push_back(after);
            else
                EXPECT_TRUE(same_bits(after, first[k]))
                    << "array " << k << " differs between 1 and " << threads << " threads";
        }
    }
    return first;
}

Values poison(int64_t n) { return Values(size_t(n), nan); }

// The n values that call(y) writes.
template <class Call>
Values output(int64_t n, Call call) {
    return run({poison(n)}, [&](const std::vector<Buffer>& arrays) { call(arrays[0]); })[0];
}

template <class Formula>
auto tabulate(int64_t n, Formula formula) {
    std::vector<decltype(formula(size_t(0)))> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i) values[i] = formula(i);
    return values;
}

using rounding::RandomSum;
using rounding::rounded;
using rounding::Running;

std::string count(int64_t n) { return std::to_string(n) + " values"; }

// ---- memory -------------------------------------------------------------------------------------

TEST_P(Kernel, copy) {
    for (const int64_t n : sizes) {
        const Values x = random_values(n, 1);
        EXPECT_EQ(output(n, [&](real* y) { backend().copy(y, Buffer(x), n); }), x);
    }
}

TEST_P(Kernel, upload) {
    for (const int64_t n : sizes) {
        const Values x = random_values(n, 1);
        EXPECT_EQ(output(n, [&](real* y) { backend().upload(y, x.data(), n); }), x);
    }
}

TEST_P(Kernel, download) {
    for (const int64_t n : sizes) {
        const Values x = random_values(n, 1);
        Values host = poison(n + 1);
        backend().download(host.data(), Buffer(x), n);
        EXPECT_TRUE(std::isnan(host.back()));
        host.pop_back();
        EXPECT_EQ(host, x);
    }
}

TEST_P(Kernel, fill) {
    for (const int64_t n : sizes)
        EXPECT_EQ(output(n, [&](real* y) { backend().fill(y, -2.5f, n); }), Values(size_t(n), -2.5f));
}

// ---- pointwise: magnitudes below 2 unless noted otherwise ----------------------------------------

TEST_P(Kernel, add) {
    for (const int64_t n : sizes) {
        const Values a = random_values(n, 1), b = random_values(n, 2);
        const auto expected = tabulate(n, [&](size_t i) { return Running(a[i]) + b[i]; });
        expect_close(output(n, [&](real* y) { backend().add(y, Buffer(a), Buffer(b), n); }), expected, count(n));
        const Values in_place = run({a}, [&](auto& y) { backend().add(y[0], y[0], Buffer(b), n); })[0];
        expect_close(in_place, expected, "in place, " + count(n));
    }
}

TEST_P(Kernel, multiply) {
    for (const int64_t n : sizes) {
        const Values a = random_values(n, 1), b = random_values(n, 2);
        const auto expected = tabulate(n, [&](size_t i) { return Running(a[i]) * b[i]; });
        expect_close(output(n, [&](real* y) { backend().multiply(y, Buffer(a), Buffer(b), n); }), expected, count(n));
    }
}

TEST_P(Kernel, scale) {
    for (const int64_t n : sizes) {
        const Values x = random_values(n, 1);
        const auto expected = tabulate(n, [&](size_t i) { return -1.7f * Running(x[i]); });
        expect_close(output(n, [&](real* y) { backend().scale(y, Buffer(x), -1.7f, n); }), expected, count(n));
        const Values in_place = run({x}, [&](auto& y) { backend().scale(y[0], y[0], -1.7f, n); })[0];
        expect_close(in_place, expected, "in place, " + count(n));
    }
}

// f of many values: the results of NaNs, in whole vectors and in the remainder, are NaN, and no others.
void expect_nan_stays(const std::function<void(real* y, const real* x, int64_t n)>& f) {
    constexpr int64_t n = 20011;
    Values x = random_values(n, 9);
    const size_t lost[] = {0, 5, 9999, n - 33, n - 1};
    for (const size_t i : lost) x[i] = nan;
    const Values y = output(n, [&](real* out) { f(out, Buffer(x), n); });
    for (size_t i = 0; i < size_t(n); ++i) ASSERT_EQ(std::isnan(y[i]), std::isnan(x[i])) << i;
}

TEST_P(Kernel, leaky_relu) {
    for (const int64_t n : sizes)
        for (const real slope : {0.0f, 0.2f, 1.0f}) {
            Values x = random_values(n, 1);
            x[0] = 0;
            const auto expected =
                tabulate(n, [&](size_t i) { return x[i] > 0 ? Running(x[i]) : Running(slope) * x[i]; });
            expect_close(output(n, [&](real* y) { backend().leaky_relu(y, Buffer(x), slope, n); }), expected, count(n));
        }
    expect_nan_stays([](real* y, const real* x, int64_t n) { backend().leaky_relu(y, x, 0, n); });
}

TEST_P(Kernel, leaky_relu_backward) {
    for (const int64_t n : sizes)
        for (const real slope : {0.0f, 0.2f}) {
            Values y = random_values(n, 1);
            const Values dy = random_values(n, 2);
            y[0] = 0;  // counts as negative, as in PyTorch
            const auto expected =
                tabulate(n, [&](size_t i) { return y[i] > 0 ? Running(dy[i]) : Running(slope) * dy[i]; });
            const Values dx =
                output(n, [&](real* out) { backend().leaky_relu_backward(out, Buffer(y), Buffer(dy), slope, n); });
            expect_close(dx, expected, count(n));
        }
}

Running sigmoid(const Running& x) { return 1 / (1 + exp(-x)); }

TEST_P(Kernel, swish) {
    for (const int64_t n : sizes) {
        const Values x = random_values(n, 1, -6, 6);
        const auto expected = tabulate(n, [&](size_t i) { return x[i] * sigmoid(x[i]); });
        expect_close(output(n, [&](real* y) { backend().swish(y, Buffer(x), n); }), expected, count(n));
    }
    const Values far = output(3, [](real* y) { backend().swish(y, Buffer({200, -200, 0}), 3); });
    EXPECT_EQ(far[0], 200);
    EXPECT_LE(std::abs(far[1]), 201 * std::exp(-87.0)) << "e^x is computed for |x| up to 87";
    EXPECT_EQ(far[2], 0);
    expect_nan_stays([](real* y, const real* x, int64_t n) { backend().swish(y, x, n); });
}

// y' = s (1 + x (1 - s))
TEST_P(Kernel, swish_backward) {
    for (const int64_t n : sizes) {
        const Values x = random_values(n, 1, -6, 6), dy = random_values(n, 2);
        const auto expected = tabulate(n, [&](size_t i) {
            const Running s = sigmoid(x[i]);
            return dy[i] * s * (1 + x[i] * (1 - s));
        });
        expect_close(output(n, [&](real* dx) { backend().swish_backward(dx, Buffer(x), Buffer(dy), n); }), expected,
                     count(n));
    }
}

TEST_P(Kernel, tanh) {
    for (const int64_t n : sizes) {
        Values x = random_values(n, 1, -4, 4);
        x[0] = -30;  // saturates
        if (n > 1) x[1] = 1e-4f;
        const auto expected = tabulate(n, [&](size_t i) { return tanh(Running(x[i])); });
        expect_close(output(n, [&](real* y) { backend().tanh(y, Buffer(x), n); }), expected, count(n));
    }
    expect_nan_stays([](real* y, const real* x, int64_t n) { backend().tanh(y, x, n); });
}

TEST_P(Kernel, tanh_backward) {
    for (const int64_t n : sizes) {
        const Values y = random_values(n, 1), dy = random_values(n, 2);
        const auto expected = tabulate(n, [&](size_t i) { return dy[i] * (1 - Running(y[i]) * y[i]); });
        const Values dx = output(n, [&](real* out) { backend().tanh_backward(out, Buffer(y), Buffer(dy), n); });
        expect_close(dx, expected, count(n));
    }
}

TEST_P(Kernel, ema_update) {
    for (const int64_t n : sizes) {
        const Values x = random_values(n, 1), before = random_values(n, 2);
        const auto expected =
            tabulate(n, [&](size_t i) { return Running(0.9f) * before[i] + (1 - Running(0.9f)) * x[i]; });
        const auto result = run({before}, [&](auto& out) { backend().ema_update(out[0], Buffer(x), 0.9f, n); });
        expect_close(result[0], expected, count(n));
    }
}

TEST_P(Kernel, sum_rows) {
    for (const int64_t n : sizes)
        for (const int64_t rows : {1, 2, 9}) {
            const Values x = random_values(rows * n, 1);
            Values expected;
            for (int64_t i = 0; i < n; ++i) {
                double total = 0;
                for (int64_t row = 0; row < rows; ++row) total += double(x[size_t(row * n + i)]);
                expected.push_back(real(0.3 * total));
            }
            EXPECT_EQ(output(n, [&](real* y) { backend().sum_rows(y, Buffer(x), 0.3, rows, n); }), expected) << n;
        }
}

TEST_P(Kernel, exp) {
    for (const int64_t n : sizes) {
        Values x = random_values(n, 1, -9, 9);
        x[0] = -80;
        const auto expected = tabulate(n, [&](size_t i) { return exp(Running(x[i])); });
        expect_close(output(n, [&](real* y) { backend().exp(y, Buffer(x), n); }), expected, count(n));
    }
    expect_nan_stays([](real* y, const real* x, int64_t n) { backend().exp(y, x, n); });
}

TEST_P(Kernel, fill_from_scalar) {
    for (const int64_t n : sizes) {
        const Values y = output(n, [&](real* out) { backend().fill_from_scalar(out, Buffer({0.7f}), -3, n); });
        expect_close(y, std::vector<Running>(size_t(n), -3 * Running(0.7f)), count(n));
    }
}

TEST_P(Kernel, scaled_difference) {
    for (const int64_t n : sizes) {
        const Values a = random_values(n, 1), b = random_values(n, 2);
        const auto expected = tabulate(n, [&](size_t i) { return -3 * Running(0.7f) * (Running(a[i]) - b[i]); });
        const Values y = output(
            n, [&](real* out) { backend().scaled_difference(out, Buffer(a), Buffer(b), Buffer({0.7f}), -3, n); });
        expect_close(y, expected, count(n));
    }
}

TEST_P(Kernel, reparametrise) {
    for (const int64_t n : sizes) {
        const Values mu = random_values(n, 1), logvar = random_values(n, 2, -3, 1), eps = random_values(n, 3);
        const auto expected = tabulate(n, [&](size_t i) { return mu[i] + exp(Running(0.5) * logvar[i]) * eps[i]; });
        const Values z =
            output(n, [&](real* y) { backend().reparametrise(y, Buffer(mu), Buffer(logvar), Buffer(eps), n); });
        expect_close(z, expected, count(n));
    }
}

TEST_P(Kernel, reparametrise_backward) {
    for (const int64_t n : sizes) {
        const Values logvar = random_values(n, 2, -3, 1), eps = random_values(n, 3), dz = random_values(n, 4);
        const auto expected =
            tabulate(n, [&](size_t i) { return Running(0.5) * dz[i] * exp(Running(0.5) * logvar[i]) * eps[i]; });
        const Values dlogvar = output(
            n, [&](real* y) { backend().reparametrise_backward(y, Buffer(logvar), Buffer(eps), Buffer(dz), n); });
        expect_close(dlogvar, expected, count(n));
    }
}

TEST_P(Kernel, gaussian_nll_backward) {
    for (const int64_t n : sizes)
        for (const real least : {-2.0f, -15.0f}) {  // in the second case 1e-6 counts
            const Values z = random_values(n, 1), mu = random_values(n, 2),
                         logvar = random_values(n, 3, least, least + 3);
            const Running upstream = Running(0.7f) * -3;
            const auto inverse = [&](size_t i) { return 1 / (real(1e-6) + exp(Running(logvar[i]))); };
            const auto difference = [&](size_t i) { return Running(z[i]) - mu[i]; };
            const auto dmu = tabulate(n, [&](size_t i) { return -upstream * difference(i) * inverse(i); });
            const auto dlogvar = tabulate(n, [&](size_t i) {
                return 0.5 * upstream *
                       (1 - difference(i) * difference(i) * inverse(i) * inverse(i) * exp(Running(logvar[i])));
            });
            const auto result = run({poison(n), poison(n)}, [&](auto& y) {
                backend().gaussian_nll_backward(y[0], y[1], Buffer(z), Buffer(mu), Buffer(logvar), Buffer({0.7f}), -3,
                                                n);
            });
            expect_close(result[0], dmu, "dmu, " + count(n));
            expect_close(result[1], dlogvar, "dlogvar, " + count(n));
        }
}

TEST_P(Kernel, langevin_update) {
    for (const int64_t n : sizes) {
        const Values x = random_values(n, 1), gradient = random_values(n, 2), noise = random_values(n, 3);
        const auto expected =
            tabulate(n, [&](size_t i) { return x[i] - Running(0.3f) * gradient[i] + Running(0.2f) * noise[i]; });
        const auto update = [&](real* y, const real* from) {
            backend().langevin_update(y, from, Buffer(gradient), Buffer(noise), 0.3f, 0.2f, n);
        };
        expect_close(output(n, [&](real* y) { update(y, Buffer(x)); }), expected, count(n));
        expect_close(run({x}, [&](auto& y) { update(y[0], y[0]); })[0], expected, "in place, " + count(n));
    }
}

// It draws the same noise as `normal`.
TEST_P(Kernel, langevin_update_normal) {
    const RandomKey key{3, 5, 7};
    for (const int64_t n : sizes) {
        const Values x = random_values(n, 1), gradient = random_values(n, 2),
                     noise = output(n, [&](real*y) { backend().normal(y, key, n); });
        const auto expected =
            tabulate(n, [&](size_t i) { return x[i] - Running(0.3f) * gradient[i] + Running(0.2f) * noise[i]; });
        const auto update = [&](real* y, const real* from) {
            backend().langevin_update_normal(y, from, Buffer(gradient), key, 0.3f, 0.2f, n);
        };
        expect_close(output(n, [&](real* y) { update(y, Buffer(x)); }), expected, count(n));
        expect_close(run({x}, [&](auto& y) { update(y[0], y[0]); })[0], expected, "in place, " + count(n));
    }
}

// Against PyTorch's formulation in double precision: g += decay w; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g²;
// w -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps).
TEST_P(Kernel, adam_update) {
    const double rate = 0.01, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
    for (const int64_t n : sizes)
        for (const double decay : {0.0, 0.1}) {
            const Values start = random_values(n, 1);
            std::vector<Running> w(start.begin(), start.end()), m(start.size()), v(start.size());
            std::vector<Values> state = {start, Values(start.size(), 0), Values(start.size(), 0)};
            for (int step = 1; step <= 5; ++step) {
                const Values gradient = random_values(n, uint32_t(10 + step));
                const double correction1 = 1 - std::pow(beta1, step), correction2 = 1 - std::pow(beta2, step);
                for (size_t i = 0; i < w.size(); ++i) {
                    const Running g = gradient[i] + rounded(decay) * w[i];
                    m[i] = rounded(beta1) * m[i] + rounded(1 - beta1) * g;
                    v[i] = rounded(beta2) * v[i] + rounded(1 - beta2) * g * g;
                    w[i] = w[i] - rounded(rate / correction1) * m[i] /
                                      (sqrt(v[i]) * rounded(1 / std::sqrt(correction2)) + rounded(epsilon));
                }
                state = run(state, [&](auto& y) {
                    backend().adam_update(y[0], y[1], y[2], Buffer(gradient), real(rate / correction1), beta1, beta2,
                                          real(1 / std::sqrt(correction2)), real(epsilon), real(decay), n);
                });
                expect_close(state[0], w, "w, step " + std::to_string(step));
                expect_close(state[1], m, "m, step " + std::to_string(step));
                expect_close(state[2], v, "v, step " + std::to_string(step));
            }
        }
}

// ---- gathers over images ------------------------------------------------------------------------

struct Sides {
    int64_t batch, height, width, channels;
    int64_t size() const { return batch * height * width * channels; }
    size_t at(int64_t b, int64_t h, int64_t w, int64_t c) const {
        return size_t(((b * height + h) * width + w) * channels + c);
    }
    std::string name() const {
        return "(" + std::to_string(batch) + ", " + std::to_string(height) + ", " + std::to_string(width) + ", " +
               std::to_string(channels) + ")";
    }
};

constexpr Sides even_images[] = {{1, 2, 2, 1}, {2, 4, 6, 5}, {2, 6, 4, 3}, {3, 8, 2, 17}, {5, 10, 14, 35}};
constexpr Sides all_images[] = {{1, 1, 1, 1}, {2, 1, 4, 3}, {2, 5, 1, 7}, {2, 5, 4, 3}, {3, 5, 4, 17}, {5, 7, 11, 66}};

// A linear map of images as a sparse matrix: entries(entry) calls entry(dst, src, weight) for each of its elements. The
// map adds x[src] weight to y[dst]; its gradient is the transpose.
template <class Entries>
void expect_linear_map(const Sides& in, const Sides& out, Entries entries, bool transpose,
                       void (*kernel)(real*, const real*, int64_t, int64_t, int64_t, int64_t)) {
    const Sides &from = transpose ? out : in, &to = transpose ? in : out;
    const Values x = random_values(from.size(), 1);
    std::vector<Running> expected(static_cast<size_t>(to.size()));
    entries([&](size_t dst, size_t src, const Running& weight) {
        Running& y = expected[transpose ? src : dst];
        y = y + weight * x[transpose ? dst : src];
    });
    const Values y =
        output(to.size(), [&](real* p) { kernel(p, Buffer(x), in.batch, in.height, in.width, in.channels); });
    expect_close(y, expected, in.name());
}

// Calls body(b, h, w, c) for each element.
template <class Body>
void for_each_element(const Sides& s, Body body) {
    for (int64_t b = 0; b < s.batch; ++b)
        for (int64_t h = 0; h < s.height; ++h)
            for (int64_t w = 0; w < s.width; ++w)
                for (int64_t c = 0; c < s.channels; ++c) body(b, h, w, c);
}

void check_avg_pool2(bool transpose, decltype(Backend::avg_pool2) kernel) {
    for (const Sides& in : even_images) {
        const Sides out{in.batch, in.height / 2, in.width / 2, in.channels};
        const auto entries = [&](auto entry) {
            for_each_element(in, [&](int64_t b, int64_t h, int64_t w, int64_t c) {
                entry(out.at(b, h / 2, w / 2, c), in.at(b, h, w, c), 0.25);
            });
        };
        expect_linear_map(in, out, entries, transpose, kernel);
    }
}

// Output i of 2n is at i (n - 1) / (2n - 1) of the input, interpolated by hat functions.
void check_upsample2(bool transpose, decltype(Backend::upsample2) kernel) {
    for (const Sides& in : all_images) {
        const Sides out{in.batch, 2 * in.height, 2 * in.width, in.channels};
        const auto weight = [](int64_t i, int64_t k, int64_t n) {
            const int64_t distance = std::abs(i * (n - 1) - k * (2 * n - 1));  // from k, in units of 1 / (2n - 1)
            return distance < 2 * n - 1 ? 1 - Running(double(distance)) / double(2 * n - 1) : Running(0);
        };
        const auto entries = [&](auto entry) {
            for_each_element(out, [&](int64_t b, int64_t h, int64_t w, int64_t c) {
                for (int64_t row = std::max<int64_t>(0, h / 2 - 1); row <= std::min(in.height - 1, h / 2 + 1); ++row)
                    for (int64_t column = std::max<int64_t>(0, w / 2 - 1); column <= std::min(in.width - 1, w / 2 + 1);
                         ++column)
                        entry(out.at(b, h, w, c), in.at(b, row, column, c),
                              weight(h, row, in.height) * weight(w, column, in.width));
            });
        };
        expect_linear_map(in, out, entries, transpose, kernel);
    }
}

TEST_P(Kernel, avg_pool2) { check_avg_pool2(false, backend().avg_pool2); }
TEST_P(Kernel, avg_pool2_backward) { check_avg_pool2(true, backend().avg_pool2_backward); }
TEST_P(Kernel, upsample2) { check_upsample2(false, backend().upsample2); }
TEST_P(Kernel, upsample2_backward) { check_upsample2(true, backend().upsample2_backward); }

constexpr Sides pooled_images[] = {
    {1, 1, 1, 1}, {2, 1, 37, 3}, {3, 1, 16, 65}, {129, 1, 4, 130}};  // the pixels are in `width`

TEST_P(Kernel, global_avg_pool) {
    for (const Sides& s : pooled_images) {
        const Values x = random_values(s.size(), 1);
        std::vector<RandomSum> sums(size_t(s.batch * s.channels));
        for_each_element(s, [&](int64_t b, int64_t, int64_t pixel, int64_t c) {
            sums[size_t(b * s.channels + c)].add(x[s.at(b, 0, pixel, c)]);
        });
        const auto expected = tabulate(int64_t(sums.size()), [&](size_t i) { return sums[i].get() / double(s.width); });
        const Values y = output(s.batch * s.channels, [&](real* p) {
            backend().global_avg_pool(p, Buffer(x), s.batch, s.width, s.channels);
        });
        expect_close(y, expected, s.name());
    }
}

TEST_P(Kernel, global_avg_pool_backward) {
    for (const Sides& s : pooled_images) {
        const Values dy = random_values(s.batch * s.channels, 1);
        std::vector<Running> expected(static_cast<size_t>(s.size()));
        for_each_element(s, [&](int64_t b, int64_t, int64_t pixel, int64_t c) {
            expected[s.at(b, 0, pixel, c)] = Running(dy[size_t(b * s.channels + c)]) / double(s.width);
        });
        const Values dx = output(s.size(), [&](real* p) {
            backend().global_avg_pool_backward(p, Buffer(dy), s.batch, s.width, s.channels);
        });
        expect_close(dx, expected, s.name());
    }
}

// ---- reductions to a scalar ---------------------------------------------------------------------

// Below one part (4096), above two, and more than 64 parts.
constexpr int64_t reduced_sizes[] = {1, 3, 37, 4095, 8193, 300007};

// factor Σ term(i), where kernels add in double, multiply and round once.
template <class Call, class Term>
void expect_sum(int64_t n, const Running& factor, Call call, Term term) {
    RandomSum sum;
    for (int64_t i = 0; i < n; ++i) sum.add(term(size_t(i)));
    expect_close(output(1, call), {factor * sum.in_double(unit)}, count(n));
}

TEST_P(Kernel, sum) {
    for (const int64_t n : reduced_sizes) {
        const Values x = random_values(n, 1);
        expect_sum(
            n, -0.7f, [&](real* y) { backend().sum(y, Buffer(x), -0.7f, n); }, [&](size_t i) { return Running(x[i]); });
    }
    // Values of many magnitudes that cancel: the result is rounding error alone and so depends on the order of addition
    // (output() compares bits).
    Values x = random_values(100001, 2);
    for (size_t i = 0; i < 50000; ++i) {
        x[i] = std::ldexp(x[i], int(i % 41) - 40);
        x[100000 - i] = -x[i];
    }
    x[50000] = 0;
    expect_sum(
        100001, 1, [&](real* y) { backend().sum(y, Buffer(x), 1, 100001); }, [&](size_t i) { return Running(x[i]); });
}

TEST_P(Kernel, dot) {
    for (const int64_t n : reduced_sizes) {
        const Values a = random_values(n, 1), b = random_values(n, 2);
        expect_sum(
            n, 1, [&](real* y) { backend().dot(y, Buffer(a), Buffer(b), n); },
            [&](size_t i) { return Running(a[i]) * b[i]; });
    }
}

TEST_P(Kernel, squared_error) {
    for (const int64_t n : reduced_sizes) {
        const Values a = random_values(n, 1), b = random_values(n, 2);
        expect_sum(
            n, 0.7f, [&](real* y) { backend().squared_error(y, Buffer(a), Buffer(b), 0.7f, n); },
            [&](size_t i) { return square(Running(a[i]) - b[i]); });
    }
}

TEST_P(Kernel, gaussian_nll) {
    for (const int64_t n : reduced_sizes)
        for (const real least : {-2.0f, -15.0f}) {
            const Values z = random_values(n, 1), mu = random_values(n, 2),
                         logvar = random_values(n, 3, least, least + 3);
            expect_sum(
                n, 0.5 * 0.7f,
                [&](real* y) { backend().gaussian_nll(y, Buffer(z), Buffer(mu), Buffer(logvar), 0.7f, n); },
                [&](size_t i) {
                    return logvar[i] + square(Running(z[i]) - mu[i]) / (real(1e-6) + exp(Running(logvar[i])));
                });
        }
}

// ---- column statistics --------------------------------------------------------------------------

struct Matrix {
    int64_t rows, columns;
    size_t at(int64_t r, int64_t c) const { return size_t(r * columns + c); }
    std::string name() const { return std::to_string(rows) + " x " + std::to_string(columns); }
    // So many rows of a column are added one after the other, and the parts' sums in double.
    double part() const { return in_double ? double(rows) : double(std::max<int64_t>(64, (rows + 63) / 64)); }
};

// One row, less than one part (64 rows), one part and a row, more than 64 parts; also enough work for several threads.
constexpr Matrix tall[] = {{1, 1}, {1, 5}, {2, 3}, {63, 17}, {65, 35}, {700, 70}, {4801, 6}};

TEST_P(Kernel, column_sum) {
    for (const Matrix& s : tall) {
        const Values x = random_values(s.rows * s.columns, 1);
        std::vector<RandomSum> sums(size_t(s.columns));
        for (int64_t r = 0; r < s.rows; ++r)
            for (int64_t c = 0; c < s.columns; ++c) sums[size_t(c)].add(x[s.at(r, c)]);
        const auto expected = tabulate(s.columns, [&](size_t c) { return sums[c].get(s.part()); });
        const Values y = output(s.columns, [&](real* p) { backend().column_sum(p, Buffer(x), s.rows, s.columns); });
        expect_close(y, expected, s.name());
    }
}

Running leaky(const Running& x, real slope) {
    const Running negative = slope * x;  // where rounding takes x across 0, its error counts in full
    return x.value > 0 ? Running(x.value, std::max(x.error, negative.error))
                       : Running(negative.value, std::max(x.error, negative.error));
}

// Of one column, as rounded, by either of two ways: parts of `part` rows around their own means, combined in double; or
// Σ (x - x₀) and Σ (x - x₀)² with the first value x₀, in parts an eighth as long. squares is Σ (x - mean)².
struct Statistics {
    Running mean, squares;
    Statistics(const Matrix& s, const Values& x, size_t c) {
        const double n = double(s.rows), length = std::min(n, s.part()), eighth = in_double ? n : length / 8;
        RandomSum sum, shifted, deviations, shifted_squares;
        for (int64_t r = 0; r < s.rows; ++r) {
            const Running difference = Running(x[s.at(r, int64_t(c))]) - x[c];
            sum.add(x[s.at(r, int64_t(c))]);
            shifted.add(difference);
            shifted_squares.add(square(difference));
        }
        mean = 1 * (sum.get(length) * rounded(1 / n));
        for (int64_t r = 0; r < s.rows; ++r) deviations.add(square(Running(x[s.at(r, int64_t(c))]) - mean.value));
        squares = deviations.get(length);
        // A part's mean is off by m: to first order that is Σ 2 n_p (mean_p - mean) m over the parts, random in sign,
        // where mean_p is off from the mean by chance; and to second order n m².
        const double m = mean.error * std::sqrt(n / length), own = n > length ? 2 * std::sqrt(squares.value) * m : 0;
        const double total = shifted.get(eighth).error, shift = std::abs(mean.value - x[c]);
        squares.error =
            std::max(squares.error + own + n * m * m * unit, shifted_squares.get(eighth).error + 2 * shift * total);
        mean.error = std::max(mean.error, total / n + std::abs(mean.value));
    }
};

constexpr struct {
    real offset, slope;
} norms[] = {{0, 1}, {0, 0.2f}, {3, 0}, {500, 1}};  // at 500, Σx² - (Σx)² would be off by 10 %

void check_batch_norm_forward() {
    for (const Matrix& s : tall)
        for (const auto& [offset, slope] : norms) {
            const Values x = random_values(s.rows * s.columns, 1, offset - 2, offset + 2),
                         weight = random_values(s.columns, 2, 0.5f, 2), bias = random_values(s.columns, 3),
                         running_mean = random_values(s.columns, 5), running_var = random_values(s.columns, 6, 0.5f, 2);
            const auto found = run(
                {poison(s.rows * s.columns), poison(s.columns), poison(s.columns), running_mean, running_var},
                [&, slope = slope](auto& out) {
                    const Buffer input(x);
                    backend().batch_statistics(out[1], out[2], out[3], out[4], input, 1e-5f, 0.1f, s.rows, s.columns);
                    backend().batch_norm(out[0], input, out[1], out[2], Buffer(weight), Buffer(bias), slope, s.rows,
                                         s.columns);
                });
            std::vector<Running> mean, rstd, after_mean, after_var;
            for (size_t c = 0; c < weight.size(); ++c) {
                const Statistics column(s, x, c);
                const double n = double(s.rows), root = 1 / std::sqrt(column.squares.value / n + double(1e-5f));
                mean.push_back(column.mean);
                rstd.push_back({root, std::pow(root, 3) / 2 * column.squares.error / n + root});
                after_mean.push_back(running_mean[c] + Running(0.1f) * (found[1][c] - Running(running_mean[c])));
                after_var.push_back(running_var[c] +
                                    Running(0.1f) * (column.squares / std::max(n - 1, 1.0) - Running(running_var[c])));
            }
            const std::string what = text(s.name(), ", offset ", offset, ": ");
            expect_close(found[1], mean, what + "mean");
            expect_close(found[2], rstd, what + "rstd");
            expect_close(found[3], after_mean, what + "running mean");
            expect_close(found[4], after_var, what + "running var");
            const auto y = tabulate(int64_t(x.size()), [&, slope = slope](size_t i) {
                const size_t c = i % weight.size();
                return leaky((Running(x[i]) - found[1][c]) * (Running(found[2][c]) * weight[c]) + bias[c], slope);
            });
            expect_close(found[0], y, what + "y");
        }
}

TEST_P(Kernel, batch_statistics) { check_batch_norm_forward(); }
TEST_P(Kernel, batch_norm) { check_batch_norm_forward(); }

void check_batch_norm_backward() {
    for (const Matrix& s : tall)
        for (const auto& [offset, slope] : norms) {
            const Values x = random_values(s.rows * s.columns, 1, offset - 2, offset + 2),
                         weight = random_values(s.columns, 2, 0.5f, 2), bias = random_values(s.columns, 3),
                         dy = random_values(s.rows * s.columns, 4), rstd = random_values(s.columns, 5, 0.5f, 1.5f);
            Values mean = random_values(s.columns, 6, offset - 0.1f, offset + 0.1f);
            const auto found =
                run({poison(s.rows * s.columns), poison(s.columns), poison(s.columns)}, [&, slope = slope](auto& out) {
                    const Buffer average(mean), deviation(rstd), input(x), w(weight), b(bias), upstream(dy);
                    backend().batch_norm_backward_reduce(out[1], out[2], average, deviation, input, w, b, upstream,
                                                         slope, s.rows, s.columns);
                    backend().batch_norm_backward_elemt(out[0], out[1], out[2], average, deviation, input, w, b,
                                                        upstream, slope, s.rows, s.columns);
                });
            std::vector<RandomSum> sums(weight.size()), products(weight.size());
            std::vector<Running> dx;
            for (size_t i = 0; i < x.size(); ++i) {
                const size_t c = i % weight.size();
                const Running centred = Running(x[i]) - mean[c], factor = Running(rstd[c]) * weight[c];
                const bool positive = (centred * factor + bias[c]).value > 0;
                const Running g = positive ? Running(dy[i]) : Running(slope) * dy[i];
                sums[c].add(g);
                products[c].add(g * centred);
                const Running inverse = rounded(1 / double(s.rows));
                dx.push_back(factor * (g - inverse * found[2][c] - centred * (rstd[c] * (inverse * found[1][c]))));
            }
            const auto dweight =
                tabulate(s.columns, [&](size_t c) { return products[c].get(s.part()) * Running(rstd[c]); });
            const auto dbias = tabulate(s.columns, [&](size_t c) { return 1 * sums[c].get(s.part()); });
            const std::string what = text(s.name(), ", offset ", offset, ": ");
            expect_close(found[0], dx, what + "dx");
            expect_close(found[1], dweight, what + "dweight");
            expect_close(found[2], dbias, what + "dbias");
        }
    // One row: only the bias has a gradient.
    const auto single = run({poison(3), poison(3), poison(3)}, [](auto& out) {
        const Buffer x({1, 2, 3}), rstd({316, 316, 316}), weight({1, 2, 3}), bias({1, 1, 1}), dy({0.5f, -0.25f, 2});
        backend().batch_norm_backward_reduce(out[1], out[2], x, rstd, x, weight, bias, dy, 0, 1, 3);
        backend().copy(out[0], dy, 3);
        backend().batch_norm_backward_elemt(out[0], out[1], out[2], x, rstd, x, weight, bias, out[0], 0, 1,
                                            3);  // in place
    });
    EXPECT_EQ(single, (std::vector<Values>{{0, 0, 0}, {0, 0, 0}, {0.5f, -0.25f, 2}}));
}
TEST_P(Kernel, batch_norm_backward_reduce) { check_batch_norm_backward(); }
TEST_P(Kernel, batch_norm_backward_elemt) { check_batch_norm_backward(); }

// Batch norm by given statistics, then ReLU, in double precision.
struct GivenStatistics {
    Matrix s;
    Values x, dy, mean, var, weight, bias;
    std::vector<Running> y, dx;

    explicit GivenStatistics(const Matrix& sides)
        : s(sides), x(random_values(s.rows * s.columns, 1, -2, 3)), dy(random_values(s.rows * s.columns, 2)),
          mean(random_values(s.columns, 3)), var(random_values(s.columns, 4, 0.25f, 2)),
          weight(random_values(s.columns, 5)), bias(random_values(s.columns, 6)), y(x.size()), dx(x.size()) {
        for (int64_t r = 0; r < s.rows; ++r)
            for (size_t c = 0; c < mean.size(); ++c) {
                const size_t i = s.at(r, int64_t(c));
                const Running deviation = sqrt(Running(var[c]) + 1e-5f);
                y[i] = (Running(x[i]) - mean[c]) / deviation * weight[c] + bias[c];
                y[i].value = std::max(y[i].value, 0.0);
                dx[i] = y[i].value > 0 ? Running(weight[c]) / deviation * dy[i] : 0;
            }
    }
};

TEST_P(Kernel, batch_norm_inference) {
    for (const Matrix& s : tall) {
        const GivenStatistics f(s);
        const Values y = output(s.rows * s.columns, [&](real* p) {
            backend().batch_norm_inference(p, Buffer(f.x), Buffer(f.mean), Buffer(f.var), Buffer(f.weight),
                                           Buffer(f.bias), 1e-5f, s.rows, s.columns);
        });
        expect_close(y, f.y, s.name());
        Values lost = f.x;
        lost[lost.size() / 2] = nan;
        const Values hidden = output(s.rows * s.columns, [&](real* p) {
            backend().batch_norm_inference(p, Buffer(lost), Buffer(f.mean), Buffer(f.var), Buffer(f.weight),
                                           Buffer(f.bias), 1e-5f, s.rows, s.columns);
        });
        for (size_t i = 0; i < lost.size(); ++i) ASSERT_EQ(std::isnan(hidden[i]), std::isnan(lost[i])) << s.name();
    }
}

TEST_P(Kernel, batch_norm_inference_backward) {
    for (const Matrix& s : tall) {
        const GivenStatistics f(s);
        Values y;
        for (const Running& value : f.y) y.push_back(real(value.value));
        const Values dx = output(s.rows * s.columns, [&](real* p) {
            backend().batch_norm_inference_backward(p, Buffer(y), Buffer(f.dy), Buffer(f.var), Buffer(f.weight), 1e-5f,
                                                    s.rows, s.columns);
        });
        expect_close(dx, f.dx, s.name());
    }
}

// ---- spectral normalisation ---------------------------------------------------------------------

constexpr Matrix matrices[] = {{1, 1},   {1, 37},   {35, 1},    {5, 3},     {17, 130},
                               {64, 64}, {130, 65}, {301, 257}, {1031, 515}};

// 1 / max(‖x‖, ε)
Running inverse_norm(const std::vector<Running>& x, double epsilon) {
    RandomSum squares;
    for (const Running& value : x) squares.add(square(value));
    const Running norm = sqrt(1 * squares.in_double(unit));
    return 1 / (norm.value > epsilon ? norm : Running(epsilon));
}

TEST_P(Kernel, normalize_l2) {
    for (const int64_t n : sizes)
        for (const real size : {1.0f, 1e-3f}) {
            const Values x = random_values(n, 1, -size, size);
            for (const real epsilon : {1e-12f, 1e4f}) {  // the second is larger than any norm here
                const Running inverse = inverse_norm({x.begin(), x.end()}, epsilon);
                const auto expected = tabulate(n, [&](size_t i) { return x[i] * inverse; });
                expect_close(run({x}, [&](auto& p) { backend().normalize_l2(p[0], epsilon, n); })[0], expected,
                             count(n));
            }
        }
    EXPECT_EQ(run({{0, 0, 0}}, [](auto& p) { backend().normalize_l2(p[0], 1e-12f, 3); })[0], (Values{0, 0, 0}));
}

// One power iteration from (w, u): v = Wu / ‖Wu‖, u = Wᵀv / ‖Wᵀv‖, σ = <u, Wᵀv>. An error of v's
// norm cancels in u, but not in σ. All other roundings are independent.
struct PowerIteration {
    std::vector<Running> v, u;
    Running sigma;

    PowerIteration(const Values& w, const Values& start, const Matrix& s, double epsilon) {
        std::vector<RandomSum> rows(size_t(s.rows)), columns(size_t(s.columns));
        for (size_t i = 0; i < w.size(); ++i) rows[i / start.size()].add(Running(w[i]) * start[i % start.size()]);
        for (const RandomSum& row : rows) v.push_back(row.get());
        const Running first = inverse_norm(v, epsilon);
        for (size_t i = 0; i < w.size(); ++i) columns[i % start.size()].add(w[i] * (v[i / start.size()] * first.value));
        for (const RandomSum& column : columns) u.push_back(column.get());
        const Running second = inverse_norm(u, epsilon);
        RandomSum squares;
        for (const Running& value : u) squares.add(square(value));
        sigma = Running(1, first.error / first.value) * squares.in_double(unit) * second;
        for (Running& value : v) value = value * first;
        for (Running& value : u) value = value * second;
    }
};

TEST_P(Kernel, spectral_norms) {
    for (const real epsilon : {1e-12f, 1e3f})  // the second is larger than any norm here
        for (const size_t count :
             {size_t(0), size_t(1), 2 * std::size(matrices)}) {  // none, one, more than one launch takes
            std::vector<Values> before;
            for (size_t i = 0; i < count; ++i) {
                const Matrix& s = matrices[i % std::size(matrices)];
                for (const int64_t n : {s.rows * s.columns, s.columns})
                    before.push_back(random_values(n, uint32_t(before.size())));
                for (const int64_t n : {s.rows, s.rows * s.columns, int64_t(1)}) before.push_back(poison(n));
            }
            const auto found = run(before, [&](auto& p) {
                std::vector<SpectralWeight> weights;
                for (size_t i = 0; i < count; ++i) {
                    const Matrix& s = matrices[i % std::size(matrices)];
                    weights.push_back(
                        {p[5 * i + 3], p[5 * i + 4], p[5 * i + 1], p[5 * i + 2], p[5 * i], s.rows, s.columns});
                }
                backend().spectral_norms(weights.data(), int64_t(count), epsilon);
            });
            for (size_t i = 0; i < count; ++i) {
                const Matrix& s = matrices[i % std::size(matrices)];
                const Values& w = before[5 * i];
                const PowerIteration expected(w, before[5 * i + 1], s, epsilon);
                const std::string name = text("weight ", i, ", ", s.name(), ", epsilon ", epsilon);
                EXPECT_EQ(found[5 * i], w);
                expect_close(found[5 * i + 1], expected.u, "u of " + name);
                expect_close(found[5 * i + 2], expected.v, "v of " + name);
                expect_close(found[5 * i + 4], {expected.sigma}, "sigma of " + name);
                expect_close(found[5 * i + 3],
                             tabulate(int64_t(w.size()), [&](size_t k) { return w[k] / Running(found[5 * i + 4][0]); }),
                             "y of " + name);
            }
        }
}

// With y = W/σ: dW = (dy - <dy, y> v uᵀ)/σ. Here y, u and v are arbitrary; ops_test.cpp tests the true ones.
TEST_P(Kernel, spectral_norm_backward) {
    for (const Matrix& s : matrices) {
        const int64_t n = s.rows * s.columns;
        const Values y = random_values(n, 1), dy = random_values(n, 2), u = random_values(s.columns, 3),
                     v = random_values(s.rows, 4);
        const real sigma = 1.7f;
        RandomSum products;
        for (size_t i = 0; i < y.size(); ++i) products.add(Running(y[i]) * dy[i]);
        const Running inner = 1 * products.in_double(unit), inverse = 1 / Running(sigma);
        const auto expected =
            tabulate(n, [&](size_t i) { return (dy[i] - inner * v[i / u.size()] * u[i % u.size()]) * inverse; });
        const Values dw = output(n, [&](real* p) {
            backend().spectral_norm_backward(p, Buffer(y), Buffer({sigma}), Buffer(u), Buffer(v), Buffer(dy), s.rows,
                                             s.columns);
        });
        expect_close(dw, expected, s.name());
    }
}

// ---- convolution --------------------------------------------------------------------------------

// The definition, as seven loops: calls mac(index in x, index in w, index in y) for each multiply-add of a convolution.
// Pooling is the mean of four results.
template <class Mac>
void for_each_mac(const ConvShape& s, Mac mac) {
    const int64_t out_height = (s.height + 2 * s.padding - s.kernel) / s.stride + 1,
                  out_width = (s.width + 2 * s.padding - s.kernel) / s.stride + 1, pool = s.pool ? 2 : 1;
    for (int64_t b = 0; b < s.batch; ++b)
        for (int64_t row = 0; row < out_height; ++row)
            for (int64_t column = 0; column < out_width; ++column)
                for (int64_t kh = 0; kh < s.kernel; ++kh)
                    for (int64_t kw = 0; kw < s.kernel; ++kw) {
                        const int64_t h = row * s.stride - s.padding + kh, w = column * s.stride - s.padding + kw;
                        if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
                        for (int64_t i = 0; i < s.in; ++i)
                            for (int64_t o = 0; o < s.out; ++o)
                                mac(size_t(((b * s.height + h) * s.width + w) * s.in + i),
                                    size_t(((kh * s.kernel + kw) * s.in + i) * s.out + o),
                                    size_t(
                                        ((b * (out_height / pool) + row / pool) * (out_width / pool) + column / pool) *
                                            s.out +
                                        o));
                    }
}

int64_t x_size(const ConvShape& s) { return s.batch * s.height * s.width * s.in; }
int64_t w_size(const ConvShape& s) { return s.kernel * s.kernel * s.in * s.out; }
int64_t y_size(const ConvShape& s) {
    return s.batch * ((s.height + 2 * s.padding - s.kernel) / s.stride + 1) *
           ((s.width + 2 * s.padding - s.kernel) / s.stride + 1) * s.out / (s.pool ? 4 : 1);
}
std::string name(const ConvShape& s) {
    return text("batch ", s.batch, ", ", s.height, " x ", s.width, ", ", s.in, " -> ", s.out, " channels, kernel ",
                s.kernel, ", stride ", s.stride, ", padding ", s.padding, s.relu ? ", of relu(x)" : "",
                s.pool ? ", pooled" : "");
}

// Every geometry, with odd and even sides, including the smallest possible image; every pair of channel counts.
std::vector<ConvShape> systematic_shapes() {
    std::vector<ConvShape> shapes;
    for (const int64_t kernel : {1, 3, 4})
        for (const int64_t stride : {1, 2})
            for (const int64_t padding : {0, 1})
                for (const auto& [height, width] : {std::pair<int64_t, int64_t>{7, 6},
                                                    {6, 9},
                                                    {4, 5},
                                                    {4, 4},
                                                    {std::max<int64_t>(1, kernel - 2 * padding), 5}})
                    shapes.push_back({2, height, width, 3, 5, kernel, stride, padding});
    // Whole and partial vectors, several panels, more than one chunk (above 128).
    for (const int64_t in : {1, 3, 5, 16, 17, 35, 64, 70, 130})
        for (const int64_t out : {1, 3, 5, 16, 17, 35, 64, 70, 130}) shapes.push_back({1, 3, 4, in, out, 3, 1, 1});
    return shapes;
}

// Edge cases of the algorithms on the CPU (src/cpu/fast) and the GPU.
std::vector<ConvShape> special_shapes() {
    return {{1, 1, 1, 1, 1, 1, 1, 0},
            // Chunks at stride 2, where dgrad has several phases; 200 is three chunks and a remainder.
            {2, 6, 5, 130, 17, 4, 2, 1},
            {2, 5, 6, 17, 130, 4, 2, 1},
            {2, 5, 7, 131, 133, 3, 2, 1},
            {3, 3, 2, 200, 36, 1, 2, 0},
            {2, 4, 3, 36, 200, 3, 1, 1},
            // Several small images per task, with a remainder; linear layers; kernels as large as the image.
            {101, 1, 1, 37, 19, 1, 1, 0},
            {17, 1, 1, 130, 67, 1, 1, 0},
            {1, 1, 1, 130, 1, 1, 1, 0},
            {53, 2, 2, 5, 17, 3, 1, 1},
            {35, 3, 3, 5, 17, 3, 1, 0},
            {7, 4, 4, 35, 3, 4, 1, 0},
            // Whole vectors, where the threads share the weights' gradient; also one image, and one pixel at stride 2.
            {101, 1, 1, 130, 80, 1, 1, 0},
            {5, 4, 4, 16, 144, 4, 1, 0, true},
            {1, 1, 1, 37, 16, 1, 1, 0},
            {3, 2, 2, 48, 16, 1, 2, 0},
            // Many channels to few, with ReLU, without padding and with more than the kernel needs.
            {2, 6, 5, 70, 3, 4, 1, 0, true},
            {2, 5, 6, 70, 3, 3, 1, 2, true},
            {50, 4, 4, 17, 5, 4, 2, 1},
            {33, 4, 4, 3, 16, 4, 2, 0},
            {29, 2, 3, 16, 6, 3, 2, 1},
            {19, 3, 5, 7, 6, 3, 1, 0},
            {37, 3, 1, 6, 7, 3, 2, 1},
            // Batches of about 16, the number of parts in wgrad; enough work for several threads.
            {16, 5, 3, 4, 6, 3, 1, 1},
            {18, 3, 5, 6, 4, 3, 1, 1},
            {5, 13, 11, 19, 35, 3, 1, 1},
            {3, 16, 18, 8, 24, 4, 2, 1},
            {4, 9, 9, 16, 32, 1, 1, 0},
            // Winograd: channels in whole vectors; sides with whole and partial 4×4 tiles; several groups of tiles,
            // several panels.
            {3, 32, 32, 16, 48, 3, 1, 1},
            {2, 9, 7, 64, 16, 3, 1, 1},
            {5, 4, 6, 32, 80, 3, 1, 1},
            {1, 13, 5, 144, 32, 3, 1, 1},
            {11, 8, 8, 16, 64, 3, 1, 1},
            {2, 6, 4, 16, 144, 3, 1, 1},
            // AMX: 4×4 at stride 2 with channels in whole vectors; im2col of an image's colours; channels in more than
            // two tiles.
            {2, 16, 16, 32, 48, 4, 2, 1},
            {3, 6, 10, 48, 16, 4, 2, 1},
            {2, 32, 32, 3, 16, 3, 1, 1},
            {2, 16, 8, 3, 32, 4, 2, 1},
            {1, 12, 20, 160, 112, 3, 1, 1},
            // Few channels: an image's colours, and two.
            {2, 9, 10, 35, 3, 3, 1, 1},
            {3, 8, 5, 3, 16, 3, 1, 1},
            {2, 6, 7, 16, 2, 3, 1, 1},
            {20, 9, 8, 32, 3, 3, 1, 1},
            // Geometries that these networks do not use.
            {2, 11, 10, 3, 5, 5, 3, 2},
            {2, 8, 7, 3, 5, 2, 2, 0},
            {2, 5, 6, 3, 5, 3, 1, 2},
            {2, 9, 10, 3, 5, 2, 3, 1}};
}

// Pooling, with images of one and of several tiles, several images per task with a remainder, whole and partial vectors
// of channels, several panels; and some shapes without pooling.
constexpr ConvShape pooled_and_not[] = {{3, 8, 24, 16, 48, 3, 1, 1, false, true},
                                        {2, 16, 8, 64, 16, 3, 1, 1, false, true},
                                        {19, 8, 8, 32, 80, 3, 1, 1, false, true},
                                        {1, 32, 32, 16, 64, 3, 1, 1, false, true},
                                        {5, 16, 16, 48, 32, 3, 1, 1, false, true},
                                        {1, 8, 16, 144, 16, 3, 1, 1, false, true},
                                        {2, 6, 4, 16, 32, 3, 1, 1, false, true},
                                        {2, 8, 6, 5, 7, 3, 1, 1, false, true},
                                        {3, 2, 4, 16, 3, 3, 1, 1, false, true},
                                        {2, 9, 7, 64, 16, 3, 1, 1},
                                        {5, 4, 6, 32, 48, 3, 1, 1},
                                        {2, 9, 10, 35, 3, 3, 1, 1},
                                        {3, 8, 5, 3, 16, 3, 1, 1},
                                        {2, 7, 6, 3, 5, 4, 2, 1},
                                        {3, 5, 4, 17, 6, 1, 1, 0},
                                        {2, 8, 8, 3, 32, 1, 1, 0},
                                        {2, 8, 6, 16, 32, 4, 2, 1},
                                        {2, 5, 7, 48, 16, 1, 1, 0}};

// Every algorithm that a convolution may be computed by, each also with a ReLU.
std::vector<ConvShape> conv_shapes() {
    std::vector<ConvShape> shapes = systematic_shapes();
    for (const ConvShape& s : special_shapes()) shapes.push_back(s);
    for (const bool relu : {false, true})
        for (ConvShape s : pooled_and_not) {
            s.relu = relu;
            shapes.push_back(s);
        }
    return shapes;
}

// What a test knows of the convolutions it calls: the largest relative error v of their inputs, and whether Winograd's
// algorithm may be among them, as in the CPU's fast routes.
struct Route {
    double v;
    bool filters;
    bool may_filter(const ConvShape& s) const {
        return filters && s.kernel == 3 && s.stride == 1 && s.padding == 1 && std::min(s.height, s.width) >= 4;
    }
};
Route route() {
#ifdef PLAIN
    const bool filters = false;
#else
    const bool filters = std::string(backend().name).starts_with("CPU");
#endif
    return {input_unit(backend()), filters};
}
constexpr Route exact_route{0, false};

// Holds a convolution against its sums of products, of inputs with a relative error of up to v. `filtered`: the number
// of products that Winograd's algorithm adds at each of its points, or 0. In its output its points count 31.4 times as
// much as the definition's products at worst, and 10.8 times in the mean (rounding_test.cpp has that of F(4, 3), and
// less for other filters); and its transforms of inputs, weights and outputs round about 8 times more.
//
// Each element is within the bound of its sum. All together are off by far less, so that any wrong tap or weight is
// noticed: by the deviation of δ, at most u/√3, in place of λ u, but for chance among N elements; and by 2 v.
void expect_sums(const Values& actual, const std::vector<RandomSum>& sums, double filtered, double v,
                 const std::string& what) {
    double largest = 0, spreads = 0, values = 0, errors = 0;
    for (const RandomSum& sum : sums) largest = std::max(largest, sum.squares());
    const double points = std::sqrt((filtered + 8) / 2);
    std::vector<Running> expected;
    ASSERT_EQ(actual.size(), sums.size()) << what;
    for (size_t i = 0; i < sums.size(); ++i) {
        Running sum = sums[i].get();
        if (filtered > 0) sum.error = std::max(sum.error, 8 * points * 31.4 * std::sqrt(largest));
        sum.error += 8 * std::sqrt(2) * v / unit * std::sqrt(sums[i].squares());
        expected.push_back(sum);
        spreads += std::pow(std::max(sums[i].spread(), filtered > 0 ? points * 10.8 * std::sqrt(largest) : 0), 2);
        values += sum.value * sum.value;
        errors += std::pow(double(actual[i]) - sum.value, 2);
    }
    expect_close(actual, expected, what);
    const double u = in_double ? 2 * unit : unit, share = 1 / std::sqrt(3) + 5 / std::sqrt(double(sums.size()));
    EXPECT_LE(std::sqrt(errors), share * u * std::sqrt(spreads) + 2 * v * std::sqrt(values)) << what;
}

// x, or max(x, 0) where the shape has a ReLU.
Values activated(const Values& x, const ConvShape& s) {
    Values out = x;
    if (s.relu)
        for (real& value : out) value = std::max(value, real(0));
    return out;
}

void check_conv2d(decltype(Backend::conv2d) conv2d, const Route& route) {
    for (const ConvShape& s : conv_shapes())
        for (const bool with_bias : {false, true}) {
            const bool with_residual = with_bias == s.relu;
            const Values x = random_values(x_size(s), 1), w = random_values(w_size(s), 2),
                         bias = random_values(s.out, 3), residual = random_values(y_size(s), 4),
                         input = activated(x, s);
            std::vector<RandomSum> sums(static_cast<size_t>(y_size(s)));
            for_each_mac(s, [&](size_t xi, size_t wi, size_t yi) {
                sums[yi].add(Running(input[xi] * (s.pool ? 0.25 : 1)) * w[wi]);
            });
            for (size_t i = 0; i < sums.size(); ++i) {
                if (with_bias) sums[i].add(bias[i % size_t(s.out)]);
                if (with_residual) sums[i].add(residual[i]);
            }
            const Buffer biases(bias), residuals(residual);
            const real *bias_or_null = with_bias ? biases : static_cast<real*>(nullptr),
                       *residual_or_null = with_residual ? residuals : static_cast<real*>(nullptr);
            const std::string what = name(s) + (with_bias ? ", bias" : "") + (with_residual ? ", residual" : "");
            const Values y =
                output(y_size(s), [&](real* p) { conv2d(p, Buffer(x), Buffer(w), bias_or_null, residual_or_null, s); });
            expect_sums(y, sums, route.may_filter(s) ? double(s.in) : 0, route.v, what);
        }
}

void check_conv2d_backward_input(decltype(Backend::conv2d_backward_input) conv2d_backward_input, const Route& route) {
    for (const ConvShape& s : conv_shapes()) {
        const Values dy = random_values(y_size(s), 1), w = random_values(w_size(s), 2),
                     residual = random_values(x_size(s), 3);
        Values x = random_values(x_size(s), 4);
        x[0] = 0;  // the ReLU's gradient at 0 is 0
        std::vector<RandomSum> adjoint(static_cast<size_t>(x_size(s)));
        for_each_mac(s, [&](size_t xi, size_t wi, size_t yi) {
            adjoint[xi].add(Running(dy[yi] * (s.pool ? 0.25 : 1)) * w[wi]);
        });
        for (size_t i = 0; s.relu && i < adjoint.size(); ++i)
            if (!(x[i] > 0)) adjoint[i] = {};
        for (const std::string added : {"", ", residual", ", in place"}) {
            std::vector<RandomSum> sums = adjoint;
            for (size_t i = 0; !added.empty() && i < sums.size(); ++i) sums[i].add(residual[i]);
            const Values dx = output(x_size(s), [&](real* p) {
                if (added == ", in place") backend().upload(p, residual.data(), int64_t(residual.size()));
                const Buffer apart(residual);
                conv2d_backward_input(p, Buffer(dy), Buffer(w), Buffer(x),
                                      added.empty()           ? nullptr
                                      : added == ", residual" ? apart
                                                              : p,
                                      s);
            });
            expect_sums(dx, sums, route.may_filter(s) ? double(s.out) : 0, route.v, name(s) + added);
        }
    }
}

// Winograd, with and without pooling, and register tiles: all that one NaN goes into is NaN.
TEST_P(Kernel, conv2d_hides_no_nan) {
    for (const ConvShape& s : {ConvShape{2, 8, 8, 16, 16, 3, 1, 1, true},
                               {2, 8, 8, 16, 16, 3, 1, 1, true, true},
                               {2, 6, 5, 3, 5, 3, 1, 1, true},
                               {2, 8, 8, 16, 16, 4, 2, 1}}) {
        const Values x = random_values(x_size(s), 1, real(0.1), 1), w = random_values(w_size(s), 2),
                     dy = random_values(y_size(s), 3);
        const size_t xi_nan = x.size() / 2, yi_nan = dy.size() / 2;
        Values lost_x = x, lost_dy = dy;
        lost_x[xi_nan] = lost_dy[yi_nan] = nan;
        std::vector<bool> in_y(dy.size()), in_dx(x.size()), in_dw_by_x(w.size()), in_dw_by_dy(w.size());
        for_each_mac(s, [&](size_t xi, size_t wi, size_t yi) {
            if (xi == xi_nan) in_y[yi] = in_dw_by_x[wi] = true;
            if (yi == yi_nan) in_dx[xi] = in_dw_by_dy[wi] = true;
        });
        const auto expect_lost = [&](const std::string& what, const Values& found, const std::vector<bool>& lost) {
            for (size_t i = 0; i < found.size(); ++i)
                ASSERT_TRUE(!lost[i] || std::isnan(found[i])) << what << " of " << name(s) << ", element " << i;
        };
        const auto weight_gradient = [&](const Values& x_, const Values& dy_) {
            return output(w_size(s), [&](real* p) { backend().conv2d_backward_weight(p, Buffer(x_), Buffer(dy_), s); });
        };
        expect_lost(
            "y",
            output(y_size(s), [&](real* p) { backend().conv2d(p, Buffer(lost_x), Buffer(w), nullptr, nullptr, s); }),
            in_y);
        expect_lost("dx",
                    output(x_size(s),
                           [&](real* p) {
                               backend().conv2d_backward_input(p, Buffer(lost_dy), Buffer(w), Buffer(x), nullptr, s);
                           }),
                    in_dx);
        expect_lost("dw", weight_gradient(lost_x, dy), in_dw_by_x);
        expect_lost("dw", weight_gradient(x, lost_dy), in_dw_by_dy);
    }
}

TEST_P(Kernel, conv2d) { check_conv2d(backend().conv2d, route()); }
TEST_P(Kernel, conv2d_backward_input) { check_conv2d_backward_input(backend().conv2d_backward_input, route()); }

void check_conv2d_backward_weight(decltype(Backend::conv2d_backward_weight) conv2d_backward_weight,
                                  const Route& route) {
    for (const ConvShape& s : conv_shapes()) {
        const Values x = random_values(x_size(s), 1), dy = random_values(y_size(s), 2), input = activated(x, s);
        std::vector<RandomSum> sums(static_cast<size_t>(w_size(s)));
        for_each_mac(s, [&](size_t xi, size_t wi, size_t yi) {
            sums[wi].add(Running(input[xi] * (s.pool ? 0.25 : 1)) * dy[yi]);
        });
        const Values dw = output(w_size(s), [&](real* p) { conv2d_backward_weight(p, Buffer(x), Buffer(dy), s); });
        const int64_t tiles = s.batch * ((s.height + 3) / 4) * ((s.width + 3) / 4);
        expect_sums(dw, sums, route.may_filter(s) && !s.pool ? double(tiles) : 0, route.v, name(s));
    }
}

TEST_P(Kernel, conv2d_backward_weight) { check_conv2d_backward_weight(backend().conv2d_backward_weight, route()); }
// The device's exact convolutions, which do not round their inputs.
TEST_P(Kernel, exact_convolutions) {
    const ExactConvolutions exact;
    EXPECT_EQ(backend().exact, nullptr);
    check_conv2d(backend().conv2d, exact_route);
    check_conv2d_backward_input(backend().conv2d_backward_input, exact_route);
    check_conv2d_backward_weight(backend().conv2d_backward_weight, exact_route);
}

// Packed weights that a kernel caches are used for these weights only, in this layout, and within this ConstantWeights
// scope.
TEST_P(Kernel, convolutions_of_constant_weights) {
    for (const bool pool : {false, true})
        for (const int64_t other_out : {32, 48}) {
            ConvShape first{2, 8, 16, 32, 32, 3, 1, 1, false, pool}, second = first, otherwise = first;
            second.out = other_out;
            otherwise.pool = !pool;  // the same weights in another layout
            const ConvShape to_colours{2, 8, 16, other_out, 3, 3, 1, 1}, from_colours{2, 8, 16, 3, other_out, 3, 1, 1};
            const ConvShape shortcut{2, 8, 16, 3, other_out, 1, 1, 0}, colours{2, 8, 16, 3, 3, 3, 1, 1};
            ConvShape odd = to_colours;  // the same weights, with sides that do not fill AMX tiles
            odd.height = 7, odd.width = 9;
            const std::vector<ConvShape> shapes{first, second,       otherwise, to_colours,
                                                odd,   from_colours, shortcut,  colours};
            const std::vector<size_t> weights_of{0, 1, 0, 2, 2, 3, 4, 5};
            std::vector<std::optional<Buffer>> weights(6);  // at the same addresses in all scopes
            for (size_t k = 0; k < shapes.size(); ++k)
                if (!weights[weights_of[k]]) weights[weights_of[k]].emplace(random_values(w_size(shapes[k]), 1));
            for (uint64_t seed = 1; seed < 3; ++seed) {
                for (size_t k = 0; k < shapes.size(); ++k) {
                    const Values w = random_values(w_size(shapes[k]), 10 * seed + weights_of[k]);
                    backend().upload(*weights[weights_of[k]], w.data(), int64_t(w.size()));
                }
                const ConstantWeights constant(ConstantWeights::next());
                for (int round = 0; round < 2; ++round)
                    for (size_t k = 0; k < shapes.size(); ++k) {
                        const ConvShape& s = shapes[k];
                        real* const w = *weights[weights_of[k]];
                        const Values x = random_values(x_size(s), 1), dy = random_values(y_size(s), 2);
                        const auto run = [&] {
                            return std::pair(
                                output(y_size(s),
                                       [&](real* p) { backend().conv2d(p, Buffer(x), w, nullptr, nullptr, s); }),
                                output(x_size(s), [&](real* p) {
                                    backend().conv2d_backward_input(p, Buffer(dy), w, Buffer(x), nullptr, s);
                                }));
                        };
                        const auto cached = run();
                        const ConstantWeights none(0);
                        EXPECT_EQ(cached, run()) << name(s);
                    }
            }
        }
}

// ---- random numbers: all elements are written, whatever the count; random_test.cpp tests their values ----

template <class Draw>
void expect_prefixes(Draw draw) {
    const Values longest = draw(70001);
    for (const real value : longest) ASSERT_TRUE(std::isfinite(value));
    for (const int64_t n : {1, 2, 3, 4, 5, 37, 20011})
        EXPECT_EQ(draw(n), Values(longest.begin(), longest.begin() + n)) << count(n);
}

TEST_P(Kernel, normal) {
    expect_prefixes([](int64_t n) { return output(n, [&](real* y) { backend().normal(y, {1, 2, 3}, n); }); });
}

TEST_P(Kernel, uniform) {
    expect_prefixes([](int64_t n) { return output(n, [&](real* y) { backend().uniform(y, {1, 2, 3}, -1, 2, n); }); });
}

// Every kernel of the table has a TEST_P of its name above, or else this does not compile.
#define DUALMCMC_TESTED(name, arguments) static_assert(sizeof(GTEST_TEST_CLASS_NAME_(Kernel, name)) > 0);
DUALMCMC_KERNELS(DUALMCMC_TESTED)
#undef DUALMCMC_TESTED

}  // namespace
}  // namespace dualmcmc::test
