// The GPU's tables of kernels, one for each precision of its convolutions.
#include "gpu/gpu.h"

#define NAME_(a, b, c) a##b##c
#define NAME(a, b, c) NAME_(a, b, c)

namespace dualmcmc {

namespace {

constexpr Backend fp32 = {.name = DEVICE_NAME ", fp32",
                          .callable_from_many_threads = false,
                          .exact = nullptr,
                          .start = DEVICE_NAMESPACE::start,
                          .allocate = DEVICE_NAMESPACE::allocate,
                          .release = DEVICE_NAMESPACE::release,
                          .free_bytes = DEVICE_NAMESPACE::free_bytes,
                          .peak_bytes = DEVICE_NAMESPACE::peak_bytes,
#ifndef SYNC
                          .begin_capture = DEVICE_NAMESPACE::begin_capture,
                          .end_capture = DEVICE_NAMESPACE::end_capture,
                          .launch_graph = DEVICE_NAMESPACE::launch_graph,
                          .destroy_graph = DEVICE_NAMESPACE::destroy_graph,
#else  // SYNC waits after each kernel, which a capture does not allow
                          .begin_capture = nullptr,
                          .end_capture = nullptr,
                          .launch_graph = nullptr,
                          .destroy_graph = nullptr,
#endif
                          .norm_relu_conv2d = nullptr,
                          .norm_relu_conv2d_backward = nullptr,
                          .norm_relu_conv2d_backward_weight = nullptr,
#define DUALMCMC_ENTRY(name, arguments) .name = DEVICE_NAMESPACE::name,
                          DUALMCMC_KERNELS(DUALMCMC_ENTRY)
#undef DUALMCMC_ENTRY
};

// The same table with convolutions of another precision.
constexpr Backend with_convolutions(const char* name, decltype(Backend::conv2d) conv2d,
                                    decltype(Backend::conv2d_backward_input) input,
                                    decltype(Backend::conv2d_backward_weight) weight) {
    Backend other = fp32;
    other.name = name;
    other.exact = &fp32;
    other.conv2d = conv2d;
    other.conv2d_backward_input = input;
    other.conv2d_backward_weight = weight;
    return other;
}

}  // namespace

extern const Backend NAME(backend_, DEVICE_NAMESPACE, _fp32), NAME(backend_, DEVICE_NAMESPACE, _tf32),
    NAME(backend_, DEVICE_NAMESPACE, _bf16);
const Backend NAME(backend_, DEVICE_NAMESPACE, _fp32) = fp32;
const Backend NAME(backend_, DEVICE_NAMESPACE,
                   _tf32) = with_convolutions(DEVICE_NAME ", tf32", DEVICE_NAMESPACE::conv2d_tf32,
                                              DEVICE_NAMESPACE::conv2d_backward_input_tf32,
                                              DEVICE_NAMESPACE::conv2d_backward_weight_tf32);
const Backend NAME(backend_, DEVICE_NAMESPACE,
                   _bf16) = with_convolutions(DEVICE_NAME ", bf16", DEVICE_NAMESPACE::conv2d_bf16,
                                              DEVICE_NAMESPACE::conv2d_backward_input_bf16,
                                              DEVICE_NAMESPACE::conv2d_backward_weight_bf16);

#ifdef __CUDACC__
std::vector<const Backend*> cuda_backends() { return {&backend_cuda_fp32, &backend_cuda_tf32, &backend_cuda_bf16}; }
#endif

}  // namespace dualmcmc
