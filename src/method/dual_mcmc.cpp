// The training iteration (METHOD.md, section 3). Its passes, in the authors' order:
//
//    1  z ~ p(z), x₀ = g(z)
//    2  x-chain from x₀ to x̃                                   u, v advance here, k_x times
//    3  μ, log V of x, z₀ = μ + e^(½ log V) ε
//    4  z-chain from z₀ to z̃
//    5  g(z̃) and g(z): update the generator (Eq. 10)
//    6  E(x), which the authors only log                       u, v advance here
//    7  q(·|x) and q(·|x̃): update the encoder (Eq. 15)
//    8  E(x), the first term of Eq. 7                          u, v advance here
//    9  unless the negatives are the chain's end: g(z);
//       `resampled`, long chains: a second x-chain             u, v advance here, at each of its steps
//   10  E of the negatives: update the EBM (Eq. 7)             u, v advance here
//
// Every pass through the EBM makes one power iteration of its spectral normalisation, k_x + 1 + 1 (+ k_x) + 1 in all,
// and each backward pass uses the σ of its own forward pass. A step can be reproduced exactly only in this order, so
// each call of power_iteration() below is written out.
#include "method/dual_mcmc.h"

#include <chrono>

#include "ranks/shared_batch.h"

namespace dualmcmc {

StepNoise philox_noise(uint64_t seed, uint64_t iteration, const Shape& images, int64_t latent, int64_t first) {
    const Shape latents{images.at(0), latent};
    // The key of the elements of (B, …), of this shape, that belong to the images from `first` on.
    const auto key = [=](const Shape& shape, RngPurpose purpose, int64_t k) {
        RandomKey out = random_key(seed, purpose, iteration << 16 | uint64_t(k));
        out.first = uint64_t(first * (element_count(shape) / shape[0]));
        return out;
    };
    const auto draw = [=](RngPurpose purpose) { return Tensor::normal(latents, key(latents, purpose, 0)); };
    const auto chain = [=](const Shape& shape, RngPurpose purpose) {
        return [=](int64_t k) { return key(shape, purpose, k); };
    };
    StepNoise noise;
    noise.prior = draw(RngPurpose::prior);
    noise.reparametrise = draw(RngPurpose::reparametrise);
    noise.langevin_x = chain(images, RngPurpose::langevin_x);
    noise.langevin_z = chain(latents, RngPurpose::langevin_z);
    noise.langevin_x_resample = chain(images, RngPurpose::langevin_x_resample);
    noise.start_x = [=] { return Tensor::uniform(images, key(images, RngPurpose::start_x, 0), -1, 1); };
    return noise;
}

namespace {

class Stopwatch {
public:
    explicit Stopwatch(bool synchronize) : synchronize_(synchronize) {}
    // Adds the time since the last lap to `part`.
    void lap(double& part) {
        if (synchronize_) Tensor::full({1}, 0).to_host();
        const auto now = std::chrono::steady_clock::now();
        part += std::chrono::duration<double>(now - last_).count();
        last_ = now;
    }

private:
    bool synchronize_;
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// g_θ(z), not differentiated.
Tensor generate(const Generator& generator, const Tensor& z) {
    const NoGrad no_grad;
    return generator(Var(z)).value();
}

// T_α^x from x₀ (Eq. 3). Each step's energy_gradient advances u and v.
Chain revise(Models& models, const Tensor& x_init, const ChainSettings& settings, const NoiseFunction& noise) {
    const auto energy = [&](const Tensor& x) { return energy_gradient(models.ebm, x); };
    return langevin_x(x_init, energy, settings, noise);
}

// z₀ ~ q_φ(z|x), or N(0, I), or where the caller's chain ended; then T_θ^z (Eq. 6).
void infer(StepResult& out, Models& models, const Tensor& x, const StepNoise& noise, const StepSettings& s) {
    if (s.start_z == "encoder") {
        const NoGrad no_grad;
        const auto [mu, logvar] = models.encoder(Var(x));
        out.mu = mu.value();
        out.logvar = logvar.value();
        out.z_init = reparametrise(mu, logvar, noise.reparametrise).value();
    } else {
        out.z_init = s.start_z == "persistent" ? noise.start_z : noise.reparametrise;
    }
    Chain chain = langevin_z(out.z_init, x, models.generator, s.sigma, s.chain_z, noise.langevin_z);
    out.z_revised = chain.end;
    out.sse_trace = std::move(chain.trace);
}

// A weighted sum of terms.
class Loss {
public:
    void add(const Var& term, real weight) {
        const Var weighted = scale(term, weight);
        total_ = total_.defined() ? dualmcmc::add(total_, weighted) : weighted;
    }
    // zero_grad, backward, sum over ranks, one Adam step on each network. Does nothing if no term was added.
    void backward_and_step(const std::vector<ParameterStore*>& networks, const std::vector<AdamSettings>& adams,
                           int64_t adam_t) const {
        if (!total_.defined()) return;
        std::vector<Var> parameters;
        for (ParameterStore* network : networks) {
            clear_gradients(*network);
            for (const Var& parameter : network->parameters()) parameters.push_back(parameter);
        }
        backward(total_, parameters);
        for (size_t i = 0; i < networks.size(); ++i) {
            sum_gradients(*networks[i]);
            adam_step(*networks[i], adams[i], adam_t);
        }
    }

private:
    Var total_;
};

// Eq. 10: g_θ learns the data from the revised latents, and the EBM's revision of its own samples. x̃ and z̃ are
// constants.
void update_generator(StepResult& out, Models& models, const Tensor& x, const Tensor& z, const StepSettings& s,
                      int64_t adam_t) {
    Loss loss;
    if (s.lambda_data > 0) {
        const Var reconstruction = models.generator(Var(out.z_revised));
        const Var loss_recon = squared_error(Var(x), reconstruction);
        out.reconstruction = reconstruction.value();
        out.loss_recon = loss_recon.value();
        loss.add(loss_recon, s.lambda_data);
    }
    if (s.lambda_ebm > 0) {
        const Var loss_revise = squared_error(Var(out.x_revised), models.generator(Var(z)));
        out.loss_revise = loss_revise.value();
        loss.add(loss_revise, s.lambda_ebm);
    }
    loss.backward_and_step({&models.generator.state}, {s.adam_generator}, adam_t);
}

// Eq. 15: q_φ learns the revised latents of the data, and the latents that the revised samples came from.
void update_encoder(StepResult& out, Models& models, const Tensor& x, const Tensor& z, const StepSettings& s,
                    int64_t adam_t) {
    Loss loss;
    const auto [mu, logvar] = models.encoder(Var(x));
    const Var nll_posterior = gaussian_nll(Var(out.z_revised), mu, logvar);
    out.nll_posterior = nll_posterior.value();
    loss.add(nll_posterior, 1);
    if (s.lambda_generated > 0) {
        const auto [mu_model, logvar_model] = models.encoder(Var(out.x_revised));
        const Var nll_generated = gaussian_nll(Var(z), mu_model, logvar_model);
        out.nll_generated = nll_generated.value();
        loss.add(nll_generated, s.lambda_generated);
    }
    loss.backward_and_step({&models.encoder.state}, {s.adam_encoder}, adam_t);
}

// KL(N(μ, V) ‖ N(0, I)) = ½ Σ [V + μ² - 1 - log V], averaged over the batch.
Var kl_to_prior(const Var& mu, const Var& logvar) {
    const real batch = real(whole_batch(mu.dim(0))), constant = -0.5f * real(mu.dim(1)) * (real(mu.dim(0)) / batch);
    const Var terms = add(add(exp(logvar), multiply(mu, mu)), scale(logvar, -1));
    return add(scale(sum(terms), 0.5f / batch), Var(Tensor::full({1}, constant)));
}

// The baselines without chains: g_θ and q_φ minimise one loss, in nats. On the data it is the negative ELBO,
//   λ_data [ ‖x - g(z)‖² / (2σ²) + KL(q(z|x) ‖ p(z)) ],  z ~ q(z|x) reparametrised;
// on the generator's samples, z ~ p(z), the divergence triangle adds its part of KL(P ‖ Π),
//   λ_ebm E(g(z)) / T - λ_generated log q(z|g(z)).
void update_joint_elbo(StepResult& out, Models& models, const Tensor& x, const Tensor& z, const StepNoise& noise,
                       const StepSettings& s, int64_t adam_t) {
    Loss loss;
    const auto [mu, logvar] = models.encoder(Var(x));
    const Var reconstruction = models.generator(reparametrise(mu, logvar, noise.reparametrise));
    const Var loss_recon = squared_error(Var(x), reconstruction), kl = kl_to_prior(mu, logvar);
    out.reconstruction = reconstruction.value();
    out.loss_recon = loss_recon.value();
    out.kl = kl.value();
    loss.add(loss_recon, s.lambda_data / (2 * s.sigma * s.sigma));
    loss.add(kl, s.lambda_data);
    if (s.lambda_ebm > 0 || s.lambda_generated > 0) {
        const Var sample = models.generator(Var(z));
        if (s.lambda_ebm > 0) {
            models.ebm.power_iteration();  // u, v advance
            loss.add(mean(models.ebm.energy(sample)), s.lambda_ebm / s.chain_x.temperature());
        }
        if (s.lambda_generated > 0) {
            const auto [mu_model, logvar_model] = models.encoder(sample);
            const Var nll_generated = gaussian_nll(Var(z), mu_model, logvar_model);
            out.nll_generated = nll_generated.value();
            loss.add(nll_generated, s.lambda_generated);
        }
    }
    loss.backward_and_step({&models.generator.state, &models.encoder.state}, {s.adam_generator, s.adam_encoder},
                           adam_t);
}

// Eq. 7: lowers E_α on the data and raises it on the model's samples, over the chain's temperature [authors]. The
// gradient of the first term is taken before the second chain advances u and v; the two gradients add up.
void update_ebm(StepResult& out, Stopwatch& watch, Models& models, const Tensor& x, const Tensor& z,
                const StepNoise& noise, const StepSettings& s, int64_t adam_t) {
    const real inverse_temperature = 1 / s.chain_x.temperature();
    const std::vector<Var> parameters = models.ebm.state.parameters();
    clear_gradients(models.ebm.state);
    models.ebm.power_iteration();  // u, v advance (8)
    const Var energy_data = mean(models.ebm.energy(Var(x)));
    out.energy_data = energy_data.value();
    backward(scale(energy_data, inverse_temperature), parameters);
    watch.lap(out.seconds.ebm);
    const bool is_chain = s.negatives == "chain", is_long = s.long_steps > 0 && adam_t % s.long_every == 0;
    Tensor x_model = is_chain ? out.x_revised : s.start_x == "noise" ? out.x_init : generate(models.generator, z);
    if (s.negatives == "resampled" || is_long) {
        ChainSettings second = s.chain_x;
        if (is_long) second.steps = s.long_steps - (is_chain ? s.chain_x.steps : 0);  // "chain": those that are left
        x_model = out.x_resampled = revise(models, x_model, second, noise.langevin_x_resample).end;
    }
    watch.lap(out.seconds.chain_x);
    models.ebm.power_iteration();  // u, v advance (10)
    const Var energy_model = mean(models.ebm.energy(Var(x_model)));
    out.energy_model = energy_model.value();
    backward(scale(energy_model, -inverse_temperature), parameters);
    sum_gradients(models.ebm.state);
    adam_step(models.ebm.state, s.adam_ebm, adam_t);
}

// The scalars that are means over the batch: from this rank's part of each to the whole, in one message.
void sum_scalars(const StepResult& out) {
    if (!batch_is_shared()) return;
    std::vector<Tensor> scalars;
    for (const Tensor& scalar : {out.loss_recon, out.loss_revise, out.nll_posterior, out.nll_generated, out.kl,
                                 out.energy_data, out.energy_model})
        if (scalar.defined()) scalars.push_back(scalar);
    sum_over_ranks(scalars);
}

}  // namespace

StepResult dual_mcmc_step(Models& models, const Tensor& x, const StepNoise& noise, const StepSettings& s,
                          int64_t adam_t) {
    StepResult out;
    Stopwatch watch(s.synchronize);
    const Tensor& z = noise.prior;
    const bool needs_samples =
        s.learn_ebm || (s.learn_generator && s.lambda_ebm > 0) || (s.learn_encoder && s.lambda_generated > 0);
    const bool needs_latents = (s.learn_generator && s.lambda_data > 0) || s.learn_encoder;

    if (needs_samples) {
        out.x_init = s.start_x == "noise" ? noise.start_x() : generate(models.generator, z);
        Chain chain = revise(models, out.x_init, s.chain_x, noise.langevin_x);
        out.x_revised = chain.end;
        out.energy_trace = std::move(chain.trace);
    }
    watch.lap(out.seconds.chain_x);

    if (needs_latents) infer(out, models, x, noise, s);
    watch.lap(out.seconds.chain_z);

    if (s.joint_elbo) update_joint_elbo(out, models, x, z, noise, s, adam_t);
    else if (s.learn_generator) update_generator(out, models, x, z, s, adam_t);
    watch.lap(out.seconds.generator);

    if (s.learn_ebm) {
        // The authors log E(x) here; only that pass's power iteration is kept.
        const NoGrad no_grad;
        models.ebm.power_iteration();  // u, v advance (6)
    }
    if (s.learn_encoder && !s.joint_elbo) update_encoder(out, models, x, z, s, adam_t);
    watch.lap(out.seconds.encoder);

    if (s.learn_ebm) update_ebm(out, watch, models, x, z, noise, s, adam_t);
    sum_scalars(out);
    watch.lap(out.seconds.ebm);
    return out;
}

}  // namespace dualmcmc
