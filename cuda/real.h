// The type of all numbers, from the kernels to the networks: float; or double in a build that serves as proof (make
// REAL=double), which has the plain CPU kernels alone.
#pragma once

namespace dualmcmc {
#ifdef DOUBLE
using real = double;
#else
using real = float;
#endif
}  // namespace dualmcmc
