// What random numbers are drawn for. The generator itself is a kernel: cuda/random.cuh.
#pragma once
#include "backend.h"

namespace dualmcmc {

// A key's purpose (RandomKey::purpose). The values are part of the format: reference/philox.py has them too.
enum class RngPurpose : uint32_t {
    prior,
    reparametrise,
    langevin_x,
    langevin_z,
    langevin_x_resample,
    shuffle,
    init,
    sample_prior,
    sample_langevin,
    flip,
    start_x
};

inline RandomKey random_key(uint64_t seed, RngPurpose purpose, uint64_t step) {
    return {seed, uint32_t(purpose), step};
}

}  // namespace dualmcmc
