// The type of all numbers, from the kernels to the networks: float; or double in a build that serves as proof (make
// REAL=double), which has the plain CPU kernels alone.
#pragma once

#ifndef REAL
#define REAL float
#endif

namespace dualmcmc {
using real = REAL;
}
