// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011) with cuRAND's mapping to uniforms and normals.
//
// value = f(seed, stream, step, index), no state: key = seed; counter = (index / 4, stream << 56 | step), so that
// curand_init(seed, stream << 56 | step, index) followed by curand_normal4 gives the same four values, up to rounding.
#pragma once
#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE {

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

// log u of a u in (0, 1], within 2 units in the last place. Without a branch or a call, as the two below, so that a loop over it is
// vectorised. u = 2^e (1 + f), f in [√½ - 1, √2 - 1); log(1 + f) by the polynomial of Cephes' logf (Moshier 1992).
KERNEL inline float log_of_uniform(float u) {
    const int32_t bits = __builtin_bit_cast(int32_t, u), root_half = 0x3F3504F3;
    const int32_t exponent = (bits - root_half) >> 23;
    const float e = float(exponent), f = __builtin_bit_cast(float, bits - exponent * (1 << 23)) - 1, square = f * f;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    p = p * f * square - 2.12194440e-4f * e - 0.5f * square;
    return f + p + 0.693359375f * e;  // e log 2, in two parts
}

// sin 2πu and cos 2πu of a u in (0, 1]. The quarter of the circle nearest to u is taken off exactly; Cephes' polynomials for the rest.
KERNEL inline void sincos_of_turns(float u, float& sine, float& cosine) {
    const int32_t quarter = int32_t(4 * u + 0.5f);
    const float a = (4 * u - float(quarter)) * 1.57079632679489662f, square = a * a;
    const float s = a + a * square * ((-1.9515295891e-4f * square + 8.3321608736e-3f) * square - 1.6666654611e-1f);
    const float c = 1 - 0.5f * square + square * square * ((2.443315711809948e-5f * square - 1.388731625493765e-3f) * square + 4.166664568298827e-2f);
    const bool odd = quarter & 1;
    sine = (odd ? c : s) * (quarter & 2 ? -1.0f : 1.0f);
    cosine = (odd ? s : c) * ((quarter + 1) & 2 ? -1.0f : 1.0f);
}

// Two independent normals from two words: Box and Muller, sine first, as curand_normal4.
KERNEL inline void box_muller(uint32_t word0, uint32_t word1, float& first, float& second) {
    const float radius = sqrtf(-2.0f * log_of_uniform(to_uniform(word0)));
    float sine, cosine;
    sincos_of_turns(to_uniform(word1), sine, cosine);
    first = radius * sine;
    second = radius * cosine;
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
