// This compilation's tables of kernels: one for the CPU, one for each precision of the GPU's matrix products.
#include "launch.h"

#define BACKEND_TABLE_(namespace_name, suffix) backend_##namespace_name##suffix
#define BACKEND_TABLE(namespace_name, suffix) BACKEND_TABLE_(namespace_name, suffix)

namespace dualmcmc {

namespace {
constexpr Backend table = {
    DEVICE_NAME,
#ifdef GPU
    false, DEVICE_NAMESPACE::start, DEVICE_NAMESPACE::allocate, DEVICE_NAMESPACE::release, DEVICE_NAMESPACE::free_bytes,
#else
    true, nullptr, DEVICE_NAMESPACE::allocate, DEVICE_NAMESPACE::release, nullptr,
#endif
#if defined(GPU) && !defined(SYNC)  // a recording cannot wait
    DEVICE_NAMESPACE::begin_graph, DEVICE_NAMESPACE::end_graph, DEVICE_NAMESPACE::launch_graph, DEVICE_NAMESPACE::release_graph,
#else
    nullptr, nullptr, nullptr, nullptr,
#endif
#define DUALMCMC_ENTRY(name, arguments) DEVICE_NAMESPACE::name,
    DUALMCMC_KERNELS(DUALMCMC_ENTRY)
#undef DUALMCMC_ENTRY
};
}  // namespace

#ifdef GPU
namespace {
// `table` with the convolutions of another precision; the direct ones stay as they are, in fp32.
constexpr Backend with_convolutions(const char* name, decltype(Backend::conv2d) conv2d, decltype(Backend::conv2d_backward_input) input,
                                    decltype(Backend::conv2d_backward_weight) weight) {
    Backend other = table;
    other.name = name;
    other.conv2d = conv2d;
    other.conv2d_backward_input = input;
    other.conv2d_backward_weight = weight;
    return other;
}
}  // namespace

extern const Backend BACKEND_TABLE(DEVICE_NAMESPACE, _fp32), BACKEND_TABLE(DEVICE_NAMESPACE, _tf32), BACKEND_TABLE(DEVICE_NAMESPACE, _bf16);
const Backend BACKEND_TABLE(DEVICE_NAMESPACE, _fp32) = with_convolutions(
    DEVICE_NAME ", fp32", DEVICE_NAMESPACE::conv2d, DEVICE_NAMESPACE::conv2d_backward_input, DEVICE_NAMESPACE::conv2d_backward_weight);
const Backend BACKEND_TABLE(DEVICE_NAMESPACE, _tf32) =
    with_convolutions(DEVICE_NAME ", tf32", DEVICE_NAMESPACE::conv2d_tf32, DEVICE_NAMESPACE::conv2d_backward_input_tf32,
                      DEVICE_NAMESPACE::conv2d_backward_weight_tf32);
const Backend BACKEND_TABLE(DEVICE_NAMESPACE, _bf16) =
    with_convolutions(DEVICE_NAME ", bf16", DEVICE_NAMESPACE::conv2d_bf16, DEVICE_NAMESPACE::conv2d_backward_input_bf16,
                      DEVICE_NAMESPACE::conv2d_backward_weight_bf16);

#ifdef __CUDACC__
std::vector<const Backend*> cuda_backends() { return {&backend_cuda_fp32, &backend_cuda_tf32, &backend_cuda_bf16}; }
#endif
#else
extern const Backend BACKEND_TABLE(DEVICE_NAMESPACE, );
const Backend BACKEND_TABLE(DEVICE_NAMESPACE, ) = table;
#endif

}  // namespace dualmcmc
