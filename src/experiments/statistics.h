// Statistics that the experiments report: distances between images, how well a score separates two sets, and how well
// chains mix. Independent of networks and devices; all sums are in double precision and in a fixed order.
#pragma once
#include <cstdint>
#include <vector>

#include "real.h"

namespace dualmcmc {

// Mean of (a - b)² over pixels and channels, as in Table 3, of images a and b, (S,S,3) in [-1, 1], with `n` = 3 S²
// values each.
double mean_squared_error(const real* a, const real* b, int64_t n);

// Peak signal-to-noise ratio in dB, 10 log10(2² / mse); the peak is the full range of [-1, 1]. Infinite if mse is 0.
double psnr(double mse);

// Structural similarity of images a and b, (side,side,3) in [-1, 1] (Wang, Bovik, Sheikh and Simoncelli 2004): Gaussian
// window 11×11 with σ = 1.5, K1 = 0.01, K2 = 0.03, dynamic range 2, covariances weighted by the window alone (no
// n/(n-1)), mean over the channels and over the windows that lie entirely inside the image. Equals scikit-image's
// structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=2, channel_axis=-1).
// The side must be at least 11.
double structural_similarity(const real* a, const real* b, int64_t side);

// Area under the ROC curve of a score that should be higher for `high` than for `low`: P(h > l) + ½ P(h = l) over all
// pairs, exact, from Mann and Whitney's U with tied ranks averaged. Neither set may be empty; no NaN.
double auroc(const std::vector<real>& low, const std::vector<real>& high);

double mean_of(const std::vector<double>& values);
double variance_of(const std::vector<double>& values);  // Σ (v - mean)² / (n - 1)

// Chains of equal length, one vector each. Both functions first split each chain into halves (dropping the middle draw
// of an odd number), so that a drift shows as a difference between chains.
using Chains = std::vector<std::vector<double>>;

// Split-R̂ (Gelman et al., Bayesian Data Analysis 3, eq. 11.4; Vehtari et al. 2021, eq. 4): sqrt(var⁺ / W). Needs 4
// draws per chain. NaN if no chain moves.
double split_rhat(const Chains& chains);

// Effective number of independent draws in all chains together (Vehtari et al. 2021, section 3.2): M N / τ, where
// τ = -1 + 2 Σ P_k and P_k = ρ_2k + ρ_2k+1, from the autocorrelations over all half-chains. The sum stops before
// the first negative P_k, and the P_k are made non-increasing (Geyer 1992, the initial monotone sequence). τ is at
// least 1 / log10(M N). Needs 8 draws per chain; NaN if no chain moves.
double effective_sample_size(const Chains& chains);

}  // namespace dualmcmc
