// Measures the CPU's peak: GFLOP/s of a loop of independent fp32 multiply-adds in its widest vector instructions, on
// argv[1] threads at once.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

using Vector4 = float __attribute__((vector_size(16)));
using Vector8 = float __attribute__((vector_size(32)));
using Vector16 = float __attribute__((vector_size(64)));

// `rounds` times 12 independent multiply-adds: enough to hide their latency. Values are loaded from and stored to
// volatile memory, so that the compiler cannot drop any of them.
template <class Vector>
__attribute__((always_inline)) inline void multiply_add(volatile float* memory, long rounds) {
    constexpr int lanes = sizeof(Vector) / sizeof(float);
    float start[14 * lanes];
    for (int i = 0; i < 14 * lanes; ++i) start[i] = memory[i];
    Vector v[14];
    __builtin_memcpy(v, start, sizeof v);
    Vector s0 = v[0], s1 = v[1], s2 = v[2], s3 = v[3], s4 = v[4], s5 = v[5];
    Vector s6 = v[6], s7 = v[7], s8 = v[8], s9 = v[9], s10 = v[10], s11 = v[11];
    const Vector factor = v[12], addend = v[13];
    for (long i = 0; i < rounds; ++i) {
        s0 = s0 * factor + addend, s1 = s1 * factor + addend, s2 = s2 * factor + addend, s3 = s3 * factor + addend;
        s4 = s4 * factor + addend, s5 = s5 * factor + addend, s6 = s6 * factor + addend, s7 = s7 * factor + addend;
        s8 = s8 * factor + addend, s9 = s9 * factor + addend, s10 = s10 * factor + addend, s11 = s11 * factor + addend;
    }
    const Vector end[12] = {s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11};
    __builtin_memcpy(start, end, sizeof end);
    for (int i = 0; i < 12 * lanes; ++i) memory[i] = start[i];
}

__attribute__((target("avx512f,fma,prefer-vector-width=512"))) void loop_avx512(volatile float* memory, long rounds) {
    multiply_add<Vector16>(memory, rounds);
}
__attribute__((target("avx2,fma"))) void loop_avx2(volatile float* memory, long rounds) {
    multiply_add<Vector8>(memory, rounds);
}
void loop_sse2(volatile float* memory, long rounds) {
    multiply_add<Vector4>(memory, rounds);
}

int main(int argc, char** argv) {
    const int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
    const bool avx512 = __builtin_cpu_supports("avx512f");
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const auto loop = avx512 ? loop_avx512 : avx2 ? loop_avx2 : loop_sse2;
    const double operations = 2.0 * 12 * (avx512 ? 16 : avx2 ? 8 : 4);  // a round's, with 12 vectors
    const long rounds = 20'000'000;
    double best = 0;
    for (int trial = 0; trial < 5; ++trial) {
        const auto began = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads)
        {
            volatile float memory[14 * 16];
            for (int i = 0; i < 14 * 16; ++i) memory[i] = 0.9f + 1e-4f * float(i);
            loop(memory, rounds);
        }
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
        best = std::max(best, operations * double(rounds) * threads / seconds / 1e9);
    }
    std::printf("%.1f\n", best);
}
