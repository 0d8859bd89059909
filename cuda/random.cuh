// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011) with cuRAND's mapping to uniforms and normals.
//
// value = f(seed, stream, step, index), no state: key = seed; counter = (index / 4, stream << 56 | step), so that
// curand_init(seed, stream << 56 | step, index) followed by curand_normal4 gives the same four values, up to rounding.
#pragma once
#include "math.cuh"

namespace dualmcmc::DEVICE_NAMESPACE {

// Blocks that one index of a draw makes: on the CPU enough for vectors; on the GPU one, so that neighbouring threads write side by side.
#ifdef GPU
constexpr int philox_blocks = 1;
#else
constexpr int philox_blocks = 16;
#endif

// The 128 bits of the blocks first … first + count - 1 at this key, word by word: Random123's philox4x32 with ten rounds. Loops over
// several blocks at a time are vectorised.
template <int count>
struct Philox4 {
    uint32_t word[4][count];

    KERNEL Philox4(RandomKey key, uint64_t first) {
        const uint64_t subsequence = uint64_t(key.stream) << 56 | key.step;
        for (int i = 0; i < count; ++i) {
            word[0][i] = uint32_t(first + uint64_t(i));
            word[1][i] = uint32_t((first + uint64_t(i)) >> 32);
            word[2][i] = uint32_t(subsequence);
            word[3][i] = uint32_t(subsequence >> 32);
        }
        uint32_t key0 = uint32_t(key.seed), key1 = uint32_t(key.seed >> 32);
        for (int round = 0; round < 10; ++round, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
#pragma omp simd
            for (int i = 0; i < count; ++i) {
                const uint64_t product0 = uint64_t(0xD2511F53u) * word[0][i], product1 = uint64_t(0xCD9E8D57u) * word[2][i];
                word[0][i] = uint32_t(product1 >> 32) ^ word[1][i] ^ key0;
                word[1][i] = uint32_t(product1);
                word[2][i] = uint32_t(product0 >> 32) ^ word[3][i] ^ key1;
                word[3][i] = uint32_t(product0);
            }
        }
    }
};

// (0, 1], as curand_uniform.
KERNEL inline float to_uniform(uint32_t word) { return float(word) * 0x1p-32f + 0x1p-33f; }

// Two independent normals from two words: Box and Muller, sine first, as curand_normal4.
KERNEL inline void box_muller(uint32_t word0, uint32_t word1, float& first, float& second) {
    const float radius = sqrtf(-2.0f * log_of_uniform(to_uniform(word0)));
    float sine, cosine;
    sincos_of_turns(to_uniform(word1), sine, cosine);
    first = radius * sine;
    second = radius * cosine;
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
