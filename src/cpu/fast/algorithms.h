// The algorithms among which routes.cpp chooses. Arguments as those of conv2d and its gradients (backend.h); each does
// only the shapes that the table in routes.cpp gives it.
#pragma once
#include <functional>

#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

// ---- tiled_conv.cpp: implicit GEMM in register tiles, fp32; every shape -------------------------

void tiled(float* y, const float* x, const float* w, const float* bias, const float* residual, const ConvShape& s);
void tiled_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                          const ConvShape& s);
void tiled_backward_weight(float* dw, const float* x, const float* dy, const ConvShape& s);
// dw by exchanging x and dy: for 3×3 at stride 1 and padding 1 with fewer output than input channels.
void tiled_backward_weight_exchanged(float* dw, const float* x, const float* dy, const ConvShape& s);

// ---- few_channels.cpp: an image's three colours -------------------------------------------------

// All taps of a pixel as the columns of one GEMM; `amx`: in AMX's tiles where they can.
void few_channels(float* y, const float* x, const float* w, const float* bias, const float* residual,
                  const ConvShape& s, bool amx);
void few_channels_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                                 const ConvShape& s, bool amx);

// ---- winograd.cpp: F(4×4, 3×3); winograd_avgpool.cpp: the same idea for convolution and pooling together ----

void winograd(float* y, const float* x, const float* w, const float* bias, const float* residual, const ConvShape& s);
void winograd_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                             const ConvShape& s);
void winograd_backward_weight(float* dw, const float* x, const float* dy, const ConvShape& s);
void winograd_avgpool(float* y, const float* x, const float* w, const float* bias, const float* residual,
                      const ConvShape& s);
void winograd_avgpool_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                                     const ConvShape& s);

// ---- amx.cpp: in the tiles of AMX; linked with AVX-512 alone ------------------------------------

// `im2col`: few input channels, whose taps lie side by side in one row of the GEMM.
void amx(float* y, const float* x, const float* w, const float* bias, const float* residual, const ConvShape& s,
         bool im2col);
void amx_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                        const ConvShape& s);
// At stride 1 with few input channels: the convolution of dy that is their gradient, by im2col.
void amx_backward_input_im2col(float* dx, const float* dy, const float* w, const float* residual, const ConvShape& s);
// 1×1, fewer input channels than a vector has lanes.
void amx_backward_input_narrow(float* dx, const float* dy, const float* w, const float* residual, const ConvShape& s);

// y (M, N) = x (M, K) · w (K, N), w packed beforehand; amx_gemm_applies says for which sizes.
bool amx_gemm_applies(int64_t m, int64_t n, int64_t k);
int64_t amx_packed_size(int64_t n, int64_t k);  // floats
void amx_pack(float* packed, const float* w, int64_t n, int64_t k);
void amx_gemm(float* y, const float* x, const float* packed, int64_t m, int64_t n, int64_t k);

// ---- packed weights -----------------------------------------------------------------------------

// w as an algorithm wants it: `pack(packed)` fills `size` floats. While ConstantWeights lives (backend.h) the calling
// thread keeps them for the next group of images; `layout_tag` is an address of the caller's own, which tells one
// layout from another.
const float* packed_weights(const void* layout_tag, const float* w, int64_t size,
                            const std::function<void(float*)>& pack);

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast
