// Adam, and the moving average of parameters.
#pragma once
#include "engine/parameters.h"

namespace dualmcmc {

// Adam (Kingma and Ba 2015), bias-corrected, with L2 decay added to the gradient, as torch.optim.Adam. β as the
// authors.
struct AdamSettings {
    real learning_rate, weight_decay;
    double beta1 = 0, beta2 = 0.9;
    real epsilon = 1e-8;
};

// On several ranks (ranks/shared_batch.h) replaces every parameter's gradient by the sum of all ranks', in one message.
void sum_gradients(ParameterStore& state);

// Updates every parameter from its gradient; `t` counts steps from 1. Fails where a parameter has no gradient.
// Gradients are left as they are.
void adam_step(ParameterStore& state, const AdamSettings& settings, int64_t t);

void clear_gradients(ParameterStore& state);

// Of every parameter: ema <- decay ema + (1 - decay) parameter. The first call sets it to the parameter.
void update_ema(ParameterStore& state, double decay);

}  // namespace dualmcmc
