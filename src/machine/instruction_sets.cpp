// What the processor can do, by CPUID.
#include "machine/instruction_sets.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace dualmcmc {

namespace {

bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

#ifndef PLAIN
// AMX's tile registers are large: Linux (5.16 and later) grants them only to a process that requests them, before it
// starts threads.
bool has_amx() {
    constexpr int get_permission = 0x1022, request_permission = 0x1023, tile_data = 18;
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0, leaf1 = 0, unused = 0;
    if (!has_avx512() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) ||
        !__get_cpuid_count(7, 1, &leaf1, &ebx, &ecx, &unused))
        return false;
    constexpr uint32_t amx_bf16 = 1u << 22, amx_tile = 1u << 24, avx512_bf16 = 1u << 5;
    if (!(edx & amx_bf16) || !(edx & amx_tile) || !(leaf1 & avx512_bf16)) return false;
    uint64_t permitted = 0;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0 &&
           syscall(SYS_arch_prctl, get_permission, &permitted) == 0 && (permitted >> tile_data & 1);
}
#endif

}  // namespace

const std::vector<InstructionSet>& instruction_sets() {
    static const std::vector<InstructionSet> all{
#ifndef PLAIN
        {"cpu-amx", &backend_cpu_amx, has_amx()},
#endif
        {"cpu-avx512", &backend_cpu_avx512, has_avx512()},
        {"cpu-avx2", &backend_cpu_avx2, has_avx2()},
        {"cpu-sse2", &backend_cpu_sse2, true}};
    return all;
}

const Backend& best_cpu_backend() {
    for (const InstructionSet& set : instruction_sets())
        if (set.supported) return *set.backend;
    return backend_cpu_sse2;
}

}  // namespace dualmcmc
