// The 2-D densities and the metrics of `dualmcmc toys`, against closed forms and samples.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numbers>

#include "compare.h"
#include "experiments/toys.h"

namespace dualmcmc::test {
namespace {

constexpr Grid fine{4, 200};

// A sum over so many cells, computed in double, is off by less than this of the terms' sizes (rounding.h).
double rounding_of_sum(const Grid& grid) { return 8 * std::sqrt(double(grid.size())) * 0x1p-53; }

// The mass of a 2-D Gaussian beyond so many deviations along its axes.
double beyond(double deviations) { return 2 * std::erfc(deviations / std::sqrt(2)); }

// A kernel is cut off at 6 deviations: what it lacks beyond is at most e^-18 of its peak.
double cut_off(double deviation) { return std::exp(-18) / (2 * std::numbers::pi * deviation * deviation); }

Field gaussian(const Grid& grid, const Point& mean, double deviation) {
    Field log_density;
    for (int64_t cell = 0; cell < grid.size(); ++cell) {
        const Point p = grid.centre(cell);
        log_density.push_back(-0.5 * (std::pow(p[0] - mean[0], 2) + std::pow(p[1] - mean[1], 2)) /
                              (deviation * deviation));
    }
    return normalized_exp(grid, log_density);
}

double total(const Grid& grid, const Field& field) {
    double sum = 0;
    for (const double value : field) sum += value * grid.area();
    return sum;
}

// For a Gaussian the midpoint rule has an error of e^(-2π² (deviation / step)²), below 1e-800 here. The mass beyond
// 4 units is 1e-14. What is left are sums: of each density, of its total, and of the divergence.
TEST(Density2d, NormalisedAndKlOfGaussians) {
    const Field p = gaussian(fine, {0.3, -0.2}, 0.4), q = gaussian(fine, {0, 0.1}, 0.5);
    EXPECT_NEAR(total(fine, p), 1, 2 * rounding_of_sum(fine));
    // KL(N(m, a² I) ‖ N(n, b² I)) = 2 log(b/a) + (2 a² + |m - n|²) / (2 b²) - 1
    const double expected = 2 * std::log(0.5 / 0.4) + (2 * 0.16 + 0.09 + 0.09) / (2 * 0.25) - 1;
    EXPECT_NEAR(kl_divergence(fine, p, q, 0), expected, 4 * rounding_of_sum(fine));
    EXPECT_EQ(kl_divergence(fine, p, p), 0);
    // The floor mixes both with the uniform density.
    Field mixed_p, mixed_q;
    for (size_t i = 0; i < p.size(); ++i) {
        mixed_p.push_back((1 - 1e-4) * p[i] + 1e-4 / 64);
        mixed_q.push_back((1 - 1e-4) * q[i] + 1e-4 / 64);
    }
    EXPECT_EQ(kl_divergence(fine, p, q), kl_divergence(fine, mixed_p, mixed_q, 0));
    EXPECT_THROW(normalized_exp(fine, Field(size_t(fine.size()), NAN)), std::exception);
}

// A Gaussian convolved with a Gaussian: N(·, a²) and N(·, b²) give N(·, a² + b²).
TEST(Density2d, DepositIsConvolution) {
    const Field p = gaussian(fine, {0.3, -0.2}, 0.4);
    Field spread(p.size(), 0);
    for (int64_t cell = 0; cell < fine.size(); ++cell)
        deposit(fine, spread, fine.centre(cell), 0.3, p[size_t(cell)] * fine.area());
    const Field expected = gaussian(fine, {0.3, -0.2}, 0.5);
    for (size_t i = 0; i < spread.size(); ++i) ASSERT_NEAR(spread[i], expected[i], cut_off(0.3)) << i;
    Field none(p.size(), 0);
    deposit(fine, none, {9, 0}, 0.3, 1);
    deposit(fine, none, {NAN, 0}, 0.3, 1);
    EXPECT_EQ(total(fine, none), 0);
}

// Points drawn from a field have its mean and its variance, plus 1/12 of a squared cell. Tolerances are 4.5 standard
// errors, exceeded by chance once in 150,000 comparisons.
TEST(Density2d, SamplesOfAField) {
    constexpr int64_t n = 20000;
    const std::vector<real> x = sample_field(fine, gaussian(fine, {0.3, -0.8}, 0.4), n, {7, 0, 0}).to_host();
    for (size_t axis : {0, 1}) {
        double mean = 0, variance = 0;
        for (size_t i = axis; i < x.size(); i += 2) mean += double(x[i]) / n;
        for (size_t i = axis; i < x.size(); i += 2) variance += std::pow(double(x[i]) - mean, 2) / n;
        EXPECT_NEAR(mean, axis == 0 ? 0.3 : -0.8, 4.5 * 0.4 / std::sqrt(n));
        const double truth = 0.16 + fine.area() / 12;
        EXPECT_NEAR(variance, truth, 4.5 * truth * std::sqrt(2.0 / n));
    }
}

// Samples against the density: the counts in 8 × 8 squares. With n samples a count has deviation sqrt(n p (1 - p)), so
// χ² over the k squares that are not nearly empty is about k ± sqrt(2k). Six of these deviations are allowed, and
// exceeded by chance once in 10,000 draws at most.
//
// Of a total, the sum over the grid lacks less than 4 c step at the origin of the rings, where the density is c / r,
// and what lies beyond 6 deviations of kernels, up to the next cell, and beyond 5 of the pinwheel's normals.
TEST(Density2d, SamplesFollowTheDensity) {
    const double rings = 2 * std::exp(-18) / (0.1 * std::sqrt(2 * std::numbers::pi)) / (3 * 2 * std::numbers::pi);
    const std::map<std::string, double> lacks{{"gaussians25", 0},
                                              {"rings", 4 * rings * fine.step()},
                                              {"checkerboard", 0},
                                              {"moons", beyond(6 - fine.step() / 0.1)},
                                              {"pinwheel", beyond(6 - fine.step() / 0.05) + beyond(5)}};
    for (const std::string& name : density2d_names) {
        const Density2d data = density2d(name);
        const Field density = data.density(fine);
        EXPECT_NEAR(total(fine, density), 1, lacks.at(name) + 2 * rounding_of_sum(fine)) << name;
        constexpr int64_t n = 40000, squares = 8;
        std::vector<double> expected(squares * squares, 0), found(squares * squares, 0);
        for (int64_t cell = 0; cell < fine.size(); ++cell)
            expected[size_t(cell / fine.n * squares / fine.n * squares + cell % fine.n * squares / fine.n)] +=
                n * density[size_t(cell)] * fine.area();
        const std::vector<real> points = data.sample(n, 3, 0).to_host();
        for (size_t i = 0; i < size_t(n); ++i) {
            const auto square = [&](real x) {
                return int64_t(std::floor((double(x) + fine.half) / (2 * fine.half) * squares));
            };
            const int64_t column = square(points[2 * i]), row = square(points[2 * i + 1]);
            ASSERT_TRUE(column >= 0 && column < squares && row >= 0 && row < squares) << name;
            found[size_t(row * squares + column)] += 1;
        }
        double chi2 = 0, count = 0;
        for (size_t i = 0; i < expected.size(); ++i) {
            if (expected[i] < 20) continue;
            chi2 += std::pow(found[i] - expected[i], 2) / expected[i];
            count += 1;
        }
        EXPECT_GE(count, 4) << name;
        EXPECT_LT(chi2, count + 6 * std::sqrt(2 * count)) << name;
    }
    EXPECT_THROW(density2d("squares"), std::exception);
}

// Models with known densities: everything but the generator's last bias is 0, so E is constant and g(z) = c.
TEST(Toys, MetricsOfKnownModels) {
    ModelSettings sizes;
    sizes.architecture = "toy2d";
    sizes.width_generator = sizes.width_ebm = sizes.width_encoder = 3;
    sizes.latent = 2;
    Models models(sizes, 1);
    for (const auto& [prefix, state] : models.networks())
        for (const NamedTensor& entry : state->entries()) {
            std::vector<real> values(size_t(entry.value.value().size()), 0);
            if (prefix == std::string("netG.") && entry.name == "mlp.3.bias") values = {0.5f, -0.25f};
            entry.value.value().copy_from_host(values);
        }
    StepSettings s = toy_settings("dual");
    s.sigma = 0.5f;
    s.chain_x.steps = 9;
    s.chain_x.step_size = s.chain_x.noise_std = 0.2f;
    Fields2d fields;
    const Metrics2d metrics = exact_metrics(models, s, density2d("gaussians25"), fields);
    // E = 0: the uniform density on the square of area 64, by 5 roundings; and in log Z those of the logarithm (4).
    const double u = 0x1p-53, log_64 = std::log(64);
    for (const double value : fields.ebm) ASSERT_NEAR(value, 1 / 64.0, 5 * u / 64);
    EXPECT_NEAR(*metrics.log_z, log_64, 5 * u + 4 * u * log_64);
    // A weight is a sum over 100 temperatures, and the mean is one over 100 chains.
    const LogZBounds annealed = annealed_log_z(models, s, fields, 1);
    EXPECT_NEAR(annealed.lower.mean, log_64, 210 * u * log_64);
    EXPECT_NEAR(annealed.upper.mean, log_64, 210 * u * log_64);
    // g constant: p_θ(x) = N(x; g, σ²), without the latents beyond 5 and those in cells of a mass below 1e-10.
    const double pi = std::numbers::pi, negligible = 1e-10,
                 latents = beyond(5) + 2 * pi * negligible / Grid{5, 320}.area();
    const Field generator = gaussian(fields.grid, {0.5, -0.25}, 0.5);
    for (size_t i = 0; i < generator.size(); ++i)
        ASSERT_NEAR(fields.generator[i], generator[i], latents * generator[i] + cut_off(0.5));
    // The x-chain without drift: a random walk of 9 steps from g, blurred at the start by one cell of the grid. Each
    // step drops cells and cuts kernels off. The start is cut off at 6 cells along two axes, and counts for two.
    const double walk = std::sqrt(9 * 0.04 + std::pow(fields.grid.step(), 2));
    const Field revised = gaussian(fields.grid, {0.5, -0.25}, walk);
    for (size_t i = 0; i < revised.size(); ++i)
        ASSERT_NEAR(fields.revised[i], revised[i],
                    latents * revised[i] + 11 * (negligible / fields.grid.area() + cut_off(0.2)));
    // The encoder's N(0, I) is the true posterior, since x is independent of z.
    EXPECT_NEAR(*metrics.posterior_encoder, 0, 4 * rounding_of_sum(fields.latent_grid));
    // The z-chain has drift -½ s² z. A step maps a variance v to v (1 - s²/2)² + n², which keeps 1 up to s⁴/4:
    // a divergence of 1e-10. What counts is lost mass: a step takes up to φ(4.5) n / sqrt(2π) across each of four
    // walls, and drops cells.
    const double lost = 1 - total(fields.latent_grid, fields.latent_revised), n = double(s.chain_z.noise_std);
    EXPECT_NEAR(*metrics.posterior_revised, 0, lost);
    EXPECT_LT(lost, double(s.chain_z.steps) * (4 * std::exp(-0.5 * 4.5 * 4.5) / (2 * pi) * n +
                                               2 * pi * negligible / fields.latent_grid.area()));
    EXPECT_GT(*metrics.data_ebm, 0.5);
}

TEST(Toys, EachMethodHasItsMetrics) {
    ASSERT_EQ(toy_methods(),
              (std::vector<std::string>{"dual", "cooperative", "triangle", "shortrun", "exact", "abp", "vae"}));
    for (const std::string& name : toy_methods()) {
        const ToyRun run = train_toy("rings", name, 2, 1, 1);
        ASSERT_EQ(run.history.size(), 1u);
        const Metrics2d& t = run.history[0].second;
        const bool ebm = name != "abp" && name != "vae", generator = name != "shortrun" && name != "exact";
        EXPECT_EQ(t.data_ebm.has_value(), ebm) << name;
        EXPECT_EQ(t.data_generator.has_value(), generator) << name;
        EXPECT_EQ(t.ebm_generator.has_value(), ebm && generator) << name;
        EXPECT_EQ(t.posterior_encoder.has_value(), generator && name != "cooperative") << name;
        EXPECT_EQ(run.log_z.has_value(), ebm) << name;
    }
}

// With exact samples of the EBM, the gradient of Eq. 7 is that of KL(data ‖ EBM), so training fits the density as
// well as the network can. Annealing brackets the log Z of the grid.
TEST(Toys, ExactSamplesFitTheDensity) {
    const ToyRun run = train_toy("moons", "exact", 800, 2, 1);
    const Metrics2d& end = run.history.back().second;
    EXPECT_LT(*end.data_ebm, 0.12);
    EXPECT_LT(*end.data_ebm, *run.history.front().second.data_ebm);
    EXPECT_LE(run.log_z->lower.mean, *end.log_z + 4 * run.log_z->lower.error);
    EXPECT_GE(run.log_z->upper.mean, *end.log_z - 4 * run.log_z->upper.error);
    EXPECT_LT(run.log_z->upper.mean - run.log_z->lower.mean, 1);
}

TEST(Toys, ResultsDoNotDependOnTheNumberOfThreads) {
    const std::vector<std::string> methods{"dual", "exact"};
    std::vector<std::vector<double>> found;
    for (const int threads : {1, 2}) {
        const WithThreads with(threads);
        std::vector<ToyRun> runs(methods.size());
        for_each_task(2, [&](int64_t i) { runs[size_t(i)] = train_toy("rings", methods[size_t(i)], 5, 1, 1); });
        found.emplace_back();
        for (const ToyRun& run : runs)
            for (const double value : {*run.history[0].second.data_ebm, run.log_z->lower.mean, run.log_z->upper.mean})
                found.back().push_back(value);
        found.back().push_back(*runs[0].history[0].second.posterior_revised);
    }
    EXPECT_EQ(found[0], found[1]);
}

// On E = ½ x² a chain with noise n and step s has the variance of exp(-E / T) with T = (n / s)² = 4, not 1 or 16.
TEST(Toys, TheChainTargetsTheTemperedDensity) {
    double variance = 0;
    // x <- x - ½ s² x + n U on E = ½ x²: stationary variance n² / (s² - s⁴/4) = T / (1 - s²/4).
    const ChainSettings chain{4000, 0.2f, 0.4f};
    const EnergyFunction energy = [](const Tensor& x) { return EnergyGradient{Tensor::full({x.dim(0)}, 0), x}; };
    const Tensor end = langevin_x(Tensor::full({2000, 2}, 0), energy, chain, [](int64_t k) {
                           return Tensor::normal({2000, 2}, random_key(5, RngPurpose::langevin_x, uint64_t(k)));
                       }).end;
    for (const real value : end.to_host()) variance += double(value) * double(value) / 4000;
    // 5 standard deviations of a variance from 4000 values, exceeded by chance once in 1.7 million draws.
    EXPECT_NEAR(variance, 4 / (1 - 0.01), 5 * 4 * std::sqrt(2.0 / 4000));
    EXPECT_EQ(chain.temperature(), 4);
}

}  // namespace
}  // namespace dualmcmc::test
