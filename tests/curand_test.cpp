// random.cuh against cuRAND's device functions, curand_init(seed, purpose << 56 | step, index), which NVIDIA's header
// lets us compile for the host. Skipped where CUDA's headers are not installed.
#include <gtest/gtest.h>

#include "rounding.h"

#if __has_include(<curand_kernel.h>)
#define HAS_CURAND 1

#define QUALIFIERS static inline  // not __device__
#include <cuda_runtime_api.h>
#include <curand_kernel.h>
#include <vector_functions.h>

#define DEVICE_NAMESPACE against_curand
#include "random.cuh"
#endif

namespace dualmcmc::test {
namespace {

TEST(Curand, DrawsTheSameValues) {
#ifdef HAS_CURAND
    const RandomKey keys[] = {
        {1, 2, 3}, {(1ull << 40) + 7, 200, (1ull << 55) + 5}, {~0ull, 255, (1ull << 56) - 1}, {0, 0, 0}};
    for (const RandomKey& key : keys)
        for (const uint64_t first : {0ull, 4ull, 400ull, 1ull << 33, (1ull << 34) + 4}) {
            curandStatePhilox4_32_10_t state;
            curand_init(key.seed, uint64_t(key.purpose) << 56 | key.step, first, &state);
            for (uint64_t block = first / 4; block < first / 4 + 50; ++block) {
                const against_curand::Philox4<1> ours(key, block);
                curandStatePhilox4_32_10_t again = state;
                const uint4 theirs = curand4(&again);
                const uint32_t words[] = {theirs.x, theirs.y, theirs.z, theirs.w};
                for (int i = 0; i < 4; ++i) {
                    ASSERT_EQ(ours.word[i][0], words[i]) << "block " << block << ", word " << i;
                    ASSERT_EQ(against_curand::to_uniform(words[i]), _curand_uniform(words[i]));
                }
                const float4 normals = curand_normal4(&state);
                float x, y, z, w;
                against_curand::box_muller(words[0], words[1], x, y);
                against_curand::box_muller(words[2], words[3], z, w);
                // Both are off by their rounding errors. cuRAND rounds the word 2πV once more.
                const float ours_and_theirs[4][2] = {{x, normals.x}, {y, normals.y}, {z, normals.z}, {w, normals.w}};
                for (size_t i = 0; i < 4; ++i) {
                    const double u = against_curand::to_uniform(words[i / 2 * 2]),
                                 v = against_curand::to_uniform(words[i / 2 * 2 + 1]);
                    const double error = rounding::box_muller({u, 2 * u}, {v, 3 * v})[i % 2].error;
                    ASSERT_NEAR(ours_and_theirs[i][0], ours_and_theirs[i][1], 2 * error * 0x1p-24) << "block " << block;
                }
            }
        }
#else
    GTEST_SKIP() << "cuRAND's header is not installed";
#endif
}

}  // namespace
}  // namespace dualmcmc::test
