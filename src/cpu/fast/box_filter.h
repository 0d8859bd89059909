// The 2×2 box filter of images (batch, height, width, channels), and its adjoint.
#pragma once
#include <cstdint>

namespace dualmcmc::DEVICE_NAMESPACE::fast {

// y (batch, height + 1, width + 1, channels): 2×2 means at stride 1 of x, zero-padded by one on each side.
void box_filter2(float* y, const float* x, int64_t batch, int64_t height, int64_t width, int64_t channels);
// dx (batch, height, width, channels) from dy, shaped like y.
void box_filter2_backward(float* dx, const float* dy, int64_t batch, int64_t height, int64_t width, int64_t channels);

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast
