// See check_step.h.
#include "experiments/check_step.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "experiments/relu_signs.h"
#include "experiments/step_file.h"
#include "method/dual_mcmc.h"
#include "training/checkpoint.h"

namespace dualmcmc {

namespace {

using Values = std::vector<double>;

double norm(const Values& x) {
    double total = 0;
    for (const double value : x) total += value * value;
    return std::sqrt(total);
}

double distance(const Values& a, const Values& b) {
    CHECK_EQ(a.size(), b.size());
    double total = 0;
    for (size_t i = 0; i < a.size(); ++i) total += (a[i] - b[i]) * (a[i] - b[i]);
    return std::sqrt(total);
}

// |found - expected| / scale; 0 if there is no difference.
double relative_error(const Values& found, const Values& expected, double scale) {
    const double difference = distance(found, expected);
    return difference == 0 ? 0 : difference / scale;
}

class Comparison {
public:
    Comparison(const StepFile& file, std::optional<double> tolerance, const step_check::Results* reference,
               step_check::Run& run)
        : file_(file), tolerance_(tolerance), reference_(reference), run_(run) {}

    // A file must not expect what the method does not compute.
    void output(const std::string& name, const Tensor& found, const Layout& layout) {
        if (!found.defined()) {
            if (file_.file.tensors.count(name))
                fail(file_.path, ": holds ", name, ", which this method does not compute");
            return;
        }
        const Values expected = expect(name, layout), values = keep(name, found);
        add(name, relative_error(values, expected, norm(expected)));
    }
    void scalar(const std::string& name, const Tensor& found) { output(name, found, Layout::plain({1})); }
    void trace(const std::string& name, const std::vector<Tensor>& found) {
        if (found.empty()) return;
        std::vector<real> values;
        for (const Tensor& value : found) values.push_back(value.item());
        const Layout layout = Layout::plain({int64_t(values.size())});
        output(name, Tensor::from_host(layout.memory_shape(), values), layout);
    }

    void gradients(const std::string& prefix, const ParameterStore& state) {
        std::vector<Values> expected;
        double largest = 0;
        for (const NamedTensor& entry : state.entries()) {
            if (!entry.trainable) continue;
            expected.push_back(expect("grad." + prefix + entry.name, entry.layout));
            largest = std::max(largest, norm(expected.back()));
        }
        size_t next = 0;
        for (const NamedTensor& entry : state.entries()) {
            if (!entry.trainable) continue;
            const std::string name = "grad." + prefix + entry.name;
            const Values& wanted = expected[next++];
            const double own = norm(wanted), scale = own < 1e-5 * largest ? largest : own;
            add(name, relative_error(keep(name, entry.value.grad()), wanted, scale));
        }
    }

