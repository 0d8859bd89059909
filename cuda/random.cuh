// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011) with cuRAND's mapping to uniforms and normals.
//
// value = f(seed, purpose, step, index), without state. The key is the seed; the counter is
// (index / 4, purpose << 56 | step). curand_init(seed, purpose << 56 | step, index) and curand_normal4 give the same
// four values, up to rounding.
#pragma once
#ifndef GPU
#include <immintrin.h>
#endif

#include <cstring>
#include <type_traits>

#include "math.cuh"

namespace dualmcmc::DEVICE_NAMESPACE {

// philox_blocks: blocks that one index draws. On the CPU enough to vectorise; on the GPU one, so that neighbouring
// threads write neighbouring values. Words64: the words computed together, each in the low half of 64 bits; the upper
// halves are ignored.
#ifdef GPU
constexpr int philox_blocks = 1;
using Words64 = uint64_t;
#else
constexpr int philox_blocks = 64;  // enough that stores retire before loads of another width read them
#ifdef __AVX2__  // also for AVX-512, whose multiplier throughput is the same
using Words64 = uint64_t __attribute__((vector_size(32)));
inline Words64 product(Words64 a, uint32_t b) { return (Words64)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b)); }
#else
using Words64 = uint64_t __attribute__((vector_size(16)));
inline Words64 product(Words64 a, uint32_t b) { return (Words64)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b)); }
#endif
#endif
DEVICE inline uint64_t product(uint64_t a, uint32_t b) { return uint64_t(uint32_t(a)) * b; }

// Philox4x32 with ten rounds (Random123): turns the counter's four words into random bits.
template <class Word>
DEVICE inline void philox_rounds(Word (&word)[4], uint64_t key) {
    uint32_t key0 = uint32_t(key), key1 = uint32_t(key >> 32);
    for (int round = 0; round < 10; ++round, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
        const Word product0 = product(word[0], 0xD2511F53u), product1 = product(word[2], 0xCD9E8D57u);
        word[0] = (product1 >> 32) ^ word[1] ^ key0;
        word[1] = product1;
        word[2] = (product0 >> 32) ^ word[3] ^ key1;
        word[3] = product0;
    }
}

// The 128-bit blocks first … first + count - 1 at this key: word[k][i] is word k of block first + i.
template <int count>
struct Philox4 {
    uint32_t word[4][count];

    DEVICE Philox4(RandomKey key, uint64_t first) {
        using Word = std::conditional_t<count == 1, uint64_t, Words64>;
        constexpr int width = sizeof(Word) / sizeof(uint64_t);
        const uint64_t subsequence = uint64_t(key.purpose) << 56 | key.step;
        uint64_t bits[4][count];
        for (int i = 0; i < count; ++i) bits[0][i] = first + uint64_t(i);
        for (int start = 0; start < count; start += width) {
            Word block;
            memcpy(&block, bits[0] + start, sizeof(Word));
            Word words[4] = {block, block >> 32, Word{} + subsequence, Word{} + (subsequence >> 32)};
            philox_rounds(words, key.seed);
            for (int k = 0; k < 4; ++k) memcpy(bits[k] + start, &words[k], sizeof(Word));
        }
        for (int k = 0; k < 4; ++k)
            for (int i = 0; i < count; ++i) word[k][i] = uint32_t(bits[k][i]);
    }
};

// Uniform in (0, 1], as curand_uniform.
DEVICE inline real to_uniform(uint32_t word) { return real(word) * 0x1p-32f + 0x1p-33f; }

// Two independent normals from two words by Box-Muller, sine first, as curand_normal4.
DEVICE inline void box_muller(uint32_t word0, uint32_t word1, real& first, real& second) {
    const real radius = std::sqrt(-2.0f * log_of_uniform(to_uniform(word0)));
    real sine, cosine;
    sincos_of_turns(to_uniform(word1), sine, cosine);
    first = radius * sine;
    second = radius * cosine;
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
