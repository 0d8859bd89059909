// The optimiser.
#include "engine/adam.h"

#include <cmath>

#include "ranks/shared_batch.h"

namespace dualmcmc {

void sum_gradients(ParameterStore& state) {
    if (!batch_is_shared()) return;
    std::vector<Tensor> gradients;
    for (const Var& parameter : state.parameters()) {
        CHECK(parameter.grad().defined());
        gradients.push_back(parameter.grad());
    }
    sum_over_ranks(gradients);
}

void adam_step(ParameterStore& state, const AdamSettings& s, int64_t t) {
    const double correction1 = 1 - std::pow(s.beta1, double(t)), correction2 = 1 - std::pow(s.beta2, double(t));
    for (NamedTensor& entry : state.entries()) {
        if (!entry.trainable) continue;
        const Tensor& weight = entry.value.value();
        if (!entry.value.grad().defined()) fail("adam_step: parameter ", entry.name, " has no gradient");
        backend().adam_update(weight.data(), entry.moment1.data(), entry.moment2.data(), entry.value.grad().data(),
                              real(s.learning_rate / correction1), s.beta1, s.beta2, real(1 / std::sqrt(correction2)),
                              s.epsilon, s.weight_decay, weight.size());
    }
}

void update_ema(ParameterStore& state, double decay) {
    for (NamedTensor& entry : state.entries()) {
        if (!entry.trainable) continue;
        const Tensor& value = entry.value.value();
        if (!entry.ema.defined()) entry.ema = value.clone();
        else backend().ema_update(entry.ema.data(), value.data(), real(decay), value.size());
    }
}

void clear_gradients(ParameterStore& state) {
    for (NamedTensor& entry : state.entries()) entry.value.clear_grad();
}

}  // namespace dualmcmc