    // The parameters after Adam's step, and the singular vectors of spectral normalisation.
    void after(const std::string& prefix, const ParameterStore& state, double learning_rate) {
        int64_t far = 0, count = 0;
        for (const NamedTensor& entry : state.entries()) {
            const std::string name = "after." + prefix + entry.name;
            const bool singular_vector = name.ends_with(".weight_u") || name.ends_with(".weight_v");
            if (singular_vector) output(name, entry.value.value(), entry.layout);
            if (!entry.trainable) continue;
            const Values expected = expect(name, entry.layout), found = keep(name, entry.value.value());
            for (size_t i = 0; i < found.size(); ++i)
                far += !(std::abs(found[i] - expected[i]) <= 0.02 * learning_rate);  // also true for NaN
            count += int64_t(found.size());
        }
        run_.checks.push_back(
            {"after." + prefix + "* (share beyond 2 % of a learning rate)", double(far) / double(count), 0.01});
    }

private:
    Values expect(const std::string& name, const Layout& layout) const {
        if (reference_) return reference_->at(name);
        const std::vector<real> values = file_.values(name, layout);
        return {values.begin(), values.end()};
    }
    const Values& keep(const std::string& name, const Tensor& found) {
        const std::vector<real> values = found.to_host();
        return run_.results[name] = {values.begin(), values.end()};
    }
    void add(const std::string& name, double error) {
        run_.checks.push_back({name, error, tolerance_.value_or(file_.storage_error(name))});
    }
    const StepFile& file_;
    std::optional<double> tolerance_;
    const step_check::Results* reference_;
    step_check::Run& run_;
};

// All noise of the iteration.
StepNoise step_noise(const StepFile& file, const StepSettings& settings, const Layout& image, const Layout& latent) {
    StepNoise noise{file.tensor("noise.prior", latent),
                    file.tensor("noise.reparam", latent),
                    file.noise("noise.langevin_x", settings.chain_x.steps, image),
                    file.noise("noise.langevin_z", settings.chain_z.steps, latent),
                    {},
                    {},
                    {}};
    if (settings.negatives == "resampled")
        noise.langevin_x_resample = file.noise("noise.langevin_x_resample", settings.chain_x.steps, image);
    if (settings.start_x == "noise")
        noise.start_x = [start = file.noise("noise.start_x", 1, image)] { return std::get<Tensor>(start(0)); };
    return noise;
}

// A chain asks for its noise at the end of each step.
void note_steps(step_check::Run& run, const std::string& chain, NoiseFunction& noise) {
    noise = [&run, chain, before = noise](int64_t step) {
        run.chain_steps.push_back({text(chain, ", step ", step + 1), run.relus.size()});
        return before(step);
    };
}

}  // namespace

step_check::Run check_step(const std::string& path, std::optional<double> tolerance, bool fast,
                           const step_check::Results* reference) {
    std::optional<ExactConvolutions> exact;
    if (!fast) exact.emplace();
    const StepFile file(path);
    const StepSettings settings = file.step_settings();
    Models models(file.model_settings(), 0);
    for (const auto& [prefix, state] : models.networks()) load_state(file.file, path, prefix, *state, true);

    const int64_t batch = file.count("batch", 1), side = models.settings.image_size();
    const Layout image = Layout::image({batch, side, side, 3}), latent = Layout::plain({batch, models.settings.latent});
    step_check::Run run;
    StepNoise noise = step_noise(file, settings, image, latent);
    note_steps(run, "x-chain", noise.langevin_x);
    note_steps(run, "z-chain", noise.langevin_z);
    note_steps(run, "second x-chain", noise.langevin_x_resample);
    const Tensor x = file.tensor("batch.x", image);
    std::optional<ReluSigns> signs(run.relus);
    const StepResult out = dual_mcmc_step(models, x, noise, settings, 1);
    signs.reset();

    Comparison compare(file, tolerance, reference, run);
    compare.output("out.x_init", out.x_init, image);
    compare.output("out.x_revised", out.x_revised, image);
    compare.output("out.mu", out.mu, latent);
    compare.output("out.logvar", out.logvar, latent);
    compare.output("out.z_init", out.z_init, latent);
    compare.output("out.z_revised", out.z_revised, latent);
    compare.output("out.reconstruction", out.reconstruction, image);
    if (settings.negatives == "resampled") compare.output("out.x_resampled", out.x_resampled, image);
    compare.trace("out.energy_profile", out.energy_trace);
    compare.trace("out.sse_profile", out.sse_trace);
    compare.scalar("out.loss_recon", out.loss_recon);
    compare.scalar("out.loss_revise", out.loss_revise);
    compare.scalar("out.nll_posterior", out.kl.defined() ? out.kl : out.nll_posterior);
    compare.scalar("out.nll_prior", out.nll_generated);
    compare.scalar("out.energy_data", out.energy_data);
    compare.scalar("out.energy_model", out.energy_model);
    if (settings.learn_ebm) compare.gradients("netE.", models.ebm.state);
    if (settings.learn_generator) compare.gradients("netG.", models.generator.state);
    if (settings.learn_encoder) compare.gradients("netI.", models.encoder.state);
    compare.after("netE.", models.ebm.state, double(settings.adam_ebm.learning_rate));
    compare.after("netG.", models.generator.state, double(settings.adam_generator.learning_rate));
    compare.after("netI.", models.encoder.state, double(settings.adam_encoder.learning_rate));
    return run;
}

}  // namespace dualmcmc
