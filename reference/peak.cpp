// What the processor can do: GFLOP/s of a loop of nothing but fp32 multiply-adds, in its widest instructions, on argv[1] threads at once.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

// `rounds` times 12 independent multiply-adds on vectors of `lanes` floats: enough to hide their latency.
template <int lanes>
__attribute__((always_inline)) inline float multiply_add(long rounds) {
    using Vector = float __attribute__((vector_size(lanes * 4)));
    Vector sums[12] = {}, factor = Vector{} + 0.999f, addend = Vector{} + 1e-3f;
    for (long i = 0; i < rounds; ++i)
#pragma GCC unroll 12
        for (Vector& sum : sums) sum = sum * factor + addend;
    for (const Vector& sum : sums) sums[0] += sum;
    float first;
    __builtin_memcpy(&first, sums, sizeof first);
    return first;
}
__attribute__((target("avx512f,fma,prefer-vector-width=512"))) float loop_avx512(long rounds) { return multiply_add<16>(rounds); }
__attribute__((target("avx2,fma"))) float loop_avx2(long rounds) { return multiply_add<8>(rounds); }
float loop_sse2(long rounds) { return multiply_add<4>(rounds); }

int main(int argc, char** argv) {
    const int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
    const bool wide = __builtin_cpu_supports("avx512f"), middle = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const auto loop = wide ? loop_avx512 : middle ? loop_avx2 : loop_sse2;
    const double operations = 2.0 * 12 * (wide ? 16 : middle ? 8 : 4);
    const long rounds = 20'000'000;
    double best = 0;
    float kept = 0;
    for (int time = 0; time < 5; ++time) {
        const auto began = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads) reduction(+ : kept)
        kept += loop(rounds);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
        best = std::max(best, operations * double(rounds) * threads / seconds / 1e9);
    }
    std::printf("%.1f\n", kept == 0.5f ? 0 : best);  // reads the sums, so that the loops cannot be left out
}
