// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011) with cuRAND's mapping to uniforms and normals.
//
// value = f(seed, stream, step, index), no state: key = seed; counter = (index / 4, stream << 56 | step), so that
// curand_init(seed, stream << 56 | step, index) followed by curand_normal4 gives the same four values, up to rounding.
#pragma once
#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE {

struct Philox4 {
    uint32_t word[4];
};

// The 128 bits of block `block` at this key: Random123's philox4x32 with ten rounds.
KERNEL inline Philox4 philox(RandomKey key, uint64_t block) {
    const uint64_t subsequence = uint64_t(key.stream) << 56 | key.step;
    uint32_t c0 = uint32_t(block), c1 = uint32_t(block >> 32), c2 = uint32_t(subsequence), c3 = uint32_t(subsequence >> 32);
    uint32_t k0 = uint32_t(key.seed), k1 = uint32_t(key.seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
        c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
        c1 = uint32_t(p1);
        c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
        c3 = uint32_t(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// (0, 1], as curand_uniform.
KERNEL inline float to_uniform(uint32_t word) { return float(word) * 0x1p-32f + 0x1p-33f; }

// Two independent normals from two words: Box and Muller, sine first, as curand_normal4.
KERNEL inline void box_muller(uint32_t word0, uint32_t word1, float* pair) {
    const float radius = sqrtf(-2.0f * logf(to_uniform(word0)));
    const float angle = to_uniform(word1) * 6.28318530717958648f;
    pair[0] = radius * sinf(angle);
    pair[1] = radius * cosf(angle);
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
