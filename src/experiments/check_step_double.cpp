// check_step in double precision. Of the float program only this file and what it needs is compiled in double, in a
// namespace of its own (Makefile, PROOF).
#include "check.h"
#include "experiments/check_step.h"
#include "real.h"

static_assert(sizeof(dualmcmc::real) == sizeof(double));

step_check::Run step_check::in_double(const std::string& path, std::optional<double> tolerance) {
    return dualmcmc::check_step(path, tolerance);
}

std::vector<step_check::Crossing> step_check::crossings(const Run& a, const Run& b) {
    CHECK_EQ(a.relus.size(), b.relus.size());
    std::vector<Crossing> found;
    size_t step = 0;
    for (size_t call = 0; call < a.relus.size(); ++call) {
        while (step < a.chain_steps.size() && a.chain_steps[step].calls <= call) ++step;
        const std::vector<bool>&x = a.relus[call], &y = b.relus[call];
        CHECK_EQ(x.size(), y.size());
        int64_t count = 0;
        for (size_t i = 0; i < x.size(); ++i) count += x[i] != y[i];
        if (count == 0) continue;
        const std::string where = step < a.chain_steps.size() ? a.chain_steps[step].name : "the updates";
        if (found.empty() || found.back().where != where) found.push_back({where, 0});
        found.back().count += count;
    }
    return found;
}
