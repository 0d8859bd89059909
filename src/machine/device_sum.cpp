// A sum through the host, and one directly between devices.
#include "machine/device_sum.h"

#include <vector>

#include "machine/device.h"
#include "machine/pool.h"
#include "ranks/ranks.h"

namespace dualmcmc {

namespace {

void sum_through_host(real* values, int64_t n, double factor) {
    std::vector<real> host(static_cast<size_t>(n));
    backend().download(host.data(), values, n);
    sum_over_ranks(host, factor);
    backend().upload(values, host.data(), n);
}

void sum_directly(real* values, int64_t n, double factor) {
    const int64_t count = ranks().count;
    const auto room = pool_allocate(n + count);
    // MPI does not know of the kernels that are still running.
    const auto wait_for_device = [=] {
        real any;
        backend().download(&any, values, 1);
    };
    wait_for_device();
    sum_in_parts(values, room.get(), size_t(n), [=](real* y, const real* x, size_t m) {
        backend().sum_rows(y, x, factor, count, int64_t(m));
        wait_for_device();
    });
}

}  // namespace

void sum_over_ranks(real* values, int64_t n, double factor) {
    if (size_t(n) > few_values && gpu_messages()) sum_directly(values, n, factor);
    else sum_through_host(values, n, factor);
}

}  // namespace dualmcmc
