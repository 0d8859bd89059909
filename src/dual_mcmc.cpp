// The training iteration. Read it beside section 3 of paper.md; the order is the release's and matters: every pass through the EBM
// makes one power iteration, and each pass keeps the σ of its own moment.
#include "dual_mcmc.h"

#include <chrono>

namespace dualmcmc {

StepNoise philox_noise(uint64_t seed, uint64_t iteration, const Shape& images, int64_t latent) {
    const Shape latents{images.at(0), latent};
    const uint64_t step = iteration << 16;
    auto draw = [seed, step](Stream stream, const Shape& shape) -> NoiseFunction {
        return [=](int64_t k) { return Tensor::normal(shape, random_key(seed, stream, step + uint64_t(k))); };
    };
    return {draw(Stream::prior, latents)(0), draw(Stream::reparametrise, latents)(0), draw(Stream::langevin_x, images),
            draw(Stream::langevin_z, latents), draw(Stream::langevin_x_resample, images)};
}

namespace {

// Books the time since it was last asked to one of the iteration's parts.
class Stopwatch {
public:
    void book(double& part) {
        const auto now = std::chrono::steady_clock::now();
        part += std::chrono::duration<double>(now - last_).count();
        last_ = now;
    }

private:
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// A pass that is not differentiated.
Tensor generate(const Generator& generator, const Tensor& z) {
    NoTape no_tape;
    return generator(Var(z)).value();
}

// T_α^x from g_θ(z) (Eq. 3).
Chain revise(Models& models, const Tensor& x_init, const ChainSettings& settings, const NoiseFunction& noise) {
    return langevin_x(x_init, [&](const Tensor& x) { return energy_gradient(models.energy, x); }, settings, noise);
}

// z ~ q_φ(z|x), then T_θ^z (Eq. 6).
void infer(StepResult& out, Models& models, const Tensor& x, const StepNoise& noise, const StepSettings& s) {
    {
        NoTape no_tape;
        const auto [mu, logvar] = models.encoder(Var(x));
        out.mu = mu.value();
        out.logvar = logvar.value();
        out.z_init = reparametrise(mu, logvar, noise.reparametrise).value();
    }
    Chain chain = langevin_z(out.z_init, x, models.generator, s.sigma, s.chain_z, noise.langevin_z);
    out.z_revised = chain.end;
    out.sse_profile = std::move(chain.profile);
}

// Eq. 10: g_θ learns the data from the revised latents, and the EBM's revision of its own samples. x̃ and z̃ are constants.
void update_generator(StepResult& out, Models& models, const Tensor& x, const Tensor& z, const StepSettings& s, int64_t update) {
    const Var reconstruction = models.generator(Var(out.z_revised));
    const Var loss_recon = squared_error(Var(x), reconstruction);
    const Var loss_revise = squared_error(Var(out.x_revised), models.generator(Var(z)));
    out.reconstruction = reconstruction.value();
    out.loss_recon = loss_recon.value();
    out.loss_revise = loss_revise.value();
    clear_gradients(models.generator.state);
    backward(add(scale(loss_recon, s.lambda_data), scale(loss_revise, s.lambda_ebm)), models.generator.state.parameters());
    adam_step(models.generator.state, s.adam_generator, update);
}

// Eq. 15: q_φ learns the revised latents of the data, and the latents that the revised samples came from.
void update_encoder(StepResult& out, Models& models, const Tensor& x, const Tensor& z, const StepSettings& s, int64_t update) {
    const auto [mu, logvar] = models.encoder(Var(x));
    const Var nll_posterior = gaussian_nll(Var(out.z_revised), mu, logvar);
    const auto [mu_model, logvar_model] = models.encoder(Var(out.x_revised));
    const Var nll_prior = gaussian_nll(Var(z), mu_model, logvar_model);
    out.nll_posterior = nll_posterior.value();
    out.nll_prior = nll_prior.value();
    clear_gradients(models.encoder.state);
    backward(add(nll_posterior, scale(nll_prior, s.lambda_prior)), models.encoder.state.parameters());
    adam_step(models.encoder.state, s.adam_encoder, update);
}

// Eq. 7: E_α falls on the data and rises on the model's samples, over the chain's temperature [release]. The gradient of the first
// term is taken before the second chain moves the spectral norms on; the two add up.
void update_ebm(StepResult& out, Stopwatch& watch, Models& models, const Tensor& x, const Tensor& z, const StepNoise& noise,
                const StepSettings& s, int64_t update) {
    const float inverse_temperature = 1 / s.chain_x.temperature();
    const std::vector<Var> parameters = models.energy.state.parameters();
    clear_gradients(models.energy.state);
    const Var energy_data = mean(models.energy(Var(x)));
    out.energy_data = energy_data.value();
    backward(scale(energy_data, inverse_temperature), parameters);

    Tensor x_model = out.x_revised;
    if (s.resample) {
        watch.book(out.seconds.ebm);
        out.x_resampled = revise(models, generate(models.generator, z), s.chain_x, noise.langevin_x_resample).end;
        x_model = out.x_resampled;
        watch.book(out.seconds.chain_x);
    }
    const Var energy_model = mean(models.energy(Var(x_model)));
    out.energy_model = energy_model.value();
    backward(scale(energy_model, -inverse_temperature), parameters);
    adam_step(models.energy.state, s.adam_ebm, update);
}

}  // namespace

StepResult dual_mcmc_step(Models& models, const Tensor& x, const StepNoise& noise, const StepSettings& s, int64_t update) {
    StepResult out;
    Stopwatch watch;
    const Tensor& z = noise.prior;

    out.x_init = generate(models.generator, z);
    Chain chain = revise(models, out.x_init, s.chain_x, noise.langevin_x);
    out.x_revised = chain.end;
    out.energy_profile = std::move(chain.profile);
    watch.book(out.seconds.chain_x);

    infer(out, models, x, noise, s);
    watch.book(out.seconds.chain_z);

    update_generator(out, models, x, z, s, update);
    watch.book(out.seconds.generator);

    {
        NoTape no_tape;  // the release evaluates E(x) here, for its log: what is left of that pass is its power iteration
        models.energy.normalise_weights();
    }
    update_encoder(out, models, x, z, s, update);
    watch.book(out.seconds.encoder);

    update_ebm(out, watch, models, x, z, noise, s, update);
    watch.book(out.seconds.ebm);
    return out;
}

}  // namespace dualmcmc
