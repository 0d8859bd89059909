// Means and variances per channel over several batches.
#pragma once
#include <vector>

#include "real.h"

namespace dualmcmc {

// Updated by Chan's formula (Chan, Golub and LeVeque 1979).
struct PooledStatistics {
    double count = 0;
    std::vector<double> mean, squares;  // squares: Σ (x - mean)²

    // Adds a batch of `more` values per channel, with this mean and unbiased variance.
    void add(const std::vector<real>& batch_mean, const std::vector<real>& batch_var, double more) {
        mean.resize(batch_mean.size());
        squares.resize(batch_mean.size());
        for (size_t c = 0; c < mean.size(); ++c) {
            const double shift = double(batch_mean[c]) - mean[c];
            mean[c] += shift * more / (count + more);
            squares[c] += double(batch_var[c]) * (more - 1) + shift * shift * count * more / (count + more);
        }
        count += more;
    }
};

}  // namespace dualmcmc
