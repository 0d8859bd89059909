// The experiments' statistics against direct formulas, constants from NumPy and SciPy (reference/write_statistics.py) and closed forms.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <stdexcept>

#include "experiments/statistics.h"

namespace dualmcmc::test {
namespace {

// ---- images ---------------------------------------------------------------------------------------------------------------------

// The images of reference/write_statistics.py.
std::pair<std::vector<float>, std::vector<float>> two_images(int64_t side) {
    std::vector<float> a, b;
    for (int64_t y = 0; y < side; ++y)
        for (int64_t x = 0; x < side; ++x)
            for (int64_t c = 0; c < 3; ++c) {
                const double value = double((y * 37 + x * 91 + c * 53 + x * y % 17 * 11) % 256) / 127.5 - 1;
                a.push_back(float(value));
                b.push_back(float(0.8 * value + 0.15 * std::sin(0.7 * double(x) + 0.3 * double(y) + double(c))));
            }
    return {a, b};
}

// SSIM as Wang et al. write it: for each window two passes, the means first, then the weighted squared deviations from them.
double direct_ssim(const std::vector<float>& a, const std::vector<float>& b, int64_t side) {
    double weights[11][11], total = 0;
    for (int i = 0; i < 11; ++i)
        for (int j = 0; j < 11; ++j) total += weights[i][j] = std::exp(-((i - 5) * (i - 5) + (j - 5) * (j - 5)) / 4.5);
    double sum = 0;
    int64_t windows = 0;
    for (int64_t c = 0; c < 3; ++c)
        for (int64_t top = 0; top + 11 <= side; ++top)
            for (int64_t left = 0; left + 11 <= side; ++left, ++windows) {
                auto weighted = [&](const std::function<double(double, double)>& f) {
                    double result = 0;
                    for (int64_t i = 0; i < 11; ++i)
                        for (int64_t j = 0; j < 11; ++j) {
                            const size_t at = size_t(((top + i) * side + left + j) * 3 + c);
                            result += weights[i][j] / total * f(double(a[at]), double(b[at]));
                        }
                    return result;
                };
                const double mean_a = weighted([](double u, double) { return u; }), mean_b = weighted([](double, double v) { return v; });
                const double var_a = weighted([&](double u, double) { return (u - mean_a) * (u - mean_a); });
                const double var_b = weighted([&](double, double v) { return (v - mean_b) * (v - mean_b); });
                const double covariance = weighted([&](double u, double v) { return (u - mean_a) * (v - mean_b); });
                sum += (2 * mean_a * mean_b + 0.0004) * (2 * covariance + 0.0036) / ((mean_a * mean_a + mean_b * mean_b + 0.0004) * (var_a + var_b + 0.0036));
            }
    return sum / double(windows);
}

TEST(ImageQuality, EqualsSciPyAndTheDirectFormula) {
    // Printed by reference/write_statistics.py.
    const struct { int64_t side; double mse, psnr, ssim; } cases[] = {{32, 0.024843592695, 22.0684559085, 0.484145947357},
                                                                       {19, 0.024064906352, 22.2067581537, 0.567798246037}};
    for (const auto& c : cases) {
        const auto [a, b] = two_images(c.side);
        const double mse = mean_squared_error(a.data(), b.data(), int64_t(a.size()));
        // The images are rounded to floats on both sides, b from a sine that may differ in its last bits.
        EXPECT_NEAR(mse, c.mse, 1e-8);
        EXPECT_NEAR(psnr(mse), c.psnr, 1e-6);
        EXPECT_NEAR(structural_similarity(a.data(), b.data(), c.side), c.ssim, 1e-7);
        EXPECT_NEAR(structural_similarity(a.data(), b.data(), c.side), direct_ssim(a, b, c.side), 1e-12);
    }
}

TEST(ImageQuality, KnownCases) {
    auto [a, b] = two_images(17);
    EXPECT_EQ(mean_squared_error(a.data(), a.data(), int64_t(a.size())), 0);
    EXPECT_TRUE(std::isinf(psnr(0)));
    EXPECT_NEAR(psnr(4), 0, 1e-12);
    EXPECT_NEAR(psnr(0.04), 20, 1e-12);
    EXPECT_NEAR(structural_similarity(a.data(), a.data(), 17), 1, 1e-12);
    // Constant images u and v: the windows' variances vanish, (2uv + c1) / (u² + v² + c1) is left.
    std::fill(a.begin(), a.end(), 0.5f);
    std::fill(b.begin(), b.end(), -0.25f);
    EXPECT_NEAR(structural_similarity(a.data(), b.data(), 17), (-0.25 + 0.0004) / (0.3125 + 0.0004), 1e-9);
    EXPECT_THROW(structural_similarity(a.data(), b.data(), 10), std::runtime_error);
}

// ---- area under the ROC curve ---------------------------------------------------------------------------------------------------

double direct_auroc(const std::vector<float>& low, const std::vector<float>& high) {
    double wins = 0;
    for (const float l : low)
        for (const float h : high) wins += h > l ? 1 : h == l ? 0.5 : 0;
    return wins / double(low.size()) / double(high.size());
}

TEST(Auroc, EqualsAllPairs) {
    std::mt19937 random(1);
    for (const int levels : {1, 2, 5, 40, 100000}) {
        std::uniform_int_distribution<int> level(0, levels - 1);
        std::vector<float> low, high;
        for (int i = 0; i < 137; ++i) low.push_back(float(level(random)) - 0.3f * float(levels));
        for (int i = 0; i < 61; ++i) high.push_back(float(level(random)) - 0.3f * float(levels));
        EXPECT_EQ(auroc(low, high), direct_auroc(low, high)) << levels;  // both are exact in double precision
        EXPECT_NEAR(auroc(low, high) + auroc(high, low), 1, 1e-15) << levels;
    }
}

TEST(Auroc, EqualsSciPyAndKnownCases) {
    std::vector<float> low, high;
    for (int i = 0; i < 60; ++i) low.push_back(float(i * 7 % 23));
    for (int i = 0; i < 45; ++i) high.push_back(float(i * 5 % 29 + 2));
    EXPECT_NEAR(auroc(low, high), 0.647037037037, 1e-12);  // scipy.stats.mannwhitneyu, by reference/write_statistics.py
    EXPECT_EQ(auroc({1, 2}, {3, 4}), 1);
    EXPECT_EQ(auroc({3, 4}, {1, 2}), 0);
    EXPECT_EQ(auroc({1, 1}, {1}), 0.5);
    EXPECT_EQ(auroc({-INFINITY, 0}, {INFINITY}), 1);
    EXPECT_THROW(auroc({1}, {}), std::runtime_error);
    EXPECT_THROW(auroc({1}, {NAN}), std::runtime_error);
}

// ---- chains ---------------------------------------------------------------------------------------------------------------------

// x_t = ρ x_t-1 + sqrt(1 - ρ²) u, started in its stationary density.
Chains autoregressive(size_t chains, size_t draws, double rho, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    Chains out(chains);
    for (auto& chain : out) {
        double x = normal(random);
        for (size_t t = 0; t < draws; ++t, x = rho * x + std::sqrt(1 - rho * rho) * normal(random)) chain.push_back(x);
    }
    return out;
}

// The chains of reference/write_statistics.py.
Chains four_chains() {
    Chains out(4);
    for (int m = 0; m < 4; ++m)
        for (int t = 0; t < 101; ++t) out[size_t(m)].push_back(std::sin(0.9 * t * (m + 1)) + 0.3 * std::cos(0.05 * t + m) + (m == 3 ? 0.004 * t : 0));
    return out;
}

TEST(Mixing, EqualsNumPy) {
    const Chains chains = four_chains();
    EXPECT_NEAR(split_rhat(chains), 1.042486536400, 1e-11);
    EXPECT_NEAR(effective_sample_size(chains), 313.889652301, 1e-7);
    Chains sums;
    for (const auto& chain : chains) {
        sums.emplace_back();
        double sum = 0;
        for (int t = 0; t < 24; ++t) sums.back().push_back(sum += chain[size_t(t)]);
    }
    EXPECT_NEAR(split_rhat(sums), 3.682768308801, 1e-11);
    EXPECT_NEAR(effective_sample_size(sums), 4.507662946, 1e-8);
}

// From the variogram instead of autocovariances (Bayesian Data Analysis 3, section 11.5: ρ_t = 1 - V_t / (2 var⁺)), for chains long
// enough that their edges do not count; and R̂ from between- and within-sequence variances B and W, by their definitions.
TEST(Mixing, AgreesWithTheVariogram) {
    const Chains chains = autoregressive(3, 30000, 0.7, 5);
    Chains half;
    for (const auto& chain : chains)
        for (const size_t first : {size_t{0}, chain.size() / 2}) half.emplace_back(chain.begin() + long(first), chain.begin() + long(first + chain.size() / 2));
    const double n = double(half[0].size()), m = double(half.size());
    double grand = 0, between = 0, within = 0;
    std::vector<double> means;
    for (const auto& chain : half) {
        double sum = 0;
        for (const double v : chain) sum += v;
        means.push_back(sum / n);
        grand += sum / n / m;
    }
    for (size_t j = 0; j < half.size(); ++j) {
        between += n / (m - 1) * (means[j] - grand) * (means[j] - grand);
        for (const double v : half[j]) within += (v - means[j]) * (v - means[j]) / (n - 1) / m;
    }
    const double plus = (n - 1) / n * within + between / n;
    EXPECT_NEAR(split_rhat(chains), std::sqrt(plus / within), 1e-12);
    auto rho = [&](size_t lag) {
        double variogram = 0;
        for (const auto& chain : half)
            for (size_t t = lag; t < chain.size(); ++t) variogram += (chain[t] - chain[t - lag]) * (chain[t] - chain[t - lag]) / m / (n - double(lag));
        return 1 - variogram / (2 * plus);
    };
    double tau = -1, before = 2;
    for (size_t lag = 0; lag < 1000; lag += 2) {
        const double pair = rho(lag) + rho(lag + 1);
        if (pair < 0) break;
        tau += 2 * (before = std::min(before, pair));
    }
    EXPECT_NEAR(effective_sample_size(chains) / (m * n / tau), 1, 0.02);
}

TEST(Mixing, KnownCases) {
    // Madras and Sokal 1988, eq. 3.19: an estimate of τ with a window of w lags has the relative variance 2 (2w + 1) / N. At
    // |ρ| ≤ 0.6 a window of 40 lags holds all but 0.6^40 of τ; four standard deviations.
    const size_t draws = 100000;
    const double tolerance = 4 * std::sqrt(2 * 81 / (4.0 * double(draws)));  // 0.08
    for (const double rho : {0.0, 0.3, 0.6, -0.5}) {
        const Chains chains = autoregressive(4, draws, rho, 7);
        const double expected = 4 * double(draws) * (1 - rho) / (1 + rho);
        EXPECT_NEAR(effective_sample_size(chains) / expected, 1, tolerance) << rho;
        EXPECT_NEAR(split_rhat(chains), 1, 0.001) << rho;
    }
    // A drift within each chain, and chains at different places.
    Chains drifting = autoregressive(4, 1000, 0, 9), apart = drifting;
    for (size_t c = 0; c < 4; ++c)
        for (size_t t = 0; t < 1000; ++t) {
            drifting[c][t] += 0.004 * double(t);
            apart[c][t] += 3 * double(c);
        }
    EXPECT_GT(split_rhat(drifting), 1.3);
    EXPECT_GT(split_rhat(apart), 2);
    EXPECT_LT(effective_sample_size(apart), 20);
    EXPECT_TRUE(std::isnan(split_rhat({{1, 1, 1, 1, 1, 1, 1, 1}})));
    EXPECT_TRUE(std::isnan(effective_sample_size({{1, 1, 1, 1, 1, 1, 1, 1}})));
    EXPECT_THROW(split_rhat({{1, 2, 3}}), std::runtime_error);
    EXPECT_THROW(effective_sample_size({{1, 2, 3, 4, 5, 6, 7, 8}, {1, 2}}), std::runtime_error);
}

}  // namespace
}  // namespace dualmcmc::test
