// The CPU's kernel tables, one per instruction set, and which of them this processor supports.
#pragma once
#include <string>
#include <vector>

#include "backend.h"

namespace dualmcmc {

struct InstructionSet {
    std::string device;  // the name for --device, such as "cpu-avx2"
    const Backend* backend;
    bool supported;  // by this processor (and, for AMX, by its operating system)
};

// All of this build, fastest first. The last, SSE2, is supported by every x86-64 processor.
const std::vector<InstructionSet>& instruction_sets();

// The fastest that is supported.
const Backend& best_cpu_backend();

}  // namespace dualmcmc
