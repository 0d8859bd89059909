// The numbers that the experiments report: distances between images, how well a score parts two sets, and how well
// chains mix. Knows no network and no device; everything is summed in double precision and in a fixed order.
#pragma once
#include <cstdint>
#include <vector>

namespace dualmcmc {

// Images a and b, (S,S,3) in [-1, 1], of `n` = 3 S² numbers: mean of (a - b)² over pixels and channels, as Table 3
// counts it.
double mean_squared_error(const float* a, const float* b, int64_t n);

// Peak signal-to-noise ratio in dB, 10 log10(2² / mse): the peak is the whole range of [-1, 1]. Infinite where mse is
// 0.
double psnr(double mse);

// Structural similarity of images a and b, (side,side,3) in [-1, 1] (Wang, Bovik, Sheikh and Simoncelli 2004): Gaussian
// window 11×11 with σ = 1.5, K1 = 0.01, K2 = 0.03, dynamic range 2, covariances weighted by the window alone (no
// n/(n-1)), mean over the windows that lie wholly inside the image and over the channels. scikit-image's
// structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=2, channel_axis=-1).
// The side must be at least 11.
double structural_similarity(const float* a, const float* b, int64_t side);

// Area under the ROC curve of a score that should be higher for `high` than for `low`: P(h > l) + ½ P(h = l) over all
// pairs, exact: Mann and Whitney's U from the ranks, ties at their middle rank. Neither may be empty; no NaN.
double auroc(const std::vector<float>& low, const std::vector<float>& high);

double mean_of(const std::vector<double>& values);
double variance_of(const std::vector<double>& values);  // Σ (v - mean)² / (n - 1)

// Chains of one length, chain by chain. Both functions first split each chain into its halves (an odd middle draw is
// left out), so that a drift shows as a difference between chains.
using Chains = std::vector<std::vector<double>>;

// Split-R̂ (Gelman et al., Bayesian Data Analysis 3, eq. 11.4; Vehtari et al. 2021, eq. 4): sqrt(var⁺ / W). At least 4
// draws a chain. NaN where no chain moves.
double split_rhat(const Chains& chains);

// Effective number of independent draws in all chains together (Vehtari et al. 2021, section 3.2): M N / τ, τ = -1 + 2
// Σ P_k with P_k = ρ_2k + ρ_2k+1 from the autocorrelations over all half-chains, cut before the first negative P_k and
// made non-increasing (Geyer 1992, the initial monotone sequence); τ is at least 1 / log10(M N). At least 8 draws a
// chain; NaN where no chain moves.
double effective_sample_size(const Chains& chains);

}  // namespace dualmcmc
