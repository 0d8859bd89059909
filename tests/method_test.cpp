// The table of methods: each computes what its row says, and no more.
#include "method/dual_mcmc.h"

#include <gtest/gtest.h>

#include "compare.h"

namespace dualmcmc::test {
namespace {

// The scalars of a result that are defined, by name.
std::vector<std::string> reported(const StepResult& r) {
    std::vector<std::string> names;
    for (const auto& [name, scalar] : {std::pair("loss_recon", r.loss_recon),
                                       {"loss_revise", r.loss_revise},
                                       {"kl", r.kl},
                                       {"nll_posterior", r.nll_posterior},
                                       {"nll_generated", r.nll_generated},
                                       {"energy_data", r.energy_data},
                                       {"energy_model", r.energy_model}})
        if (scalar.defined()) names.push_back(name);
    return names;
}

std::vector<Values> parameters_of(const ParameterStore& network) {
    std::vector<Values> values;
    for (const Var& parameter : network.parameters()) values.push_back(parameter.value().to_host());
    return values;
}

TEST(Methods, ReportAndLearnWhatTheirRowSays) {
    for (const Method& method : methods()) {
        SCOPED_TRACE(method.name);
        StepSettings settings;
        settings.chain_x.steps = settings.chain_z.steps = 2;
        apply_method(settings, method.name);
        settings.chain_x.steps = std::min<int64_t>(settings.chain_x.steps, 2);
        Models models({"cifar10", 3, 4, 2, 5}, 1);
        const std::vector<Values> ebm = parameters_of(models.ebm.state),
                                  generator = parameters_of(models.generator.state),
                                  encoder = parameters_of(models.encoder.state);
        const Shape images{2, 32, 32, 3};
        const StepResult result =
            dual_mcmc_step(models, random_tensor(images, 1), philox_noise(1, 0, images, 5), settings, 1);
        EXPECT_EQ(reported(result), method.reports);
        EXPECT_EQ(parameters_of(models.ebm.state) != ebm, method.learn_ebm);
        EXPECT_EQ(parameters_of(models.generator.state) != generator, method.learn_generator);
        EXPECT_EQ(parameters_of(models.encoder.state) != encoder, method.learn_encoder);
    }
}

// The EBM's negatives in each reading. In each long_every-th iteration they are the ends of chains of long_steps: of
// the first chain, which goes on, or of a second one from the updated generator. With steps and noise of no size a
// chain ends where it starts; its number of steps is that of the calls for noise. A chain of no steps is one, too.
TEST(Methods, NegativesOfEachReading) {
    const Shape images{2, 32, 32, 3};
    for (const std::string negatives : {"chain", "resampled", "generated"})
        for (const int64_t steps : {0, 2})
            for (const int64_t t : {1, 2, 3, 6}) {
                SCOPED_TRACE(negatives + text(", ", steps, " steps, iteration ", t));
                StepSettings settings;
                settings.chain_x = {steps, real(1e-10), real(1e-10)};
                settings.chain_z.steps = 1;
                settings.negatives = negatives;
                settings.long_steps = negatives == "generated" ? 0 : 7;
                settings.long_every = 3;
                const bool is_long = settings.long_steps > 0 && t % 3 == 0;
                Models models({"cifar10", 3, 4, 2, 5}, 1);
                StepNoise noise = philox_noise(1, 0, images, 5);
                int64_t calls = 0;
                noise.langevin_x_resample = [&](int64_t step) {
                    EXPECT_EQ(step, calls++);
                    return Tensor::full(images, 0);
                };
                const StepResult result = dual_mcmc_step(models, random_tensor(images, 1), noise, settings, t);
                const int64_t of_the_first = negatives == "chain" ? steps : 0;
                const bool is_second = negatives == "resampled" || is_long;
                EXPECT_EQ(calls, !is_second ? 0 : (is_long ? 7 : steps) - of_the_first);
                ASSERT_EQ(result.x_resampled.defined(), is_second);
                EXPECT_TRUE(std::isfinite(result.energy_model.to_host()[0]));
                if (!is_second) continue;
                const NoGrad no_grad;
                const Tensor start =
                    negatives == "chain" ? result.x_revised : models.generator(Var(noise.prior)).value();
                EXPECT_EQ(result.x_resampled.to_host(), start.to_host());
            }
    // A method that sets the length of its chains has no others.
    for (const Method& method : methods()) {
        StepSettings settings;
        settings.long_steps = 60;
        apply_method(settings, method.name);
        EXPECT_EQ(settings.long_steps, method.steps_x ? 0 : 60) << method.name;
    }
}

// Each network's gradient gets its own weight decay. (With β₁ = 0 Adam's first moment is that sum. It takes two
// roundings, or one.)
TEST(Methods, EachNetworkHasItsWeightDecay) {
    StepSettings settings;
    settings.chain_x.steps = settings.chain_z.steps = 2;
    settings.adam_generator.weight_decay = real(0.5);
    settings.adam_ebm.weight_decay = real(0.25);
    settings.adam_encoder.weight_decay = real(2);
    Models models({"cifar10", 3, 4, 2, 5}, 1);
    std::vector<std::vector<Values>> before;
    for (const auto& [prefix, state] : models.networks()) before.push_back(parameters_of(*state));
    const Shape images{2, 32, 32, 3};
    dual_mcmc_step(models, random_tensor(images, 1), philox_noise(1, 0, images, 5), settings, 1);
    const std::vector<Models::Named> networks = models.networks();
    for (size_t k = 0; k < networks.size(); ++k) {
        const std::string prefix = networks[k].prefix;
        const double decay = prefix == "netG." ? 0.5 : prefix == "netE." ? 0.25 : 2;
        size_t next = 0;
        for (const NamedTensor& entry : networks[k].state->entries()) {
            if (!entry.trainable) continue;
            const Values weight = before[k][next++], gradient = entry.value.grad().to_host(),
                         moment = entry.moment1.to_host();
            for (size_t i = 0; i < weight.size(); ++i) {
                const double decayed = decay * double(weight[i]), sum = double(gradient[i]) + decayed;
                ASSERT_NEAR(moment[i], sum, unit * (std::abs(decayed) + std::abs(sum)) * 1.001) << prefix << entry.name;
            }
        }
    }
}

TEST(Methods, UnknownNamesAreAnsweredWithTheKnownOnes) {
    StepSettings settings;
    try {
        apply_method(settings, "dul");
        FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
        EXPECT_EQ(std::string(error.what()),
                  "--method dul: unknown; give dual, cooperative, triangle, shortrun, abp or vae");
    }
}

}  // namespace
}  // namespace dualmcmc::test
