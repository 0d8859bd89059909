// The training iteration. Read it beside section 3 of paper.md; the order is the release's and matters: every pass
// through the EBM makes one power iteration, and each pass keeps the σ of its own moment.
#include "method/dual_mcmc.h"

#include <chrono>

namespace dualmcmc {

StepNoise philox_noise(uint64_t seed, uint64_t iteration, const Shape& images, int64_t latent) {
    const Shape latents{images.at(0), latent};
    const uint64_t step = iteration << 16;
    const auto draw = [=](RngPurpose purpose) { return Tensor::normal(latents, random_key(seed, purpose, step)); };
    const auto chain = [=](RngPurpose purpose) {
        return [=](int64_t k) { return random_key(seed, purpose, step + uint64_t(k)); };
    };
    return {draw(RngPurpose::prior),
            draw(RngPurpose::reparametrise),
            chain(RngPurpose::langevin_x),
            chain(RngPurpose::langevin_z),
            chain(RngPurpose::langevin_x_resample),
            [=] { return Tensor::uniform(images, random_key(seed, RngPurpose::start_x, step), -1, 1); },
            {}};
}

void apply_method(StepSettings& s, const std::string& method) {
    const StepSettings dual;
    s.start_x = dual.start_x, s.start_z = dual.start_z;
    s.learn_ebm = s.learn_generator = s.learn_encoder = true;
    s.joint_elbo = false;
    if (method == "dual") return;
    if (method == "cooperative") {
        s.learn_encoder = false;
        s.chain_z.steps = 0;
        s.lambda_data = 0;
    } else if (method == "triangle") {
        s.joint_elbo = true;
        s.chain_x.steps = s.chain_z.steps = 0;
        s.lambda_data = s.lambda_ebm = s.lambda_generated = 1;  // all terms are in nats
    } else if (method == "shortrun") {
        s.learn_generator = s.learn_encoder = false;
        s.start_x = "noise";
        s.chain_x.steps = 100;
    } else if (method == "abp") {
        s.learn_ebm = s.learn_encoder = false;
        s.start_z = "noise";
        s.lambda_ebm = 0;
    } else if (method == "vae") {
        s.learn_ebm = false;
        s.joint_elbo = true;
        s.chain_z.steps = 0;
        s.lambda_data = 1;
        s.lambda_ebm = s.lambda_generated = 0;
    } else {
        fail("--method ", method, ": unknown; give dual, cooperative, triangle, shortrun, abp or vae");
    }
}

namespace {

// Books the time since it was last asked to one of the iteration's parts.
class Stopwatch {
public:
    explicit Stopwatch(bool wait) : wait_(wait) {}
    void lap(double& part) {
        if (wait_) Tensor::full({1}, 0).to_host();
        const auto now = std::chrono::steady_clock::now();
        part += std::chrono::duration<double>(now - last_).count();
        last_ = now;
    }

private:
    bool wait_;
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// A pass that is not differentiated.
Tensor generate(const Generator& generator, const Tensor& z) {
    NoGrad no_grad;
    return generator(Var(z)).value();
}

// T_α^x from g_θ(z) (Eq. 3).
Chain revise(Models& models, const Tensor& x_init, const ChainSettings& settings, const NoiseFunction& noise) {
    return langevin_x(
        x_init, [&](const Tensor& x) { return energy_gradient(models.ebm, x); }, settings, noise);
}

// z ~ q_φ(z|x), or N(0, I), or what the caller kept, then T_θ^z (Eq. 6).
void infer(StepResult& out, Models& models, const Tensor& x, const StepNoise& noise, const StepSettings& s) {
    if (s.start_z == "encoder") {
        NoGrad no_grad;
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

// The sum of the terms whose weight is not 0.
class Loss {
public:
    void add(const Var& term, float weight) {
        const Var weighted = scale(term, weight);
        total_ = total_.defined() ? dualmcmc::add(total_, weighted) : weighted;
    }
    // Its gradient, and the step. Does nothing for a loss of no terms.
    void backward_and_step(ParameterStore& state, const AdamSettings& adam, int64_t update) const {
        backward_and_step({&state}, {adam}, update);
    }
    void backward_and_step(const std::vector<ParameterStore*>& states, const std::vector<AdamSettings>& adams,
                           int64_t update) const {
        if (!total_.defined()) return;
        std::vector<Var> parameters;
        for (ParameterStore* state : states) {
            clear_gradients(*state);
            for (const Var& parameter : state->parameters()) parameters.push_back(parameter);
        }
        backward(total_, parameters);
        for (size_t i = 0; i < states.size(); ++i) adam_step(*states[i], adams[i], update);
    }

private:
    Var total_;
};

// Eq. 10: g_θ learns the data from the revised latents, and the EBM's revision of its own samples. x̃ and z̃ are
// constants.
void update_generator(StepResult& out, Models& models, const Tensor& x, const Tensor& z, const StepSettings& s,
                      int64_t update) {
    Loss loss;
    if (s.lambda_data > 0) {
        const Var reconstruction = models.generator(Var(out.z_revised)),
                  loss_recon = squared_error(Var(x), reconstruction);
        out.reconstruction = reconstruction.value();
        out.loss_recon = loss_recon.value();
        loss.add(loss_recon, s.lambda_data);
    }
    if (s.lambda_ebm > 0) {
        const Var loss_revise = squared_error(Var(out.x_revised), models.generator(Var(z)));
        out.loss_revise = loss_revise.value();
        loss.add(loss_revise, s.lambda_ebm);
    }
    loss.backward_and_step(models.generator.state, s.adam_generator, update);
}

// Eq. 15: q_φ learns the revised latents of the data, and the latents that the revised samples came from.
void update_encoder(StepResult& out, Models& models, const Tensor& x, const Tensor& z, const StepSettings& s,
                    int64_t update) {
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
    loss.backward_and_step(models.encoder.state, s.adam_encoder, update);
}

// KL(N(μ, V) ‖ N(0, I)) = ½ Σ [V + μ² - 1 - log V], mean over the batch.
Var kl_to_prior(const Var& mu, const Var& logvar) {
    const float batch = float(mu.dim(0)), constant = -0.5f * float(mu.dim(1));
    const Var terms = add(add(exp(logvar), multiply(mu, mu)), scale(logvar, -1));
    return add(scale(sum(terms), 0.5f / batch), Var(Tensor::full({1}, constant)));
}

// The relatives without chains: g_θ and q_φ backward_and_step one loss, in nats. On the data the negative evidence
// lower bound,
//   λ_data [ ‖x - g(z)‖² / (2σ²) + KL(q(z|x) ‖ p(z)) ],  z ~ q(z|x) reparametrised;
// on the generator's samples, z ~ p(z), what KL(P ‖ Π) has of them (the divergence triangle):  λ_ebm E(g(z)) / T -
// λ_prior log q(z|g(z)).
void update_joint_elbo(StepResult& out, Models& models, const Tensor& x, const Tensor& z, const StepNoise& noise,
                       const StepSettings& s, int64_t update) {
    Loss loss;
    const auto [mu, logvar] = models.encoder(Var(x));
    const Var reconstruction = models.generator(reparametrise(mu, logvar, noise.reparametrise));
    const Var loss_recon = squared_error(Var(x), reconstruction), kl = kl_to_prior(mu, logvar);
    out.reconstruction = reconstruction.value();
    out.loss_recon = loss_recon.value();
    out.nll_posterior = kl.value();
    loss.add(loss_recon, s.lambda_data / (2 * s.sigma * s.sigma));
    loss.add(kl, s.lambda_data);
    if (s.lambda_ebm > 0 || s.lambda_generated > 0) {
        const Var sample = models.generator(Var(z));
        if (s.lambda_ebm > 0) loss.add(mean(models.ebm(sample)), s.lambda_ebm / s.chain_x.temperature());
        if (s.lambda_generated > 0) {
            const auto [mu_model, logvar_model] = models.encoder(sample);
            const Var nll_generated = gaussian_nll(Var(z), mu_model, logvar_model);
            out.nll_generated = nll_generated.value();
            loss.add(nll_generated, s.lambda_generated);
        }
    }
    loss.backward_and_step({&models.generator.state, &models.encoder.state}, {s.adam_generator, s.adam_encoder},
                           update);
}

// Eq. 7: E_α falls on the data and rises on the model's samples, over the chain's temperature [release]. The gradient
// of the first term is taken before the second chain moves the spectral norms on; the two add up.
void update_ebm(StepResult& out, Stopwatch& watch, Models& models, const Tensor& x, const Tensor& z,
                const StepNoise& noise, const StepSettings& s, int64_t update) {
    const float inverse_temperature = 1 / s.chain_x.temperature();
    const std::vector<Var> parameters = models.ebm.state.parameters();
    clear_gradients(models.ebm.state);
    const Var energy_data = mean(models.ebm(Var(x)));
    out.energy_data = energy_data.value();
    backward(scale(energy_data, inverse_temperature), parameters);

    Tensor x_model = out.x_revised;
    if (s.resample) {
        watch.lap(out.seconds.ebm);
        const Tensor start = s.start_x == "noise" ? out.x_init : generate(models.generator, z);
        out.x_resampled = revise(models, start, s.chain_x, noise.langevin_x_resample).end;
        x_model = out.x_resampled;
        watch.lap(out.seconds.chain_x);
    }
    const Var energy_model = mean(models.ebm(Var(x_model)));
    out.energy_model = energy_model.value();
    backward(scale(energy_model, -inverse_temperature), parameters);
    adam_step(models.ebm.state, s.adam_ebm, update);
}

}  // namespace

StepResult dual_mcmc_step(Models& models, const Tensor& x, const StepNoise& noise, const StepSettings& s,
                          int64_t update) {
    StepResult out;
    Stopwatch watch(s.synchronize);
    const Tensor& z = noise.prior;
    const bool samples =
        s.learn_ebm || (s.learn_generator && s.lambda_ebm > 0) || (s.learn_encoder && s.lambda_generated > 0);

    if (samples) {
        out.x_init = s.start_x == "noise" ? noise.start_x() : generate(models.generator, z);
        Chain chain = revise(models, out.x_init, s.chain_x, noise.langevin_x);
        out.x_revised = chain.end;
        out.energy_trace = std::move(chain.trace);
    }
    watch.lap(out.seconds.chain_x);

    if ((s.learn_generator && s.lambda_data > 0) || s.learn_encoder) infer(out, models, x, noise, s);
    watch.lap(out.seconds.chain_z);

    if (s.joint_elbo) update_joint_elbo(out, models, x, z, noise, s, update);
    else if (s.learn_generator) update_generator(out, models, x, z, s, update);
    watch.lap(out.seconds.generator);

    if (s.learn_ebm) {
        NoGrad
            no_grad;  // the release evaluates E(x) here, for its log: what is left of that pass is its power iteration
        models.ebm.power_iteration();
    }
    if (s.learn_encoder && !s.joint_elbo) update_encoder(out, models, x, z, s, update);
    watch.lap(out.seconds.encoder);

    if (s.learn_ebm) update_ebm(out, watch, models, x, z, noise, s, update);
    watch.lap(out.seconds.ebm);
    return out;
}

}  // namespace dualmcmc
