// The proof in double precision (make REAL=double test): derivatives of the networks, of the chains' potentials and of
// every method's losses against central differences, to 1e-8. The ops are in ops_test.cpp.
//
// A derivative is taken along a random direction d: <∇f, d> against the fourth-order difference
//   [8 (f(x + h d) - f(x - h d)) - (f(x + 2h d) - f(x - 2h d))] / 12 h.
// Its error is h⁴ f⁗/30 and some 10 u |f| / h, with u = 2^-53. Kinks are excluded by construction: ReluSigns tells
// whether a ReLU changes sides between the points, and then h is halved.
#include <algorithm>
#include <optional>

#include "compare.h"
#include "experiments/relu_signs.h"
#include "method/dual_mcmc.h"

namespace dualmcmc::test {
namespace {

class Gradients : public testing::Test {
protected:
    void SetUp() override {
        if constexpr (!std::is_same_v<real, double>) GTEST_SKIP() << "needs make REAL=double test";
    }
    WithThreads one_{1};
};

using Scalar = std::function<double()>;

// f after `x` moved by `h` along `d`; the sides of all ReLUs go to `signs`.
double moved(const Tensor& x, const Values& at, const Values& d, double h, const Scalar& f, ReluSigns::Record& signs) {
    Values there = at;
    for (size_t i = 0; i < there.size(); ++i) there[i] += real(h) * d[i];
    x.copy_from_host(there);
    signs.clear();
    const ReluSigns record(signs);
    const double value = f();
    x.copy_from_host(at);
    return value;
}

double largest_of(const Tensor& x) {
    double largest = 0;
    for (const real value : x.to_host()) largest = std::max(largest, std::abs(double(value)));
    return largest;
}

// <gradient, d> against the difference, relative to |gradient| |d|: what a wrong gradient would show. One without an
// element above 1e-9 of `largest`, such as that of a bias before batch norm, must be 0 to 1e-8 of that. f must not
// change its arguments.
void expect_derivative(const std::string& what, const Tensor& x, const Tensor& gradient, uint32_t seed, const Scalar& f,
                       double largest = 0) {
    ASSERT_TRUE(gradient.defined()) << what;
    const Values at = x.to_host(), slope = gradient.to_host(), d = random_values(x.size(), seed);
    double expected = 0, squares = 0, directions = 0;
    for (size_t i = 0; i < d.size(); ++i) {
        expected += slope[i] * d[i];
        squares += slope[i] * slope[i];
        directions += d[i] * d[i];
    }
    for (double h = 2e-4; h > 1e-7; h /= 2) {
        ReluSigns::Record signs[4];
        const double f1 = moved(x, at, d, h, f, signs[0]), f2 = moved(x, at, d, -h, f, signs[1]),
                     f3 = moved(x, at, d, 2 * h, f, signs[2]), f4 = moved(x, at, d, -2 * h, f, signs[3]);
        if (signs[0] != signs[1] || signs[0] != signs[2] || signs[0] != signs[3]) continue;
        const double difference = (8 * (f1 - f2) - (f3 - f4)) / (12 * h);
        const double scale = largest_of(gradient) > 1e-9 * largest ? std::sqrt(squares) : largest;
        EXPECT_LE(std::abs(difference - expected), 1e-8 * scale * std::sqrt(directions))
            << what << ": " << expected << ", by differences " << difference << " with h = " << h;
        return;
    }
    FAIL() << what << ": a ReLU is at its kink";
}

ModelSettings small(const std::string& architecture) {
    return {architecture, architecture == "celeba64" ? 19 : 5, architecture == "celeba64" ? 19 : 5, 3, 7};
}

Var weighted(const Var& y, uint32_t seed) { return sum(multiply(y, Var(random_tensor(y.shape(), seed)))); }

// Derivatives of f in x and in all parameters of `state`.
void expect_gradients(const std::string& what, ParameterStore& state, const Tensor& x,
                      const std::function<Var(const Var&)>& f) {
    const Var input(x);
    std::vector<Var> inputs = state.parameters();
    inputs.push_back(input);
    clear_gradients(state);
    backward(f(input), inputs);
    const Scalar value = [&] {
        const NoGrad no_grad;
        return double(f(Var(x)).item());
    };
    expect_derivative(what + ", x", x, input.grad(), 1, value);
    double largest = 0;
    for (const NamedTensor& entry : state.entries())
        if (entry.trainable) largest = std::max(largest, largest_of(entry.value.grad()));
    for (const NamedTensor& entry : state.entries())
        if (entry.trainable)
            expect_derivative(what + ", " + entry.name, entry.value.value(), entry.value.grad(), 2, value, largest);
}

TEST_F(Gradients, Networks) {
    for (const std::string architecture : {"cifar10", "celeba64"}) {
        Models models(small(architecture), 3);
        const int64_t side = models.settings.image_size(), batch = 2;
        const Tensor x = random_tensor({batch, side, side, 3}, 4), z = random_tensor({batch, 7}, 5);
        const Tensor u = random_tensor({batch}, 6);
        // W / σ with the u and v of one power iteration, as constants of the derivative: σ = vᵀWu.
        expect_gradients(architecture + " generator", models.generator.state, z,
                         [&](const Var& v) { return weighted(models.generator(v), 7); });
        expect_gradients(architecture + " encoder", models.encoder.state, x, [&](const Var& v) {
            const auto [mu, logvar] = models.encoder(v);
            return add(weighted(mu, 8), weighted(logvar, 9));
        });
        models.ebm.power_iteration();
        const Var input(x);
        backward(weighted(models.ebm.energy(input), 10), {input});
        expect_derivative(architecture + " EBM, x", x, input.grad(), 1, [&] {
            const NoGrad no_grad;
            return double(weighted(models.ebm.energy(Var(x)), 10).item());
        });
    }
}

// Every step of both chains moves by the gradient of its potential, which is compared with differences of that.
TEST_F(Gradients, Chains) {
    for (const std::string architecture : {"cifar10", "celeba64"}) {
        Models models(small(architecture), 3);
        const int64_t side = models.settings.image_size(), batch = 2, steps = 4;
        const ChainSettings settings{steps, 0.5, 0};
        const NoiseFunction silent = [](int64_t) { return RandomKey{1, 2, 3}; };
        const Tensor data = random_tensor({batch, side, side, 3}, 4);
        std::vector<Tensor> points, slopes;
        langevin_x(
            data,
            [&](const Tensor& x) {
                const EnergyGradient e = energy_gradient(models.ebm, x);
                points.push_back(x.clone());
                slopes.push_back(e.gradient.clone());
                // The weights W / σ of this step, which the next power iteration changes.
                expect_derivative(text(architecture, " x-chain, step ", points.size()), points.back(), slopes.back(), 1,
                                  [&] {
                                      const NoGrad no_grad;
                                      return double(sum(models.ebm.energy(Var(points.back()))).item());
                                  });
                return e;
            },
            settings, silent);
        EXPECT_EQ(points.size(), size_t(steps));
        for (size_t k = 1; k < points.size(); ++k) {
            Values expected = points[k - 1].to_host();
            const Values slope = slopes[k - 1].to_host();
            for (size_t i = 0; i < expected.size(); ++i) expected[i] -= real(0.125) * slope[i];
            expect_close(points[k], expected, 1e-12, 1e-12, text("x-chain, step ", k));
        }

        const double sigma = 0.4;
        std::vector<Tensor> latents;
        const auto generator = [&](const Var& z) {
            if (latents.empty() || grad_enabled()) latents.push_back(z.value().clone());
            return models.generator(z);
        };
        const Chain chain =
            langevin_z(random_tensor({batch, 7}, 5), data, generator, real(sigma), {steps, 0.1, 0}, silent);
        latents.push_back(chain.end);
        ASSERT_EQ(latents.size(), size_t(steps) + 1);
        for (size_t k = 0; k + 1 < latents.size(); ++k) {
            const Values before = latents[k].to_host(), after = latents[k + 1].to_host();
            Values slope(before.size());  // from the step that the chain made: z' = z - ½ s² ∇
            for (size_t i = 0; i < slope.size(); ++i) slope[i] = (before[i] - after[i]) / real(0.005);
            const Tensor z = latents[k];
            expect_derivative(
                text(architecture, " z-chain, step ", k + 1), z, Tensor::from_host(z.shape(), slope), 1, [&] {
                    const NoGrad no_grad;
                    double prior = 0;
                    for (const real value : z.to_host()) prior += 0.5 * double(value) * double(value);
                    return double(sum_squared_error(Var(data), models.generator(Var(z))).item()) / (2 * sigma * sigma) +
                           prior;
                });
        }
    }
}

// Brings u and v of every weight to its singular vectors, and back there.
class ConvergedVectors {
public:
    explicit ConvergedVectors(EnergyModel& ebm) {
        const NoGrad no_grad;
        for (int i = 0; i < 3000; ++i) ebm.power_iteration();
        for (const NamedTensor& entry : ebm.state.entries())
            if (!entry.trainable) vectors_.emplace_back(entry.value.value(), entry.value.value().clone());
    }
    void restore() const {
        for (const auto& [vector, value] : vectors_) vector.copy_from(value);
    }

private:
    std::vector<std::pair<Tensor, Tensor>> vectors_;  // with their values
};

// With u and v at the singular vectors σ does not change with them to first order, so that its derivative with u and v
// held is the whole one.
TEST_F(Gradients, EnergyModelParameters) {
    for (const std::string architecture : {"cifar10", "celeba64"}) {
        Models models(small(architecture), 3);
        const int64_t side = models.settings.image_size();
        const Tensor x = random_tensor({2, side, side, 3}, 4);
        const ConvergedVectors vectors(models.ebm);
        expect_gradients(architecture + " EBM", models.ebm.state, x, [&](const Var& v) {
            vectors.restore();
            return weighted(models.ebm.forward(v), 10);
        });
    }
}

// The loss of generator and encoder.
double loss_of(Models& models, const StepSettings& s, const Tensor& x, const StepNoise& noise, const StepResult& out) {
    const Tensor& z = noise.prior;
    const NoGrad no_grad;
    const auto squares = [&](const Tensor& a, const Var& b) {
        return double(sum_squared_error(Var(a), b).item()) / double(x.dim(0));
    };
    double total = 0;
    if (s.joint_elbo) {
        const auto [mu, logvar] = models.encoder(Var(x));
        const Var g = models.generator(reparametrise(mu, logvar, noise.reparametrise));
        double kl = 0;
        const Values m = mu.value().to_host(), l = logvar.value().to_host();
        for (size_t i = 0; i < m.size(); ++i)
            kl += 0.5 * (std::exp(double(l[i])) + double(m[i]) * m[i] - 1 - double(l[i])) / double(x.dim(0));
        total += s.lambda_data * (squares(x, g) / (2 * double(s.sigma) * s.sigma) + kl);
        if (s.lambda_ebm > 0) {
            const Var sample = models.generator(Var(z));
            total += s.lambda_ebm * mean(models.ebm.energy(sample)).item() / s.chain_x.temperature();
            const auto [mu2, logvar2] = models.encoder(sample);
            total += s.lambda_generated * gaussian_nll(Var(z), mu2, logvar2).item();
        }
        return total;
    }
    if (s.learn_generator && s.lambda_data > 0)
        total += s.lambda_data * squares(x, models.generator(Var(out.z_revised)));
    if (s.learn_generator && s.lambda_ebm > 0) total += s.lambda_ebm * squares(out.x_revised, models.generator(Var(z)));
    if (s.learn_encoder) {
        const auto [mu, logvar] = models.encoder(Var(x));
        const auto [mu2, logvar2] = models.encoder(Var(out.x_revised));
        total += gaussian_nll(Var(out.z_revised), mu, logvar).item() +
                 s.lambda_generated * gaussian_nll(Var(z), mu2, logvar2).item();
    }
    return total;
}

// The gradients that an iteration of each method leaves in generator and encoder, against differences of the loss as
// METHOD.md, sections 3 and 7, has it, written out from the iteration's own results. (The EBM's loss is that of the
// test above, at two points; the step files hold it in each method.)
TEST_F(Gradients, LossesOfAllMethods) {
    for (const std::string& name : method_names) {
        StepSettings s;
        s.chain_x = {3, 5, 0.05};
        s.chain_z = {3, 0.1, 0.1};
        apply_method(s, name);
        s.chain_x.steps = std::min<int64_t>(s.chain_x.steps, 3);
        const uint64_t seed = 3;
        Models trained(small("cifar10"), seed), models(small("cifar10"), seed);
        const Tensor x = random_tensor({3, 32, 32, 3}, 4);
        const StepNoise noise = philox_noise(9, 0, x.shape(), models.settings.latent);
        const StepResult out = dual_mcmc_step(trained, x, noise, s, 1);
        // The EBM as it was when the joint loss met it: after the one power iteration that this loss makes.
        if (s.joint_elbo && s.lambda_ebm > 0) models.ebm.power_iteration();

        const auto loss = [&] { return loss_of(models, s, x, noise, out); };
        const auto check = [&](ParameterStore& at, const ParameterStore& with_gradients) {
            double largest = 0;
            for (const NamedTensor& entry : with_gradients.entries())
                if (entry.trainable) largest = std::max(largest, largest_of(entry.value.grad()));
            for (size_t i = 0; i < at.entries().size(); ++i) {
                const NamedTensor& trained_entry = with_gradients.entries()[i];
                if (trained_entry.trainable)
                    expect_derivative(name + ", " + trained_entry.name, at.entries()[i].value.value(),
                                      trained_entry.value.grad(), 2, loss, largest);
            }
        };
        if (s.learn_generator) check(models.generator.state, trained.generator.state);
        if (s.learn_encoder) check(models.encoder.state, trained.encoder.state);
    }
}

// Eq. 7 in each method that trains an EBM, with each reading of the negatives.
TEST_F(Gradients, LossOfTheEnergyModel) {
    for (const std::string& name : method_names)
        for (const std::string negatives : {"chain", "resampled", "generated", "long chain", "long resampled"}) {
            StepSettings s;
            s.chain_x = {3, 5, 0.05};
            s.chain_z = {3, 0.1, 0.1};
            apply_method(s, name);
            s.chain_x.steps = std::min<int64_t>(s.chain_x.steps, 3);
            const bool is_long = negatives.starts_with("long ");
            s.negatives = is_long ? negatives.substr(5) : negatives;
            if (is_long) s.long_steps = 5, s.long_every = 1;
            if (!s.learn_ebm || (negatives == "generated" && s.start_x == "noise")) continue;
            Models trained(small("cifar10"), 3), models(small("cifar10"), 3);
            const ConvergedVectors with(trained.ebm), vectors(models.ebm);
            const Tensor x = random_tensor({3, 32, 32, 3}, 4);
            const StepNoise noise = philox_noise(9, 0, x.shape(), models.settings.latent);
            const StepResult out = dual_mcmc_step(trained, x, noise, s, 1);
            Tensor x_model = negatives == "chain" ? out.x_revised : out.x_resampled;
            if (negatives == "generated") {
                const NoGrad no_grad;
                x_model = trained.generator(Var(noise.prior)).value();  // updated in the iteration
            }
            const auto loss = [&] {
                const NoGrad no_grad;
                vectors.restore();
                models.ebm.power_iteration();
                const double gap =
                    mean(models.ebm.energy(Var(x))).item() - mean(models.ebm.energy(Var(x_model))).item();
                return gap / double(s.chain_x.temperature());
            };
            for (size_t i = 0; i < models.ebm.state.entries().size(); ++i) {
                const NamedTensor& entry = trained.ebm.state.entries()[i];
                if (entry.trainable)
                    expect_derivative(name + ", " + negatives + ", " + entry.name,
                                      models.ebm.state.entries()[i].value.value(), entry.value.grad(), 2, loss);
            }
        }
}

// Twenty power iterations against a loop: v = Wu / |Wu|, u = Wᵀv / |Wᵀv|, σ = vᵀWu.
TEST_F(Gradients, SpectralNormOverTwentyIterations) {
    const int64_t rows = 45, columns = 7;
    const Values w = random_values(rows * columns, 1);
    Values u = random_values(columns, 2), v = random_values(rows, 3);
    const Tensor device_u = Tensor::from_host({columns}, u), device_v = Tensor::from_host({rows}, v);
    const auto normalise = [](Values& x) {
        double squares = 0;
        for (const real value : x) squares += double(value) * double(value);
        for (real& value : x) value = real(double(value) / std::sqrt(squares));
    };
    for (int iteration = 1; iteration <= 20; ++iteration) {
        v.assign(size_t(rows), 0);
        for (int64_t i = 0; i < rows * columns; ++i) v[size_t(i / columns)] += w[size_t(i)] * u[size_t(i % columns)];
        normalise(v);
        u.assign(size_t(columns), 0);
        for (int64_t i = 0; i < rows * columns; ++i) u[size_t(i % columns)] += w[size_t(i)] * v[size_t(i / columns)];
        normalise(u);
        double sigma = 0;
        for (int64_t i = 0; i < rows * columns; ++i)
            sigma += double(v[size_t(i / columns)]) * double(w[size_t(i)]) * double(u[size_t(i % columns)]);
        Values expected = w;
        for (real& value : expected) value = real(double(value) / sigma);
        const Var y = spectral_norm(Var(Tensor::from_host({rows, columns}, w)), device_u, device_v);
        expect_close(device_u, u, 0, 1e-12, text("u, iteration ", iteration));
        expect_close(device_v, v, 0, 1e-12, text("v, iteration ", iteration));
        expect_close(y.value(), expected, 0, 1e-12, text("W / σ, iteration ", iteration));
    }
}

}  // namespace
}  // namespace dualmcmc::test
