// Stateless random numbers for data and metrics: value = f(seed, counter). The method's noise comes from Philox instead
// (random.cuh), with named purposes.
#pragma once
#include <cstdint>

namespace dualmcmc {

// 64 well-mixed bits: the finaliser of SplitMix64 (Steele et al. 2014), applied first to the seed, then to the counter.
inline uint64_t hash64(uint64_t seed, uint64_t counter) {
    const auto mix = [](uint64_t x) {
        x += 0x9E3779B97F4A7C15u;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
        return x ^ (x >> 31);
    };
    return mix(mix(seed) ^ counter);
}

// Uniform in [0, 1), a multiple of 2^-53.
inline double hash_uniform(uint64_t seed, uint64_t counter) {
    return static_cast<double>(hash64(seed, counter) >> 11) * 0x1p-53;
}

}  // namespace dualmcmc
