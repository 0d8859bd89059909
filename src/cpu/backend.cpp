// The kernel tables of one instruction set: the plain kernels, with the convolutions of src/cpu/fast in place of the
// plain ones. No other file outside that folder depends on it; make PLAIN=1 leaves it out.
#include "launch.h"
#ifndef PLAIN
#include "cpu/fast/routes.h"
#endif

#define NAME_(a, b) a##b
#define NAME(a, b) NAME_(a, b)

namespace dualmcmc {

namespace {
constexpr Backend plain = {.name = DEVICE_NAME,
                           .callable_from_many_threads = true,
                           .exact = nullptr,
                           .start = nullptr,
                           .allocate = DEVICE_NAMESPACE::allocate,
                           .release = DEVICE_NAMESPACE::release,
                           .free_bytes = nullptr,
                           .peak_bytes = nullptr,
                           .begin_capture = nullptr,
                           .end_capture = nullptr,
                           .launch_graph = nullptr,
                           .destroy_graph = nullptr,
                           .norm_relu_conv2d = nullptr,
                           .norm_relu_conv2d_backward = nullptr,
                           .norm_relu_conv2d_backward_weight = nullptr,
#define DUALMCMC_ENTRY(name, arguments) .name = DEVICE_NAMESPACE::name,
                           DUALMCMC_KERNELS(DUALMCMC_ENTRY)
#undef DUALMCMC_ENTRY
};
}  // namespace

#ifdef PLAIN
extern const Backend NAME(backend_, DEVICE_NAMESPACE);
const Backend NAME(backend_, DEVICE_NAMESPACE) = plain;
#else
using DEVICE_NAMESPACE::fast::accelerated;
using DEVICE_NAMESPACE::fast::Arithmetic;
namespace {
constexpr Backend exact = accelerated<Arithmetic::exact>(plain, DEVICE_NAME, nullptr);
}
extern const Backend NAME(backend_, DEVICE_NAMESPACE);
const Backend NAME(backend_, DEVICE_NAMESPACE) = accelerated<Arithmetic::fp32>(plain, DEVICE_NAME, &exact);
#ifdef __AVX512F__
const Backend backend_cpu_amx = accelerated<Arithmetic::amx>(plain, "CPU, amx", &exact);
#endif
#endif

}  // namespace dualmcmc
