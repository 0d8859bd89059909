// What this folder puts in the place of the plain CPU kernels. Its only door: src/cpu/backend.cpp, which includes
// nothing else from here.
#pragma once
#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

// How results may be rounded.
//   exact   sums of fp32 MACs, as the definition has them, in another order: 2e-7 of a result's norm
//   fp32    also by Winograd's minimal filtering: 1e-6
//   amx     also in AMX's tiles, which emulate fp32 by pairs of bf16: 4e-6
enum class Arithmetic { exact, fp32, amx };

// conv2d and its gradients (backend.h), each by the quickest way that the arithmetic allows.
template <Arithmetic arithmetic>
void conv2d(float* y, const float* x, const float* w, const float* bias, const float* residual, ConvShape s);
template <Arithmetic arithmetic>
void conv2d_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                           ConvShape s);
template <Arithmetic arithmetic>
void conv2d_backward_weight(float* dw, const float* x, const float* dy, ConvShape s);

// Backend's fused kernel and its gradients: a few images at a time run through batch norm, ReLU, upsampling and
// convolution, so that intermediates stay in cache; only x and y go through memory.
template <Arithmetic arithmetic>
void norm_relu_conv2d(float* y, const NormReluConv& in, const float* w, const float* bias, const float* residual);
template <Arithmetic arithmetic>
void norm_relu_conv2d_backward(float* dx, float* dweight, float* dbias, float* dresidual, const NormReluConv& in,
                               const float* w, const float* dy);
template <Arithmetic arithmetic>
void norm_relu_conv2d_backward_weight(float* dw, const NormReluConv& in, const float* dy);

// `table` with them.
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
