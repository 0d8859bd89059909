// Shared by the tests: comparisons, deterministic random numbers, selection of backend and threads, layout conversions.
//
// A comparison requires |actual - expected| <= atol + rtol |expected| of every element, which fails for NaN, and
// reports the worst element with both values. Of the code under test this file uses only Tensor's copies.
#pragma once
#include <gtest/gtest.h>
#include <omp.h>

#include <cctype>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "engine/tensor.h"
#include "machine/instruction_sets.h"
#include "rounding.h"

#ifndef DOUBLE
namespace dualmcmc {
extern const Backend backend_simt_fp32, backend_simt_tf32, backend_simt_bf16;  // the emulated GPU: tests/simt
}
#endif

namespace dualmcmc::test {

using Values = std::vector<real>;

// The largest relative error of one rounding to real: 2^-24 in float32. Tolerances are multiples of it.
inline constexpr double unit = std::numeric_limits<real>::epsilon() / 2;
inline constexpr bool in_double = std::is_same_v<real, double>;

// ---- comparisons --------------------------------------------------------------------------------

// `expected` holds floats or doubles.
template <class Expected>
void expect_close(const Values& actual, const std::vector<Expected>& expected, double rtol, double atol,
                  const std::string& what) {
    if (actual.size() != expected.size()) {
        ADD_FAILURE() << what << ": " << actual.size() << " values, expected " << expected.size();
        return;
    }
    size_t worst = 0, failures = 0;
    double worst_ratio = -1;
    for (size_t i = 0; i < actual.size(); ++i) {
        const double difference = std::abs(double(actual[i]) - double(expected[i]));
        const double allowed = atol + rtol * std::abs(double(expected[i]));
        if (difference <= allowed) continue;  // false for NaN
        ++failures;
        double ratio = difference / allowed;
        if (std::isnan(ratio)) ratio = std::numeric_limits<double>::infinity();
        if (ratio > worst_ratio) worst_ratio = ratio, worst = i;
    }
    if (failures > 0)
        ADD_FAILURE() << what << ": " << failures << " of " << actual.size() << " values differ, the worst at ["
                      << worst << "]: " << actual[worst] << ", expected " << expected[worst] << " (rtol " << rtol
                      << ", atol " << atol << ")";
}

template <class Expected>
void expect_close(const Tensor& actual, const std::vector<Expected>& expected, double rtol, double atol,
                  const std::string& what) {
    if (!actual.defined()) ADD_FAILURE() << what << ": undefined";
    else expect_close(actual.to_host(), expected, rtol, atol, what);
}

inline void expect_close(const Tensor& actual, const Tensor& expected, double rtol, double atol,
                         const std::string& what) {
    EXPECT_EQ(to_string(actual.shape()), to_string(expected.shape())) << what;
    expect_close(actual, expected.to_host(), rtol, atol, what);
}

// Within the formula's running error; in double precision the expectation has it, too.
inline void expect_close(const Values& actual, const std::vector<rounding::Running>& expected,
                         const std::string& what) {
    ASSERT_EQ(actual.size(), expected.size()) << what;
    const double u = in_double ? 2 * unit : unit;
    size_t worst = 0;
    double share = 0;
    for (size_t i = 0; i < actual.size(); ++i) {
        const double error = std::abs(double(actual[i]) - expected[i].value), bound = u * expected[i].error,
                     its_share = error <= bound ? (error > 0 ? error / bound : 0) : HUGE_VAL;  // a NaN, too
        if (its_share > share) share = its_share, worst = i;
    }
    EXPECT_LE(share, 1) << what << ", [" << worst << "]: " << actual[worst] << ", expected " << expected[worst].value
                        << " within " << u * expected[worst].error;
}

// ‖actual - expected‖ / ‖expected‖, or ‖actual‖ if expected is 0.
// NaN if the sizes differ: EXPECT_LE then fails.
template <class Reference>
double relative_l2(const Values& actual, const std::vector<Reference>& expected) {
    if (actual.size() != expected.size()) return std::numeric_limits<double>::quiet_NaN();
    double difference = 0, reference = 0;
    for (size_t i = 0; i < actual.size(); ++i) {
        difference += std::pow(double(actual[i]) - double(expected[i]), 2);
        reference += std::pow(double(expected[i]), 2);
    }
    return std::sqrt(difference) / (reference > 0 ? std::sqrt(reference) : 1);
}
inline double relative_l2(const Tensor& actual, const Tensor& expected) {
    return relative_l2(actual.to_host(), expected.to_host());
}

// ---- random values ------------------------------------------------------------------------------

// Uniform in [low, high), the same on every machine. (Mean 0 and variance 1/3 between -1 and 1.)
inline Values random_values(int64_t n, uint32_t seed, real low = -1, real high = 1) {
    std::mt19937 generator(seed);
    Values values(static_cast<size_t>(n));
    for (real& value : values) value = low + (high - low) * (real(generator() >> 8) * 0x1p-24f);
    return values;
}

inline Tensor random_tensor(const Shape& shape, uint32_t seed, real low = -1, real high = 1) {
    return Tensor::from_host(shape, random_values(element_count(shape), seed, low, high));
}

// ---- backend and threads ------------------------------------------------------------------------

// The CPU backends of this build, from the smallest instruction set to the largest; and those that this processor
// supports.
inline std::vector<const Backend*> cpu_backends() {
    std::vector<const Backend*> all;
    for (const InstructionSet& set : instruction_sets()) all.insert(all.begin(), set.backend);
    return all;
}
inline std::vector<const Backend*> supported_cpu_backends() {
    std::vector<const Backend*> able;
    for (const InstructionSet& set : instruction_sets())
        if (set.supported) able.insert(able.begin(), set.backend);
    return able;
}

// The tables of the emulated GPU and, in a build with nvcc, of the real one: in fp32, or in every precision.
inline std::vector<const Backend*> gpu_backends_of_all_precisions() {
    std::vector<const Backend*> tables;
#ifndef DOUBLE
    tables = {&backend_simt_fp32, &backend_simt_tf32, &backend_simt_bf16};
#endif
    for (const Backend* table : cuda_backends()) tables.push_back(table);
    return tables;
}
inline std::vector<const Backend*> gpu_backends() {
    std::vector<const Backend*> tables;
#ifndef DOUBLE
    tables = {&backend_simt_fp32};
#endif
    if (!cuda_backends().empty()) tables.push_back(cuda_backends()[0]);
    return tables;
}

// The largest relative error of an input of the backend's GEMMs, 0 for fp32. TF32 keeps 10 bits after the leading one,
// and tensor cores may truncate the rest; bf16 keeps 7, rounded to nearest. In AMX's BF16x3 (src/cpu/fast/amx.cpp)
// hi + lo is off by 2^-17, and the omitted lo lo is 2^-16 of the product: together as if each factor were off by 2^-16.
inline double input_unit(const Backend& table) {
    const std::string name = table.name;
    return name.ends_with("tf32") ? 0x1p-10 : name.ends_with("bf16") ? 0x1p-8 : name.ends_with("amx") ? 0x1p-16 : 0;
}

// Why a table cannot be used on this machine; empty if it can.
inline const std::string& why_not(const Backend& table) {
    static std::map<const Backend*, std::string> reasons;
    const auto [entry, first] = reasons.try_emplace(&table);
    for (const InstructionSet& set : instruction_sets())
        if (set.backend == &table && !set.supported) entry->second = "this processor lacks these instructions";
    if (first && table.start) try {
            table.start(0);
        } catch (const std::runtime_error& error) {
            entry->second = error.what();
        }
    return entry->second;
}

// Aborts if a kernel wrote outside the emulated GPU's memory (gpu_test.cpp).
#ifdef DOUBLE
inline void check_emulated_memory() {}
#else
void check_emulated_memory();
#endif

// While one lives, `table` is the backend in use.
class WithBackend {
public:
    explicit WithBackend(const Backend& table) : before_(backend()) { set_backend(table); }
    ~WithBackend() { set_backend(before_); }
    WithBackend(const WithBackend&) = delete;
    WithBackend& operator=(const WithBackend&) = delete;

private:
    const Backend& before_;
};

// While one lives, kernels run on `threads` threads.
class WithThreads {
public:
    explicit WithThreads(int threads) : before_(omp_get_max_threads()) {
        omp_set_num_threads(threads);
        int found = 0;
#pragma omp parallel
#pragma omp single
        found = omp_get_num_threads();
        EXPECT_EQ(found, threads) << "unset OMP_THREAD_LIMIT and OMP_DYNAMIC, which make this a test of fewer threads";
    }
    ~WithThreads() { omp_set_num_threads(before_); }
    WithThreads(const WithThreads&) = delete;
    WithThreads& operator=(const WithThreads&) = delete;

private:
    int before_;
};

// A suite that runs once for each backend:
//     class Kernel : public EachBackend {};
//     TEST_P(Kernel, add) { ... }
//     INSTANTIATE_TEST_SUITE_P(Cpu, Kernel, testing::ValuesIn(cpu_backends()), backend_name);
// Tests of a device that cannot be used are skipped, with the reason.
class EachBackend : public testing::TestWithParam<const Backend*> {
protected:
    void SetUp() override {
        if (!why_not(*GetParam()).empty()) GTEST_SKIP() << GetParam()->name << ": " << why_not(*GetParam());
    }
    void TearDown() override { check_emulated_memory(); }

private:
    WithBackend with_{*GetParam()};
};

inline std::string backend_name(const testing::TestParamInfo<const Backend*>& info) {
    std::string name;
    for (const char* c = info.param->name; *c; ++c)
        if (std::isalnum(static_cast<unsigned char>(*c))) name += *c;
    return name;
}

// ---- layouts ------------------------------------------------------------------------------------

// (b, c, h, w) -> (b, h, w, c); the sizes are in the order of the input.
inline Values nchw_to_nhwc(const Values& x, int64_t batch, int64_t channels, int64_t height, int64_t width) {
    Values y(x.size());
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t h = 0; h < height; ++h)
                for (int64_t w = 0; w < width; ++w)
                    y.at(size_t(((b * height + h) * width + w) * channels + c)) =
                        x.at(size_t(((b * channels + c) * height + h) * width + w));
    return y;
}

