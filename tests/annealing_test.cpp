// Annealed importance sampling against densities with known Z: Gaussians in 3072 dimensions in closed form, 2-D
// densities by quadrature. Hamiltonian moves against the moments of the densities that they should leave invariant.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "compare.h"
#include "experiments/ais.h"
#include "experiments/density2d.h"

namespace dualmcmc::test {
namespace {

// exp(-½ Σ (x_i / s_i)²) with deviations s_i evenly spaced in the logarithm from 1 to 1 / sqrt(condition).
struct Gaussian {
    std::vector<double> deviation;
    Gaussian(int64_t dimension, double condition) {
        for (int64_t i = 0; i < dimension; ++i)
            deviation.push_back(std::pow(condition, -0.5 * double(i) / double(std::max<int64_t>(1, dimension - 1))));
    }
    double log_z() const {
        double total = 0;
        for (const double s : deviation) total += std::log(s * std::sqrt(2 * std::numbers::pi));
        return total;
    }
    PotentialFunction potential() const {
        return [deviation = deviation](const Points& x) {
            const size_t n = deviation.size();
            Potential out{std::vector<double>(x.size() / n, 0), x};
            for (size_t i = 0; i < x.size(); ++i) {
                out.gradient[i] = x[i] / (deviation[i % n] * deviation[i % n]);
                out.value[i / n] += 0.5 * x[i] * out.gradient[i];
            }
            return out;
        };
    }
    Points samples(int64_t count, uint64_t seed) const {
        Points out = StartDensity{StartDensity::Kind::gaussian, int64_t(deviation.size()), 1}.draw(count, seed, 77);
        for (size_t i = 0; i < out.size(); ++i) out[i] *= deviation[i % deviation.size()];
        return out;
    }
};

// Statistical tolerances are 4.5 standard errors unless noted otherwise, exceeded by chance once in 150,000
// comparisons. All else is computed in double, each rounding by at most `rounding` of the value.
constexpr double rounding = 0x1p-53;

// ---- the moves ----------------------------------------------------------------------------------

// 4000 chains that start from the target stay there. A move that broke detailed balance (by leaving out the rejections,
// for example) would widen the variances by about ε²/4 of the frequency squared. Steps this long are often rejected,
// so the correction matters.
TEST(Hamiltonian, LeavesAGaussianInvariant) {
    const Gaussian target(3, 4);
    constexpr int64_t chains = 4000;
    const Annealing annealing({StartDensity::Kind::gaussian, 3, 2}, target.potential(), {chains, 1, 3, 0.7, 5});
    ChainState state = annealing.at(target.samples(chains, 5));
    double acceptance = 0;
    for (uint64_t k = 0; k < 60; ++k) acceptance += annealing.move(state, 1, 0.85, k) / 60;
    EXPECT_GT(acceptance, 0.3);
    EXPECT_LT(acceptance, 0.85) << "so few rejections test nothing";
    for (size_t i = 0; i < 3; ++i) {
        double mean = 0, variance = 0;
        for (size_t c = 0; c < chains; ++c)
            mean += state.x[3 * c + i] / chains, variance += std::pow(state.x[3 * c + i], 2) / chains;
        const double truth = std::pow(target.deviation[i], 2);
        EXPECT_NEAR(mean, 0, 4.5 * std::sqrt(truth / chains)) << i;
        EXPECT_NEAR(variance, truth, 4.5 * truth * std::sqrt(2.0 / chains)) << i;
    }
}

// Chains from far away reach f_β, whose variance v is given by 1/v = (1 - β)/4 + β/s².
TEST(Hamiltonian, ReachesTheDensityBetween) {
    const Gaussian target(2, 9);
    constexpr int64_t chains = 4000;
    const Annealing annealing({StartDensity::Kind::gaussian, 2, 2}, target.potential(), {chains, 1, 5, 0.7, 6});
    ChainState state = annealing.at(Points(2 * chains, 3));
    for (uint64_t k = 0; k < 100; ++k) annealing.move(state, 0.5, 0.3, k);
    for (size_t i = 0; i < 2; ++i) {
        double variance = 0;
        for (size_t c = 0; c < chains; ++c) variance += std::pow(state.x[2 * c + i], 2) / chains;
        const double truth = 1 / (0.5 / 4 + 0.5 / std::pow(target.deviation[i], 2));
        EXPECT_NEAR(variance, truth, 4.5 * truth * std::sqrt(2.0 / chains)) << i;
    }
}

// The energy error of the leapfrog integrator is O(ε²): a quarter with half the step (and twice the steps).
TEST(Hamiltonian, AcceptanceGrowsAsTheStepFalls) {
    const Gaussian target(3072, 1);
    constexpr int moves = 20;
    double rejected[2], error[2];  // the standard error
    for (const int halves : {0, 1}) {
        const Annealing annealing({StartDensity::Kind::gaussian, 3072, 1}, target.potential(),
                                  {32, 1, 4 << halves, 0.7, 7});
        ChainState state = annealing.at(target.samples(32, 7));
        double sum = 0, squares = 0;
        for (uint64_t k = 0; k < moves; ++k) {
            const double share = 1 - annealing.move(state, 1, 0.2 / (1 << halves), k);
            sum += share, squares += share * share;
        }
        rejected[halves] = sum / moves;
        error[halves] = std::sqrt((squares / moves - std::pow(sum / moves, 2)) / (moves - 1));
    }
    // In many dimensions the acceptance rate is erfc(c ε²), so a small rejection rate is proportional to ε².
    EXPECT_GT(rejected[0], 0.1);
    EXPECT_NEAR(rejected[1], rejected[0] / 4, 4.5 * std::hypot(error[1], error[0] / 4));
}

TEST(Hamiltonian, WallsFoldTheFlightBack) {
    const StartDensity cube{StartDensity::Kind::cube, 1, 1.5};
    for (const double from : {-1.4, 0.0, 1.2})
        for (const double velocity : {-7.3, -0.2, 0.4, 2.9, 31.0}) {
            // Bounce by bounce, in a thousand short flights, each of which hits at most one wall.
            double x = from, p = velocity;
            for (int k = 0; k < 1000; ++k) {
                x += p / 1000;
                if (x > 1.5) x = 3 - x, p = -p;
                if (x < -1.5) x = -3 - x, p = -p;
            }
            double position = from + velocity, momentum = velocity;
            cube.reflect(position, momentum);
            // Each flight adds and folds numbers below 3; the one of 1 folds one below 33, twice.
            EXPECT_NEAR(position, x, (2 * 3 * 1000 + 4 * 33) * rounding) << from << " " << velocity;
            EXPECT_EQ(momentum, p) << from << " " << velocity;
        }
    double lost = NAN, momentum = 1;
    cube.reflect(lost, momentum);
    EXPECT_TRUE(std::isnan(lost));
}

// A density between walls: exp(-a x) on [-1, 1] has mean 1/a - coth a and variance 1/a² - 1/sinh² a.
TEST(Hamiltonian, LeavesADensityBetweenWallsInvariant) {
    constexpr int64_t chains = 4000;
    const double slope = 1.5;
    const PotentialFunction target = [=](const Points& x) {
        Potential out{{}, Points(x.size(), slope)};
        for (const double value : x) out.value.push_back(slope * value);
        return out;
    };
    const Annealing annealing({StartDensity::Kind::cube, 1, 1}, target, {chains, 1, 4, 0.7, 8});
    ChainState state = annealing.at(Points(chains, 0.9));
    for (uint64_t k = 0; k < 60; ++k) annealing.move(state, 1, 0.5, k);
    double mean = 0;
    for (const double value : state.x) {
        ASSERT_LE(std::abs(value), 1);
        mean += value / chains;
    }
    EXPECT_NEAR(mean, 1 / slope - 1 / std::tanh(slope),
                4.5 * std::sqrt((1 / (slope * slope) - 1 / std::pow(std::sinh(slope), 2)) / chains));
}

// ---- log Z --------------------------------------------------------------------------------------

TEST(Annealing, LogZOfWeights) {
    // Weights 1, 2, 5 times e^1000, which overflows a double.
    const std::vector<double> w{1000, 1000 + std::log(2), 1000 + std::log(5)};
    const LogZ forward = log_z(w, false), reverse = log_z(w, true);
    const double bound = 10 * 1000 * rounding;  // of w itself, sums, a mean; nothing amplifies it
    EXPECT_NEAR(forward.mean, 1000 + std::log(10) / 3, bound);
    EXPECT_NEAR(forward.log_mean, 1000 + std::log(8.0 / 3), bound);
    EXPECT_NEAR(forward.effective, 64.0 / 30, bound);
    EXPECT_NEAR(reverse.log_mean, 1000 - std::log((1 + 0.5 + 0.2) / 3), bound);
    EXPECT_NEAR(reverse.effective, 1.7 * 1.7 / 1.29, bound);
    const double centre = std::log(10) / 3;
    const double variance =
        (centre * centre + std::pow(std::log(2) - centre, 2) + std::pow(std::log(5) - centre, 2)) / 2;
    EXPECT_NEAR(forward.error, std::sqrt(variance / 3), bound);
}

// In 3072 dimensions the bounds are on their sides of the true value, and both tighten with more temperatures.
void expect_bounds(double condition) {
    const Gaussian target(3072, condition);
    const double truth = target.log_z();
    double gap[2][2];
    for (const int finer : {0, 1}) {
        const AnnealingSettings settings{8, finer ? 400 : 100, 5, 0.7, 9};
        const Annealing annealing({StartDensity::Kind::gaussian, 3072, 1.2}, target.potential(), settings);
        const Schedule schedule = annealing.find_schedule();
        ASSERT_EQ(schedule.beta.size(), size_t(settings.temperatures + 1));
        EXPECT_EQ(schedule.beta.front(), 0);
        EXPECT_EQ(schedule.beta.back(), 1);
        const LogZ lower = log_z(annealing.forward(schedule).log_weight, false);
        const LogZ upper = log_z(annealing.reverse(schedule, target.samples(8, 9)).log_weight, true);
        EXPECT_LE(lower.mean, truth + 4 * lower.error);
        EXPECT_GE(upper.mean, truth - 4 * upper.error);
        EXPECT_LE(lower.mean, lower.log_mean);
        EXPECT_GE(upper.mean, upper.log_mean);
        gap[finer][0] = truth - lower.mean;
        gap[finer][1] = upper.mean - truth;
        std::printf("condition %g, %lld temperatures: log Z %.3f; lower %.3f +- %.3f, upper %.3f +- %.3f\n", condition,
                    (long long)settings.temperatures, truth, lower.mean, lower.error, upper.mean, upper.error);
    }
    for (const int side : {0, 1})
        EXPECT_LT(gap[1][side], 0.6 * gap[0][side]) << "condition " << condition << ", side " << side;
}
TEST(Annealing, BoundsOfAGaussianIn3072DimensionsCondition1) { expect_bounds(1); }
TEST(Annealing, BoundsOfAGaussianIn3072DimensionsCondition10) { expect_bounds(10); }
TEST(Annealing, BoundsOfAGaussianIn3072DimensionsCondition1000) { expect_bounds(1000); }

// If f = 5 p_0, the weights are exact.
TEST(Annealing, ExactWhereTheTargetIsTheStart) {
    const StartDensity start{StartDensity::Kind::gaussian, 7, 0.8};
    const PotentialFunction target = [&](const Points& x) {
        Potential out = start.potential(x);
        for (double& value : out.value) value -= std::log(5);
        return out;
    };
    const Annealing annealing(start, target, {4, 10, 3, 0.7, 10});
    const Schedule schedule = annealing.find_schedule();
    // Potentials below 32 are rounded, of each temperature a share; and 10 products and sums below 2.
    const double bound = (4 * 32 + 20 * 2) * rounding;
    for (const double w : annealing.forward(schedule).log_weight) EXPECT_NEAR(w, std::log(5), bound);
    for (const double w : annealing.reverse(schedule, start.draw(4, 1, 1)).log_weight)
        EXPECT_NEAR(w, std::log(5), bound);
    // -log p_0 of N(0, s² I) by its formula.
    const Points x(7, 0.4);
    EXPECT_NEAR(start.potential(x).value[0], 7 * (0.5 * 0.25 + std::log(0.8 * std::sqrt(2 * std::numbers::pi))),
                16 * 8 * rounding);  // 16 roundings of values below 8
}

// A 2-D density with six modes, between walls, against the sum over a grid.
TEST(Annealing, Density2dAgainstQuadrature) {
    auto energy = [](double x, double y) {
        return 2 * std::cos(2.5 * x) * std::sin(2 * y) + 0.3 * x * x + 0.1 * (y - 1) * (y - 1);
    };
    const PotentialFunction target = [&](const Points& x) {
        Potential out{{}, Points(x.size())};
        for (size_t i = 0; i < x.size(); i += 2) {
            out.value.push_back(energy(x[i], x[i + 1]));
            out.gradient[i] = -5 * std::sin(2.5 * x[i]) * std::sin(2 * x[i + 1]) + 0.6 * x[i];
            out.gradient[i + 1] = 4 * std::cos(2.5 * x[i]) * std::cos(2 * x[i + 1]) + 0.2 * (x[i + 1] - 1);
        }
        return out;
    };
    const Grid grid{3, 600};
    double z = 0;
    for (int64_t cell = 0; cell < grid.size(); ++cell) {
        const Point p = grid.centre(cell);
        z += std::exp(-energy(p[0], p[1])) * grid.area();
    }
    const Annealing annealing({StartDensity::Kind::cube, 2, 3}, target, {2000, 60, 5, 0.7, 11});
    const Schedule schedule = annealing.find_schedule();
    const Annealing::Run forward = annealing.forward(schedule);
    const LogZ lower = log_z(forward.log_weight, false);
    // Exact samples by rejection: u < exp(-(E + 2)), since E is above -2.
    const Tensor proposals = Tensor::uniform({60000, 3}, RandomKey{12, 0, 0}, 0, 1);
    const std::vector<real> u = proposals.to_host();
    Points samples;
    for (size_t i = 0; i < u.size() && samples.size() < 4000; i += 3) {
        const double x = 6 * double(u[i]) - 3, y = 6 * double(u[i + 1]) - 3;
        if (double(u[i + 2]) < std::exp(-2 - energy(x, y))) samples.push_back(x), samples.push_back(y);
    }
    ASSERT_EQ(samples.size(), 4000u);
    const LogZ upper = log_z(annealing.reverse(schedule, samples).log_weight, true);
    std::printf("2-D: log Z %.4f by quadrature; lower %.4f +- %.4f, upper %.4f +- %.4f\n", std::log(z), lower.mean,
                lower.error, upper.mean, upper.error);
    EXPECT_LE(lower.mean, std::log(z) + 4 * lower.error);
    EXPECT_GE(upper.mean, std::log(z) - 4 * upper.error);
    EXPECT_LT(upper.mean - lower.mean, 0.2);
    // The mean weight is Z up to its standard error; the relative deviation of the weights is sqrt(B / effective - 1).
    const double error = std::sqrt((2000 / lower.effective - 1) / 2000);
    EXPECT_NEAR(lower.log_mean, std::log(z), 4 * error);
    EXPECT_LT(error, 0.05);
}

// ---- the EBM as a target ------------------------------------------------------------------------

ModelSettings narrow() {
    ModelSettings sizes;
    sizes.width_generator = sizes.width_ebm = 3;
    sizes.width_encoder = 1;
    sizes.latent = 2;
    return sizes;
}

// The same function at every call, E / T of the first pass, although each pass through the EBM advances u and v.
TEST(TemperedEnergy, IsTheSameAtEveryCall) {
    Models models(narrow(), 3), other(narrow(), 3);
    const Tensor x = random_tensor({2, 32, 32, 3}, 4);
    const std::vector<real> host = x.to_host();
    const PotentialFunction potential = tempered_energy(models, {32, 32, 3}, 1e-6);
    const Potential first = potential({host.begin(), host.end()}), again = potential({host.begin(), host.end()});
    EXPECT_EQ(first.value, again.value);
    EXPECT_EQ(first.gradient, again.gradient);
    const EnergyGradient e = energy_gradient(other.ebm, x);
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(first.value[i], double(e.energy.to_host()[i]) / 1e-6);
    const Values gradient = e.gradient.to_host();
    for (size_t i = 0; i < gradient.size(); ++i) ASSERT_EQ(first.gradient[i], double(gradient[i]) / 1e-6);
    EXPECT_GT(std::abs(energy_gradient(other.ebm, x).energy.to_host()[0] - e.energy.to_host()[0]), 0)
        << "a second pass evaluates another function";
}

// Without biases the energy is homogeneous, E(λ x) = λ E(x). So exp(-E / T) has no Z over all of space if E is
// negative anywhere.
TEST(TemperedEnergy, IsHomogeneous) {
    Models models(narrow(), 3);
    const PotentialFunction potential = tempered_energy(models, {32, 32, 3}, 1);
    const std::vector<real> host = random_values(32 * 32 * 3, 5);
    Points x(host.begin(), host.end()), doubled = x;
    for (double& value : doubled) value *= 4;
    const double once = potential(x).value[0], far = potential(doubled).value[0];
    EXPECT_NE(once, 0);
    EXPECT_EQ(far, 4 * once) << "a power of two changes no rounding";
}

// The uniform density on the cube of dequantised images has 8 bits per dimension; the uniform density on one pixel cell
// has 0.
TEST(TemperedEnergy, BitsPerDimension) {
    const double bound = 10 * 9 * rounding;  // ten roundings of values up to 9
    EXPECT_NEAR(bits_per_dimension(0, 3072 * std::log(2 * image_cube), 3072), 8, bound);
    EXPECT_NEAR(bits_per_dimension(0, log_cell_volume(3072), 3072), 0, bound);
    EXPECT_NEAR(bits_per_dimension(3072 * std::log(2), 3072 * std::log(2 * image_cube), 3072), 9, bound);
}

// Over the cell of c, U = ½ k ‖x‖² + a Σ x has the mean ½ k (‖c‖² + D / (12 · 127.5²)) + a Σ c. That of
// 400 draws deviates by its standard error. (A cell that is off by half its side shifts it by 240 of these.)
TEST(TemperedEnergy, PixelCell) {
    const double k = 3, a = 4000;
    const PotentialFunction potential = [&](const Points& x) {
        Potential out{std::vector<double>(x.size() / 48), {}};
        for (size_t i = 0; i < x.size(); ++i) out.value[i / 48] += 0.5 * k * x[i] * x[i] + a * x[i];
        return out;
    };
    const std::vector<real> host = random_values(48, 5);
    const Points image(host.begin(), host.end());
    double mean = 0, variance = 0;  // of one draw; the variance by the slope at c, as k / 127.5 is small
    const double u = 1 / (12 * 127.5 * 127.5);
    for (const double c : image) {
        mean += 0.5 * k * (c * c + u) + a * c;
        variance += (a + k * c) * (a + k * c) * u;
    }
    const CellBound bound = cell_bound(potential, image, 400, 150, 7);
    EXPECT_NEAR(bound.error, std::sqrt(variance / 400), 0.2 * bound.error);  // 1 / sqrt(2 · 400) is 0.035
    EXPECT_NEAR(bound.log_z, log_cell_volume(48) - mean, 5 * bound.error);   // by chance once in 2 million seeds
}

TEST(Annealing, FailsForNanEnergies) {
    const PotentialFunction target = [](const Points& x) {
        return Potential{std::vector<double>(x.size(), NAN), Points(x.size(), 0)};
    };
    EXPECT_THROW(Annealing({StartDensity::Kind::cube, 1, 1}, target, {4, 10, 3, 0.7, 1}).find_schedule(),
                 std::exception);
}

}  // namespace
}  // namespace dualmcmc::test
