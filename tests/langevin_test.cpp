// The two Langevin chains (Eq. 3, Eq. 6) against closed forms: mean and covariance of the discretised chain on
// quadratic potentials, conventions for step size and noise, gradient descent without noise. Counts of kernel calls
// check that a step computes nothing superfluous.
#include "method/langevin.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "compare.h"
#include "method/dual_mcmc.h"

namespace dualmcmc::test {
namespace {

using rounding::rounded;
using rounding::Running;

// Statistical tolerances are 5 standard errors, exceeded by chance once in 1.7 million comparisons.
constexpr double sigmas = 5;

NoiseFunction normal_noise(const Shape& shape, RngPurpose purpose, uint64_t seed) {
    return [=](int64_t k) { return Tensor::normal(shape, random_key(seed, purpose, uint64_t(k))); };
}
NoiseFunction no_noise(const Shape& shape) {
    return [=](int64_t) { return Tensor::full(shape, 0); };
}

// ---- x-chain on E(x) = Σ ½ a (x - m)² -----------------------------------------------------------

// Energies (B) and gradient, on the host.
EnergyFunction quadratic(double a, double m) {
    return [=](const Tensor& x) {
        const Values values = x.to_host();
        const auto batch = size_t(x.dim(0)), per_image = values.size() / batch;
        Values energy(batch), gradient(values.size());
        for (size_t b = 0; b < batch; ++b) {
            double total = 0;
            for (size_t i = b * per_image; i < (b + 1) * per_image; ++i) {
                const double distance = double(values[i]) - m;
                total += 0.5 * a * distance * distance;
                gradient[i] = real(a * distance);
            }
            energy[b] = real(total);
        }
        return EnergyGradient{Tensor::from_host({x.dim(0)}, energy), Tensor::from_host(x.shape(), gradient)};
    };
}

struct Moments {
    double mean = 0, variance = 0;
};
Moments moments(const Values& x) {
    Moments m;
    for (const real value : x) m.mean += double(value) / double(x.size());
    for (const real value : x) m.variance += (double(value) - m.mean) * (double(value) - m.mean) / double(x.size());
    return m;
}

void expect_moments(const Values& x, double mean, double variance, const std::string& what) {
    const Moments found = moments(x);
    const double n = double(x.size());
    EXPECT_LE(std::abs(found.mean - mean), sigmas * std::sqrt(variance / n))
        << what << ": mean " << found.mean << ", expected " << mean;
    EXPECT_LE(std::abs(found.variance - variance), sigmas * variance * std::sqrt(2 / n))
        << what << ": variance " << found.variance << ", expected " << variance;
}

// x' - m = ρ (x - m) + n U with ρ = 1 - ½ s² a. After k steps from x0: mean m + ρᵏ (x0 - m), variance
// n² (1 - ρ²ᵏ) / (1 - ρ²).
TEST(LangevinX, MomentsOnAQuadraticMatchTheClosedForm) {
    const struct {
        double a, m, x0, step, noise;
        int64_t steps;
    } cases[] = {
        {3, 0.7, 2, 0.6, 0.25, 1},     // ρ = 0.46
        {3, 0.7, 2, 0.6, 0.25, 5},     // the same, more steps
        {10, -1, 0.5, 0.55, 0.1, 4},   // ρ = -0.5125: overshoots
        {0.5, 0, 3, 0.2, 0.3, 7},      // ρ = 0.99
        {-1, 0.2, 0.3, 0.5, 0.05, 6},  // ρ = 1.125: an energy without a minimum
    };
    const Shape shape{40, 9, 11, 13};
    uint64_t seed = 1;
    for (const auto& c : cases) {
        const ChainSettings settings{c.steps, real(c.step), real(c.noise)};
        const Chain chain = langevin_x(Tensor::full(shape, real(c.x0)), quadratic(c.a, c.m), settings,
                                       normal_noise(shape, RngPurpose::langevin_x, seed++));
        const double rho = 1 - 0.5 * c.step * c.step * c.a, power = std::pow(rho, double(c.steps));
        expect_moments(chain.end.to_host(), c.m + power * (c.x0 - c.m),
                       c.noise * c.noise * (1 - power * power) / (1 - rho * rho),
                       text("a ", c.a, ", s ", c.step, ", k ", c.steps));
        EXPECT_EQ(int64_t(chain.trace.size()), c.steps);
    }
}

// Small steps sample exp(-E / T) with T = (n/s)²: started from N(m, T/a), the chain keeps this distribution. With
// ρ = 1 - ½ s² a, a wrong temperature would show after 60 steps by 1 - ρ¹²⁰ = 91 % of the difference. The
// discretised chain's own variance is T/a / (1 - ¼ s² a), 1 % more.
TEST(LangevinX, TemperatureIsNoiseOverStepSquared) {
    const double a = 2, m = -0.4;
    const Shape shape{30, 10, 11, 12};
    for (const auto& [step, noise] : {std::pair(0.14f, 0.14f), {0.14f, 0.07f}, {0.14f, 0.2f}}) {
        const ChainSettings settings{60, step, noise};
        expect_close(Values{settings.temperature()}, {square(Running(noise) / step)}, "temperature");
        const double variance = double(settings.temperature()) / a;
        Values start = Tensor::normal(shape, random_key(7, RngPurpose::prior, 0)).to_host();
        for (real& value : start) value = real(m + std::sqrt(variance) * double(value));
        const Chain chain = langevin_x(Tensor::from_host(shape, start), quadratic(a, m), settings,
                                       normal_noise(shape, RngPurpose::langevin_x, 3));
        const double own = variance / (1 - 0.25 * step * step * a), rho = 1 - 0.5 * step * step * a;
        expect_moments(chain.end.to_host(), m, own + std::pow(rho, 120) * (variance - own),
                       text("n / s ", noise / step));
    }
}

TEST(LangevinX, WithoutNoiseIsGradientDescent) {
    // E = Σ ¼ x⁴ + ½ x, against an explicit loop.
    const Shape shape{2, 3, 4, 5};
    const EnergyFunction quartic = [](const Tensor& x) {
        Values gradient = x.to_host();
        for (real& value : gradient) value = value * value * value + 0.5f;
        return EnergyGradient{Tensor::full({x.dim(0)}, 0), Tensor::from_host(x.shape(), gradient)};
    };
    const Tensor start = random_tensor(shape, 4, -1.5f, 1.5f);
    const Values before = start.to_host();
    const ChainSettings settings{9, real(0.4), real(0.3)};
    const Chain chain = langevin_x(start, quartic, settings, no_noise(shape));
    std::vector<Running> expected(before.begin(), before.end());
    const Running half = 0.5 * square(rounded(0.4));
    for (int k = 0; k < 9; ++k)
        for (Running& x : expected) x = x - half * (x * x * x + 0.5);
    expect_close(chain.end.to_host(), expected, "end");
    EXPECT_EQ(start.to_host(), before) << "the caller's start was modified";
}

TEST(LangevinX, TraceIsTheEnergyBeforeEachStep) {
    const Shape shape{3, 2, 4, 5};
    std::vector<Values> seen;
    const EnergyFunction inner = quadratic(2, 0.1);
    const Chain chain = langevin_x(
        random_tensor(shape, 8),
        [&](const Tensor& x) {
            seen.push_back(x.to_host());
            return inner(x);
        },
        {4, 0.5f, 0.2f}, normal_noise(shape, RngPurpose::langevin_x, 5));
    ASSERT_EQ(chain.trace.size(), 4u);
    ASSERT_EQ(seen.size(), 4u);
    EXPECT_EQ(seen[0], random_values(2 * 3 * 4 * 5, 8));
    for (size_t k = 0; k < 4; ++k) {
        double energy = 0;  // added in double and rounded once
        for (const real e : inner(Tensor::from_host(shape, seen[k])).energy.to_host()) energy += double(e);
        EXPECT_NEAR(double(chain.trace[k].item()), energy, (in_double ? 4 : 1) * unit * energy) << "step " << k;
    }
    // Each state follows from the previous one with the noise of its step.
    for (size_t k = 0; k + 1 < 4; ++k) {
        const Values noise = std::get<Tensor>(normal_noise(shape, RngPurpose::langevin_x, 5)(int64_t(k))).to_host();
        std::vector<Running> next;
        for (size_t i = 0; i < noise.size(); ++i)
            next.push_back(seen[k][i] - 0.125 * (2 * (Running(seen[k][i]) - 0.1)) + Running(0.2f) * noise[i]);
        expect_close(seen[k + 1], next, text("after step ", k));
    }
}

TEST(LangevinX, ZeroStepsReturnTheStart) {
    const Tensor start = random_tensor({2, 3, 4, 5}, 6);
    const Chain chain = langevin_x(
        start, [](const Tensor&) -> EnergyGradient { throw std::logic_error("an energy was computed"); },
        {0, 0.5f, 0.1f}, [](int64_t) -> Tensor { throw std::logic_error("noise was drawn"); });
    EXPECT_EQ(chain.end.to_host(), start.to_host());
    EXPECT_TRUE(chain.trace.empty());
}

// ---- z-chain with a linear generator g(z) = A z -------------------------------------------------

// Potential ‖x - A z‖² / (2σ²) + ½‖z‖² of one image: precision Λ = AᵀA/σ² + I,
// mean Λ⁻¹ Aᵀx / σ². Latents have 2 elements, images 3.
using Vector2 = std::array<double, 2>;
using Matrix2 = std::array<Vector2, 2>;

Matrix2 product(const Matrix2& a, const Matrix2& b) {
    Matrix2 c{};
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) c[i][j] = a[i][0] * b[0][j] + a[i][1] * b[1][j];
    return c;
}
Matrix2 inverse(const Matrix2& a) {
    const double det = a[0][0] * a[1][1] - a[0][1] * a[1][0];
    return {{{a[1][1] / det, -a[0][1] / det}, {-a[1][0] / det, a[0][0] / det}}};
}
Vector2 product(const Matrix2& a, const Vector2& x) {
    return {a[0][0] * x[0] + a[0][1] * x[1], a[1][0] * x[0] + a[1][1] * x[1]};
}

struct LinearModel {
    std::array<Vector2, 3> a{{{0.9, -0.4}, {0.3, 0.7}, {-0.5, 0.2}}};
    double sigma = 0.6;

