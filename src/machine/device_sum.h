// Sums over ranks of what lies in the device's memory.
#pragma once
#include <cstdint>

#include "real.h"

namespace dualmcmc {

// In place, of n values in the device's memory: factor Σ over ranks, as in ranks.h, in one message. Through the host,
// or from device to device where gpu_messages() and there are many; the bits are the same.
void sum_over_ranks(real* values, int64_t n, double factor);

}  // namespace dualmcmc
