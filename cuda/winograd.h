// 3×3 convolutions at stride 1, padding 1, by Winograd's minimal filtering: winograd.cu. The CPU's alone.
#pragma once
#include "backend.h"

namespace dualmcmc::DEVICE_NAMESPACE {

// Whether winograd() can do this convolution: 3×3, stride 1, padding 1, both channel counts whole vectors.
bool winograd_applies(const ConvShape& shape);

// transposed = false: the convolution, y (batch, height, width, out) from x (…, in); bias may be null.
// transposed = true: the gradient of its input, y = dx (…, in) from x = dy (…, out); bias null.
void winograd(float* y, const float* x, const float* w, const float* bias, const ConvShape& shape, bool transposed);

}  // namespace dualmcmc::DEVICE_NAMESPACE