// (b, h, w, c) -> (b, c, h, w)
inline Values nhwc_to_nchw(const Values& x, int64_t batch, int64_t height, int64_t width, int64_t channels) {
    Values y(x.size());
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < height; ++h)
            for (int64_t w = 0; w < width; ++w)
                for (int64_t c = 0; c < channels; ++c)
                    y.at(size_t(((b * channels + c) * height + h) * width + w)) =
                        x.at(size_t(((b * height + h) * width + w) * channels + c));
    return y;
}

// PyTorch's convolution weights (out, in, kh, kw) -> (kh, kw, in, out)
inline Values oihw_to_hwio(const Values& x, int64_t out, int64_t in, int64_t height, int64_t width) {
    Values y(x.size());
    for (int64_t o = 0; o < out; ++o)
        for (int64_t i = 0; i < in; ++i)
            for (int64_t h = 0; h < height; ++h)
                for (int64_t w = 0; w < width; ++w)
                    y.at(size_t(((h * width + w) * in + i) * out + o)) =
                        x.at(size_t(((o * in + i) * height + h) * width + w));
    return y;
}

// (kh, kw, in, out) -> (out, in, kh, kw)
inline Values hwio_to_oihw(const Values& x, int64_t height, int64_t width, int64_t in, int64_t out) {
    Values y(x.size());
    for (int64_t h = 0; h < height; ++h)
        for (int64_t w = 0; w < width; ++w)
            for (int64_t i = 0; i < in; ++i)
                for (int64_t o = 0; o < out; ++o)
                    y.at(size_t(((o * in + i) * height + h) * width + w)) =
                        x.at(size_t(((h * width + w) * in + i) * out + o));
    return y;
}

// (rows, columns) -> (columns, rows): PyTorch's linear weights (out, in) and ours (in, out).
inline Values transposed(const Values& x, int64_t rows, int64_t columns) {
    Values y(x.size());
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) y.at(size_t(c * rows + r)) = x.at(size_t(r * columns + c));
    return y;
}

}  // namespace dualmcmc::test
