// The CPU's tables of kernels, one for each set of instructions, and which of them this processor can run.
#pragma once
#include <string>
#include <vector>

#include "backend.h"

namespace dualmcmc {

struct InstructionSet {
    std::string device;  // as --device names it: "cpu-avx2"
    const Backend* backend;
    bool supported;  // by this processor (and, for AMX, by its operating system)
};

// Those of this build, the quickest first. The last one, SSE2, is supported by every x86-64.
const std::vector<InstructionSet>& instruction_sets();

// The first of them that is supported.
const Backend& best_cpu_backend();

}  // namespace dualmcmc