    Matrix2 precision() const {
        Matrix2 p{{{1, 0}, {0, 1}}};
        for (const Vector2& row : a)
            for (int i = 0; i < 2; ++i)
                for (int j = 0; j < 2; ++j) p[i][j] += row[i] * row[j] / (sigma * sigma);
        return p;
    }
    Vector2 mean(const std::array<double, 3>& x) const {
        Vector2 projected{};
        for (int k = 0; k < 3; ++k)
            for (int i = 0; i < 2; ++i) projected[i] += a[k][i] * x[k] / (sigma * sigma);
        return product(inverse(precision()), projected);
    }
    std::function<Var(const Var&)> generator() const {
        Values weight(6);  // (in, out)
        for (size_t k = 0; k < 3; ++k)
            for (size_t i = 0; i < 2; ++i) weight[i * 3 + k] = real(a[k][i]);
        return [w = Var(Tensor::from_host({2, 3}, weight))](const Var& z) { return linear(z, w, Var()); };
    }
};

// All chains share this data: the first half of the batch has one image, the second half another.
constexpr int64_t chains = 40000;
constexpr std::array<std::array<double, 3>, 2> images{{{1, 0.5, -0.25}, {-0.75, 1, 0.5}}};

Tensor data_batch() {
    Values x;
    for (const auto& image : images)
        for (int64_t b = 0; b < chains / 2; ++b) x.insert(x.end(), image.begin(), image.end());
    return Tensor::from_host({chains, 3}, x);
}

// Compares the mean of each half of z, (chains, 2), and both halves' common covariance with the expected ones.
void expect_gaussian(const Values& z, const std::array<Vector2, 2>& means, const Matrix2& covariance) {
    const double n = double(chains / 2);
    for (size_t half = 0; half < 2; ++half) {
        SCOPED_TRACE(text("image ", half));
        Vector2 mean{};
        Matrix2 found{};
        const real* rows = z.data() + half * size_t(chains);
        for (int64_t b = 0; b < chains / 2; ++b)
            for (int i = 0; i < 2; ++i) mean[i] += double(rows[2 * b + i]) / n;
        for (int64_t b = 0; b < chains / 2; ++b)
            for (int i = 0; i < 2; ++i)
                for (int j = 0; j < 2; ++j)
                    found[i][j] += (double(rows[2 * b + i]) - mean[i]) * (double(rows[2 * b + j]) - mean[j]) / n;
        for (int i = 0; i < 2; ++i) {
            EXPECT_LE(std::abs(mean[i] - means[half][i]), sigmas * std::sqrt(covariance[i][i] / n))
                << mean[i] << ", expected " << means[half][i];
            for (int j = 0; j < 2; ++j)  // Var of a sample covariance: (c_ii c_jj + c_ij²) / n
                EXPECT_LE(
                    std::abs(found[i][j] - covariance[i][j]),
                    sigmas * std::sqrt((covariance[i][i] * covariance[j][j] + covariance[i][j] * covariance[i][j]) / n))
                    << "covariance " << i << j << ": " << found[i][j] << ", expected " << covariance[i][j];
        }
    }
}

// z' - μ = M (z - μ) + n U with the symmetric M = I - ½ s² Λ: the mean's distance to μ is multiplied by M, and
// C' = M C M + n² I.
Matrix2 contraction(const LinearModel& model, double step) {
    const Matrix2 p = model.precision();
    return {{{1 - 0.5 * step * step * p[0][0], -0.5 * step * step * p[0][1]},
             {-0.5 * step * step * p[1][0], 1 - 0.5 * step * step * p[1][1]}}};
}

TEST(LangevinZ, MomentsAfterAFewStepsMatchTheClosedForm) {
    const LinearModel model;
    const double step = 0.5, noise = 0.3;
    const Vector2 start{1.5, -2};
    Values z0;
    for (int64_t b = 0; b < chains; ++b) z0.insert(z0.end(), start.begin(), start.end());
    const Matrix2 m = contraction(model, step);
    for (const int64_t steps : {1, 3}) {
        SCOPED_TRACE(text(steps, " steps"));
        const Chain chain =
            langevin_z(Tensor::from_host({chains, 2}, z0), data_batch(), model.generator(), real(model.sigma),
                       {steps, real(step), real(noise)}, normal_noise({chains, 2}, RngPurpose::langevin_z, 11));
        std::array<Vector2, 2> means{start, start};
        Matrix2 covariance{};
        for (int64_t k = 0; k < steps; ++k) {
            for (size_t half = 0; half < 2; ++half) {
                const Vector2 centre = model.mean(images[half]);
                const Vector2 moved = product(m, Vector2{means[half][0] - centre[0], means[half][1] - centre[1]});
                means[half] = {centre[0] + moved[0], centre[1] + moved[1]};
            }
            covariance = product(product(m, covariance), m);
            for (int i = 0; i < 2; ++i) covariance[i][i] += noise * noise;
        }
        expect_gaussian(chain.end.to_host(), means, covariance);
    }
}

// C = n² (I - M²)⁻¹ = T Λ⁻¹ (I - ¼ s² Λ)⁻¹ with T = (n/s)². M has the eigenvalues 0.69 and 0.41,
// so the chain forgets its start within 25 steps.
TEST(LangevinZ, StationaryMomentsMatchTheClosedForm) {
    const LinearModel model;
    const double step = 0.55, noise = 0.4;
    const Chain chain =
        langevin_z(Tensor::full({chains, 2}, 3), data_batch(), model.generator(), real(model.sigma),
                   {25, real(step), real(noise)}, normal_noise({chains, 2}, RngPurpose::langevin_z, 12));
    const Matrix2 m = contraction(model, step), mm = product(m, m);
    Matrix2 covariance = inverse({{{1 - mm[0][0], -mm[0][1]}, {-mm[1][0], 1 - mm[1][1]}}});
    for (Vector2& row : covariance)
        for (double& value : row) value *= noise * noise;
    expect_gaussian(chain.end.to_host(), {model.mean(images[0]), model.mean(images[1])}, covariance);
}

// ∇_z [ ‖x - g‖² / (2σ²) + ½‖z‖² ] = Aᵀ(A z - x)/σ² + z.
// With the ½, σ is the standard deviation of p_θ(x|z).
TEST(LangevinZ, WithoutNoiseIsGradientDescent) {
    const LinearModel model;
    const int64_t batch = 5, steps = 6;
    const double step = 0.5;
    const Values z0 = random_values(batch * 2, 21), x0 = random_values(batch * 3, 22);
    const Chain chain =
        langevin_z(Tensor::from_host({batch, 2}, z0), Tensor::from_host({batch, 3}, x0), model.generator(),
                   real(model.sigma), {steps, real(step), 0.7f}, no_noise({batch, 2}));
    std::vector<Running> z(z0.begin(), z0.end());
    for (int64_t k = 0; k < steps; ++k) {
        Running total = 0;
        for (int64_t b = 0; b < batch; ++b) {
            Running* row = z.data() + 2 * b;
            Running gradient[2] = {row[0], row[1]};
            for (int p = 0; p < 3; ++p) {
                const Vector2& a = model.a[p];
                const Running error = rounded(a[0]) * row[0] + rounded(a[1]) * row[1] - x0[size_t(3 * b + p)];
                total = total + square(error);
                for (int i = 0; i < 2; ++i)
                    gradient[i] = gradient[i] + rounded(a[i]) * (error / square(rounded(model.sigma)));
            }
            for (int i = 0; i < 2; ++i) row[i] = row[i] - 0.5 * step * step * gradient[i];
        }
        expect_close(chain.trace.at(size_t(k)).to_host(), {total}, text("step ", k));
    }
    expect_close(chain.end.to_host(), z, "end");
    EXPECT_EQ(int64_t(chain.trace.size()), steps);
}

TEST(LangevinZ, ZeroStepsReturnTheStart) {
    const Tensor start = random_tensor({4, 2}, 6);
    const Chain chain =
        langevin_z(start, random_tensor({4, 3}, 7), LinearModel().generator(), 0.5f, {0, 0.5f, 0.1f}, no_noise({4, 2}));
    EXPECT_EQ(chain.end.to_host(), start.to_host());
    EXPECT_TRUE(chain.trace.empty());
}

// ---- with the real networks: what a step computes, and what it does not -------------------------

// Wrappers around a backend's kernels that count calls; safe to call from several threads.
namespace counted {
const Backend* inner = nullptr;
std::atomic<int64_t> fused, fused_backward, fused_weight, conv2d, backward_input, backward_weight, column_sum,
    spectral_norm_backward, batch_norm_backward_reduce, spectral_norm, adam_update;

void reset() {
    for (auto* count : {&fused, &fused_backward, &fused_weight, &conv2d, &backward_input, &backward_weight, &column_sum,
                        &spectral_norm_backward, &batch_norm_backward_reduce, &spectral_norm, &adam_update})
        *count = 0;
}

// `table` with counting wrappers. Unless `concurrent`, without fused kernels, and batches are not split over threads.
Backend wrap(const Backend& table, bool concurrent) {
    inner = &table;
    reset();
    Backend b = table;
    b.callable_from_many_threads = concurrent;
#define COUNTED(kernel, counter)       \
    b.kernel = [](auto... arguments) { \
        ++counter;                     \
        inner->kernel(arguments...);   \
    }
    if (!concurrent) b.norm_relu_conv2d = nullptr;
    if (b.norm_relu_conv2d) {
        COUNTED(norm_relu_conv2d, fused);
        COUNTED(norm_relu_conv2d_backward, fused_backward);
        COUNTED(norm_relu_conv2d_backward_weight, fused_weight);
    }
    COUNTED(conv2d, conv2d);
    COUNTED(conv2d_backward_input, backward_input);
    COUNTED(conv2d_backward_weight, backward_weight);
    COUNTED(column_sum, column_sum);
    COUNTED(spectral_norm_backward, spectral_norm_backward);
    COUNTED(batch_norm_backward_reduce, batch_norm_backward_reduce);
    COUNTED(spectral_norms, spectral_norm);
    COUNTED(adam_update, adam_update);
#undef COUNTED
    return b;
}
}  // namespace counted

const ModelSettings settings_of[] = {{"cifar10", 6, 7, 3, 5}, {"celeba64", 16, 16, 2, 5}};

// Number of convolutions and linear layers; a block with a convolution in its shortcut has three.
int64_t ebm_layers(const ModelSettings& s) { return s.architecture == "cifar10" ? 3 + 3 + 2 + 2 + 1 : 5 * 3 + 1; }
int64_t generator_layers(const ModelSettings& s) { return s.architecture == "cifar10" ? 1 + 3 * 3 + 1 : 1 + 4 * 3 + 1; }

void expect_no_gradients(Models& models) {
    for (const auto& [prefix, state] : models.networks())
        for (const NamedTensor& entry : state->entries())
            EXPECT_FALSE(entry.value.grad().defined()) << prefix << entry.name;
    EXPECT_EQ(tape_size(), 0);
}

class NetworkChain : public testing::TestWithParam<ModelSettings> {
protected:
    const WithThreads one_{1};
    const ModelSettings& settings_ = GetParam();
    Models models_{settings_, 3};
};
INSTANTIATE_TEST_SUITE_P(Architectures, NetworkChain, testing::ValuesIn(settings_of),
                         [](const auto& info) { return info.param.architecture; });

// A step of the x-chain is one power iteration per weight, one forward pass, and one backward pass to the image.
TEST_P(NetworkChain, XChainComputesNoParameterGradient) {
    const int64_t steps = 3, batch = 23, layers = ebm_layers(settings_), side = settings_.image_size();
    for (const bool concurrent : {false, true}) {
        const Backend table = counted::wrap(best_cpu_backend(), concurrent);
        {
            const WithBackend with(table);
            const Tensor start = random_tensor({batch, side, side, 3}, 1);
            langevin_x(
                start, [&](const Tensor& x) { return energy_gradient(models_.ebm, x); }, {steps, 0.5f, 0.01f},
                no_noise(start.shape()));
        }
        EXPECT_EQ(counted::backward_weight, 0);
        EXPECT_EQ(counted::column_sum, 0);
        EXPECT_EQ(counted::spectral_norm_backward, 0);
        EXPECT_EQ(counted::spectral_norm, steps);
        if (!concurrent) {
            EXPECT_EQ(counted::conv2d, steps * layers);
        }
        EXPECT_GE(counted::conv2d, steps * layers);
        EXPECT_EQ(counted::conv2d % (steps * layers), 0);  // once per group of images
        EXPECT_EQ(counted::backward_input, counted::conv2d);
        expect_no_gradients(models_);
    }
}

// Except batch norm's: its input gradient needs the gradients of its weight and bias (batch_norm_backward_reduce).
TEST_P(NetworkChain, ZChainComputesNoParameterGradient) {
    const int64_t steps = 3, batch = 4, layers = generator_layers(settings_), side = settings_.image_size();
    const int64_t norms = settings_.architecture == "cifar10" ? 7 : 9;
    for (const bool concurrent : {false, true}) {
        const Backend table = counted::wrap(best_cpu_backend(), concurrent);
        {
            const WithBackend with(table);
            const Tensor start = random_tensor({batch, settings_.latent}, 1);
            langevin_z(start, random_tensor({batch, side, side, 3}, 2), models_.generator, 0.3f, {steps, 0.1f, 0.1f},
                       no_noise(start.shape()));
        }
        EXPECT_EQ(counted::backward_weight, 0);
        EXPECT_EQ(counted::fused_weight, 0);
        EXPECT_EQ(counted::column_sum, 0);
        EXPECT_EQ(counted::spectral_norm_backward, 0);
        EXPECT_EQ(counted::spectral_norm, 0);
        EXPECT_EQ(counted::fused, table.norm_relu_conv2d ? steps * norms : 0);
        EXPECT_EQ(counted::fused_backward, counted::fused);
        EXPECT_EQ(counted::fused + counted::conv2d, steps * layers);
        EXPECT_EQ(counted::backward_input, counted::conv2d);
        EXPECT_EQ(counted::fused_backward + counted::batch_norm_backward_reduce, steps * norms);
        expect_no_gradients(models_);
    }
}

// In a whole iteration only the three updates compute weight gradients (two passes each), however long the chains are.
// The EBM makes k_x + 1 + 1 (+ k_x) + 1 power iterations (METHOD.md, section 3).
TEST_P(NetworkChain, OnlyTheUpdatesComputeWeightGradients) {
    const int64_t batch = 2, side = settings_.image_size(), encoder = 6;
    for (const auto& [steps_x, steps_z, resample] : {std::tuple(0, 0, true), {2, 1, false}, {3, 2, true}}) {
        SCOPED_TRACE(text(steps_x, " and ", steps_z, " steps, resample ", resample));
        StepSettings step;
        step.chain_x.steps = steps_x;
        step.chain_z.steps = steps_z;
        step.negatives = resample ? "resampled" : "chain";
        const Backend table = counted::wrap(best_cpu_backend(), false);
        {
            const WithBackend with(table);
            const Tensor x = random_tensor({batch, side, side, 3}, 5);
            dual_mcmc_step(models_, x, philox_noise(1, 0, x.shape(), settings_.latent), step, 1);
        }
        EXPECT_EQ(counted::backward_weight, 2 * (ebm_layers(settings_) + generator_layers(settings_) + encoder));
        EXPECT_EQ(counted::column_sum,
                  2 * (generator_layers(settings_) + 2));  // biases: every generator layer, two of the encoder
        EXPECT_EQ(counted::spectral_norm_backward, 2 * ebm_layers(settings_));
        EXPECT_EQ(counted::spectral_norm, steps_x * (resample ? 2 : 1) + 3);
        int64_t parameters = 0;
        for (const auto& [prefix, state] : models_.networks()) parameters += int64_t(state->parameters().size());
        EXPECT_EQ(counted::adam_update, parameters);
        EXPECT_EQ(tape_size(), 0);
    }
}

// In groups of images on several threads or all at once: the network's own energies and gradients.
TEST_P(NetworkChain, EnergyGradientMatchesTheNetwork) {
    const int64_t side = settings_.image_size();
    for (const int64_t batch : {1, 4, 23}) {  // 23: several groups
        const Tensor x = random_tensor({batch, side, side, 3}, uint32_t(30 + batch));
        Models direct(settings_, 4);
        const Var image(x);
        const Var energy = direct.ebm.forward(image);
        backward(energy, {image});
        for (const int threads : {1, 3}) {
            const WithThreads with(threads);
            Models grouped(settings_, 4);
            const EnergyGradient found = energy_gradient(grouped.ebm, x);
            EXPECT_EQ(to_string(found.energy.shape()), to_string(Shape{batch}));
            EXPECT_EQ(to_string(found.gradient.shape()), to_string(x.shape()));
            EXPECT_EQ(found.energy.to_host(), energy.value().to_host())
                << batch << " images, " << threads << " threads";
            EXPECT_EQ(found.gradient.to_host(), image.grad().to_host())
                << batch << " images, " << threads << " threads";
            // So are the results of the power iteration.
            for (size_t i = 0; i < grouped.ebm.state.entries().size(); ++i)
                EXPECT_EQ(grouped.ebm.state.entries()[i].value.value().to_host(),
                          direct.ebm.state.entries()[i].value.value().to_host());
        }
    }
}

// The chain with the real EBM and no noise against an explicit loop: a pass with its power iteration, a gradient step,
// and so on.
TEST_P(NetworkChain, XChainWithoutNoiseIsGradientDescent) {
    const int64_t side = settings_.image_size();
    const real step = 4;
    const Tensor start = random_tensor({3, side, side, 3}, 9);
    Models direct(settings_, 4), chained(settings_, 4);
    const Chain chain = langevin_x(
        start, [&](const Tensor& x) { return energy_gradient(chained.ebm, x); }, {4, step, 0.1f},
        no_noise(start.shape()));
    Values x = start.to_host();
    for (size_t k = 0; k < 4; ++k) {
        const Var image(Tensor::from_host(start.shape(), x));
        const Var energy = direct.ebm.forward(image);
        double total = 0;
        for (const real e : energy.value().to_host()) total += double(e);
        backward(energy, {image});
        EXPECT_EQ(chain.trace[k].item(), real(total)) << "step " << k;
        const Values gradient = image.grad().to_host();
        for (size_t i = 0; i < x.size(); ++i) x[i] -= 0.5f * step * step * gradient[i];
    }
    EXPECT_EQ(chain.end.to_host(), x);
    const Values before = start.to_host();
    EXPECT_GT(relative_l2(x, before), 1e3 * unit) << "the gradient is too small for this test";
}

}  // namespace
}  // namespace dualmcmc::test
