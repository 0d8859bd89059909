// This compilation's table of kernels.
#include "launch.h"

#define BACKEND_TABLE_(namespace_name) backend_##namespace_name
#define BACKEND_TABLE(namespace_name) BACKEND_TABLE_(namespace_name)

namespace dualmcmc {

extern const Backend BACKEND_TABLE(DEVICE_NAMESPACE);

const Backend BACKEND_TABLE(DEVICE_NAMESPACE) = {
    DEVICE_NAME,
#ifdef __CUDACC__
    false,
#else
    true,
#endif
    DEVICE_NAMESPACE::allocate, DEVICE_NAMESPACE::release,
#define DUALMCMC_ENTRY(name, arguments) DEVICE_NAMESPACE::name,
    DUALMCMC_KERNELS(DUALMCMC_ENTRY)
#undef DUALMCMC_ENTRY
};

}  // namespace dualmcmc
