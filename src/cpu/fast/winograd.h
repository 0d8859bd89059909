// Quicker ways for two kinds of 3×3 convolution at stride 1 and padding 1, by Winograd's minimal filtering: winograd.cu, and pooled.cu
// for those whose result is pooled. Arguments as conv2d's and conv2d_backward_input's (backend.h). The CPU's alone.
#pragma once
#include "backend.h"

namespace dualmcmc::DEVICE_NAMESPACE {

// Whether winograd() can do this convolution: no pooling, both channel counts whole vectors.
bool winograd_applies(const ConvShape& shape);
void winograd(float* y, const float* x, const float* w, const float* bias, const float* addend, const ConvShape& shape);
void winograd_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* addend, const ConvShape& shape);
void winograd_backward_weight(float* dw, const float* x, const float* dy, const ConvShape& shape);

// Whether pooled() can: pooling, both channel counts whole vectors, sides multiples of 8.
bool pooled_applies(const ConvShape& shape);
void pooled(float* y, const float* x, const float* w, const float* bias, const float* addend, const ConvShape& shape);
void pooled_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* addend, const ConvShape& shape);

}  // namespace dualmcmc::DEVICE_NAMESPACE
