// How much memory this process may use.
#pragma once
#include <cstdint>

namespace dualmcmc {

// Bytes of host memory: the machine's, or less where the control group or `ulimit -v` allows less. Linux hands out more
// than there is and kills the process that uses it, so what is built is checked against this first.
int64_t memory_limit();

}  // namespace dualmcmc
