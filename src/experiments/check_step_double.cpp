// check_step in double precision. Of the float program only this file and what it needs is compiled in double, in a
// namespace of its own (Makefile, PROOF).
#include "experiments/check_step.h"
#include "real.h"

static_assert(sizeof(dualmcmc::real) == sizeof(double));

step_check::Run step_check::in_double(const std::string& path, std::optional<double> tolerance) {
    return dualmcmc::check_step(path, tolerance);
}
