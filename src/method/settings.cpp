// Checks of the settings, and the table of methods.
#include "method/settings.h"

#include <cmath>

#include "check.h"

namespace dualmcmc {

void check_chain(const ChainSettings& c, const ChainFlags& flags, int64_t max_steps) {
    if (c.steps < 0 || c.steps > max_steps) fail(flags.steps, " ", c.steps, ": must be from 0 to ", max_steps);
    if (!(c.step_size > 0 && std::isfinite(c.step_size))) fail(flags.step_size, " ", c.step_size, ": must be above 0");
    if (!(c.noise_std >= 0 && std::isfinite(c.noise_std))) fail(flags.noise, " ", c.noise_std, ": must be at least 0");
    const real temperature = c.temperature(), squared_step = c.step_size * c.step_size;
    if (c.noise_std > 0 && !(std::isnormal(temperature) && std::isnormal(1 / temperature)))
        fail(flags.noise, " ", c.noise_std, ": with ", flags.step_size, " ", c.step_size,
             " the temperature (noise / step size)^2 comes out as ", temperature, "; give another noise or step size");
    if (!std::isnormal(squared_step))
        fail(flags.step_size, " ", c.step_size, ": its square comes out as ", squared_step, "; give another step size");
}

void check_sigma(real sigma, const std::string& flag) {
    if (!(sigma > 0 && std::isfinite(sigma))) fail(flag, " ", sigma, ": must be above 0");
    const real weight = 1 / (2 * sigma * sigma);
    if (!std::isnormal(weight))
        fail(flag, " ", sigma, ": 1 / (2 sigma^2) comes out as ", weight, "; give another sigma");
}

const std::vector<Method>& methods() {
    static constexpr std::nullopt_t keep = std::nullopt;  // the setting stays as it is
    // name, description; start x, start z; k_x, k_z; λ_data, λ_ebm, λ_generated; EBM, generator and encoder learn,
    // joint ELBO; reports
    // clang-format off
    static const std::vector<Method> table{
        {"dual", "this paper",
         "generator", "encoder", keep, keep, keep, keep, keep,
         true, true, true, false,
         {"loss_recon", "loss_revise", "nll_posterior", "nll_generated", "energy_data", "energy_model"}},
        {"cooperative", "the EBM teaches the generator by revising its samples; no encoder (Xie et al. 2018)",
         "generator", "encoder", keep, 0, 0, keep, keep,
         true, true, false, false,
         {"loss_revise", "energy_data", "energy_model"}},
        {"triangle", "the divergence triangle: no chains, all losses in nats (Han et al. 2019)",
         "generator", "encoder", 0, 0, 1, 1, 1,
         true, true, true, true,
         {"loss_recon", "kl", "nll_generated", "energy_data", "energy_model"}},
        {"shortrun", "an EBM alone, chains of 100 steps from noise (Nijkamp et al. 2019)",
         "noise", "encoder", 100, keep, keep, keep, keep,
         true, false, false, false,
         {"energy_data", "energy_model"}},
        {"abp", "alternating back-propagation: a generator alone, z-chains from noise (Han et al. 2017)",
         "generator", "noise", keep, keep, keep, 0, keep,
         false, true, false, false,
         {"loss_recon"}},
        {"vae", "generator and encoder on the ELBO (Kingma and Welling 2014)",
         "generator", "encoder", keep, 0, 1, 0, 0,
         false, true, true, true,
         {"loss_recon", "kl"}},
    };
    // clang-format on
    return table;
}

std::vector<std::string> names_of_methods() {
    std::vector<std::string> names;
    for (const Method& method : methods()) names.push_back(method.name);
    return names;
}

std::string method_list() {
    std::string list;
    for (size_t i = 0; i < method_names.size(); ++i)
        list += (i == 0 ? "" : i + 1 < method_names.size() ? ", " : " or ") + method_names[i];
    return list;
}

void apply_method(StepSettings& s, const std::string& name) {
    for (const Method& method : methods()) {
        if (method.name != name) continue;
        s.start_x = method.start_x;
        s.start_z = method.start_z;
        if (method.steps_x) s.chain_x.steps = *method.steps_x, s.long_steps = 0;
        s.chain_z.steps = method.steps_z.value_or(s.chain_z.steps);
        s.lambda_data = method.lambda_data.value_or(s.lambda_data);
        s.lambda_ebm = method.lambda_ebm.value_or(s.lambda_ebm);
        s.lambda_generated = method.lambda_generated.value_or(s.lambda_generated);
        s.learn_ebm = method.learn_ebm;
        s.learn_generator = method.learn_generator;
        s.learn_encoder = method.learn_encoder;
        s.joint_elbo = method.joint_elbo;
        return;
    }
    fail("--method ", excerpt(name), ": unknown; give ", method_list());
}

}  // namespace dualmcmc
