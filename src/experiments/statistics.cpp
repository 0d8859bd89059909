// See statistics.h.
#include "experiments/statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "check.h"

namespace dualmcmc {

double mean_squared_error(const real* a, const real* b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += (double(a[i]) - double(b[i])) * (double(a[i]) - double(b[i]));
    return sum / double(n);
}

double psnr(double mse) { return 10 * std::log10(4 / mse); }

// ---- structural similarity ----------------------------------------------------------------------

namespace {

constexpr int64_t window = 11;

const std::array<double, window>& gaussian() {
    static const auto weights = [] {
        std::array<double, window> w{};
        for (int64_t i = 0; i < window; ++i)
            w[size_t(i)] = std::exp(-0.5 * double((i - window / 2) * (i - window / 2)) / (1.5 * 1.5));
        const double sum = std::accumulate(w.begin(), w.end(), 0.0);
        for (double& value : w) value /= sum;
        return w;
    }();
    return weights;
}

// The weighted mean of every window of a one-channel image, (side, side) -> (side - 10, side - 10): first along rows,
// then along columns.
std::vector<double> window_means(const std::vector<double>& in, int64_t side) {
    const int64_t windows = side - window + 1;
    std::vector<double> narrow(size_t(side * windows), 0.0), out(size_t(windows * windows), 0.0);
    for (int64_t y = 0; y < side; ++y)
        for (int64_t k = 0; k < window; ++k)
            for (int64_t x = 0; x < windows; ++x)
                narrow[size_t(y * windows + x)] += gaussian()[size_t(k)] * in[size_t(y * side + x + k)];
    for (int64_t y = 0; y < windows; ++y)
        for (int64_t k = 0; k < window; ++k)
            for (int64_t x = 0; x < windows; ++x)
                out[size_t(y * windows + x)] += gaussian()[size_t(k)] * narrow[size_t((y + k) * windows + x)];
    return out;
}

}  // namespace

double structural_similarity(const real* a, const real* b, int64_t side) {
    CHECK_GE(side, window);
    constexpr double range = 2, c1 = 0.01 * range * 0.01 * range, c2 = 0.03 * range * 0.03 * range;
    const size_t pixels = size_t(side * side);
    double sum = 0;
    size_t count = 0;
    for (size_t channel = 0; channel < 3; ++channel) {
        std::vector<double> u(pixels), v(pixels), uu(pixels), vv(pixels), uv(pixels);
        for (size_t i = 0; i < pixels; ++i) {
            u[i] = double(a[3 * i + channel]);
            v[i] = double(b[3 * i + channel]);
            uu[i] = u[i] * u[i];
            vv[i] = v[i] * v[i];
            uv[i] = u[i] * v[i];
        }
        const auto mu = window_means(u, side), mv = window_means(v, side), muu = window_means(uu, side),
                   mvv = window_means(vv, side), muv = window_means(uv, side);
        for (size_t i = 0; i < mu.size(); ++i) {
            const double variances = muu[i] - mu[i] * mu[i] + mvv[i] - mv[i] * mv[i],
                         covariance = muv[i] - mu[i] * mv[i];
            sum += (2 * mu[i] * mv[i] + c1) * (2 * covariance + c2) /
                   ((mu[i] * mu[i] + mv[i] * mv[i] + c1) * (variances + c2));
        }
        count += mu.size();
    }
    return sum / double(count);
}

// ---- area under the ROC curve -------------------------------------------------------------------

double auroc(const std::vector<real>& low, const std::vector<real>& high) {
    CHECK(!low.empty() && !high.empty());
    std::vector<std::pair<real, bool>> all;
    for (const real score : low) all.emplace_back(score, false);
    for (const real score : high) all.emplace_back(score, true);
    for (const auto& [score, is_high] : all) CHECK(!std::isnan(score));
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    // 2 × (pairs with h > l) + (pairs with h = l): an integer, so nothing is rounded before the division.
    int64_t twice_wins = 0;
    int64_t lower = 0;  // how many of `low` are below the current group of equal scores
    for (size_t begin = 0; begin < all.size();) {
        size_t end = begin;
        int64_t tied[2] = {0, 0};
        for (; end < all.size() && all[end].first == all[begin].first; ++end) ++tied[all[end].second];
        twice_wins += tied[1] * (2 * lower + tied[0]);
        lower += tied[0];
        begin = end;
    }
    return double(twice_wins) / (2 * double(low.size()) * double(high.size()));
}

// ---- chains -------------------------------------------------------------------------------------

double mean_of(const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

double variance_of(const std::vector<double>& values) {
    const double mean = mean_of(values);
    double sum = 0;
    for (const double v : values) sum += (v - mean) * (v - mean);
    return sum / double(values.size() - 1);
}

namespace {

Chains halves(const Chains& chains, size_t min_draws) {
    CHECK(!chains.empty());
    Chains out;
    for (const std::vector<double>& chain : chains) {
        CHECK_EQ(chain.size(), chains[0].size());
        CHECK_GE(chain.size(), min_draws);
        const auto half = std::ptrdiff_t(chain.size() / 2);
        out.emplace_back(chain.begin(), chain.begin() + half);
        out.emplace_back(chain.end() - half, chain.end());
    }
    return out;
}

// W, the mean variance within the chains, and var⁺ = (N-1)/N W + the variance of the chains' means.
struct Variances {
    double within, plus;
};
Variances variances(const Chains& chains) {
    const double draws = double(chains[0].size());
    std::vector<double> means;
    double within = 0;
    for (const std::vector<double>& chain : chains) {
        means.push_back(mean_of(chain));
        within += variance_of(chain) / double(chains.size());
    }
    return {within, (draws - 1) / draws * within + variance_of(means)};
}

}  // namespace

double split_rhat(const Chains& chains) {
    const Variances v = variances(halves(chains, 4));
    return v.within > 0 ? std::sqrt(v.plus / v.within) : std::numeric_limits<double>::quiet_NaN();
}

double effective_sample_size(const Chains& chains) {
    Chains centred = halves(chains, 8);
    const Variances v = variances(centred);
    if (!(v.within > 0)) return std::numeric_limits<double>::quiet_NaN();
    for (std::vector<double>& chain : centred) {
        const double mean = mean_of(chain);
        for (double& value : chain) value -= mean;
    }
    const size_t draws = centred[0].size();
    // Vehtari et al. 2021, eq. 10; autocovariances about each chain's own mean, divided by N.
    auto correlation = [&](size_t lag) {
        double covariance = 0;
        for (const std::vector<double>& chain : centred)
            covariance += std::inner_product(chain.begin(), chain.end() - std::ptrdiff_t(lag),
                                             chain.begin() + std::ptrdiff_t(lag), 0.0);
        covariance /= double(draws) * double(centred.size());
        return 1 - (v.within - covariance) / v.plus;
    };
    double tau = -1, before = std::numeric_limits<double>::infinity();
    for (size_t lag = 0; lag + 1 < draws; lag += 2) {
        const double pair = (lag == 0 ? 1 : correlation(lag)) + correlation(lag + 1);
        if (pair < 0) break;
        before = std::min(before, pair);
        tau += 2 * before;
    }
    const double all = double(draws * centred.size());
    return all / std::max(tau, 1 / std::log10(all));
}

}  // namespace dualmcmc
