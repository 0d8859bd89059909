// The fast CPU convolutions, as replacements for entries of the plain kernel table. The only header of this folder that
// is used outside it (by src/cpu/backend.cpp).
#pragma once
#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

// Which algorithms may be used; the error is relative to the norm of the result.
//   exact   the definition's fp32 MACs in another order: 2e-7
//   fp32    also Winograd's minimal filtering: 1e-6
//   amx     also AMX tiles, which emulate fp32 by pairs of bf16 (BF16x3): 4e-6
enum class Arithmetic { exact, fp32, amx };

// conv2d and its gradients (backend.h), by the fastest algorithm that the arithmetic permits.
template <Arithmetic arithmetic>
void conv2d(float* y, const float* x, const float* w, const float* bias, const float* residual, ConvShape s);
template <Arithmetic arithmetic>
void conv2d_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                           ConvShape s);
template <Arithmetic arithmetic>
void conv2d_backward_weight(float* dw, const float* x, const float* dy, ConvShape s);

// The fused kernels of Backend: a few images at a time go through batch norm, ReLU, upsampling and convolution, so that
// the intermediates stay in the cache and only x and y go through memory.
template <Arithmetic arithmetic>
void norm_relu_conv2d(float* y, const NormReluConv& in, const float* w, const float* bias, const float* residual);
template <Arithmetic arithmetic>
void norm_relu_conv2d_backward(float* dx, float* dweight, float* dbias, float* dresidual, const NormReluConv& in,
                               const float* w, const float* dy);
template <Arithmetic arithmetic>
void norm_relu_conv2d_backward_weight(float* dw, const NormReluConv& in, const float* dy);

// `table` with these kernels in place of its own.
template <Arithmetic arithmetic>
constexpr Backend accelerated(Backend table, const char* name, const Backend* exact) {
    table.name = name;
    table.exact = exact;
    table.conv2d = conv2d<arithmetic>;
    table.conv2d_backward_input = conv2d_backward_input<arithmetic>;
    table.conv2d_backward_weight = conv2d_backward_weight<arithmetic>;
    table.norm_relu_conv2d = norm_relu_conv2d<arithmetic>;
    table.norm_relu_conv2d_backward = norm_relu_conv2d_backward<arithmetic>;
    table.norm_relu_conv2d_backward_weight = norm_relu_conv2d_backward_weight<arithmetic>;
    return table;
}

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast
