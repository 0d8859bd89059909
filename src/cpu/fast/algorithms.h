// The algorithms among which routes.cpp chooses. Their arguments are those of conv2d and its gradients (backend.h);
// each supports only the shapes that the table in routes.cpp assigns to it.
#pragma once
#include <functional>

#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

// ---- tiled_conv.cpp: implicit GEMM in register tiles, fp32; every shape -------------------------

void tiled(float* y, const float* x, const float* w, const float* bias, const float* residual, const ConvShape& s);
void tiled_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                          const ConvShape& s);
void tiled_backward_weight(float* dw, const float* x, const float* dy, const ConvShape& s);
// dw with the roles of x and dy exchanged: 3×3 at stride 1 and padding 1, fewer output channels than input channels.
void tiled_backward_weight_exchanged(float* dw, const float* x, const float* dy, const ConvShape& s);

// ---- few_channels.cpp: 3×3 at stride 1 with at most three output channels ------------------------

// The taps' outputs as columns of one GEMM. `amx`: allow AMX tiles where the sizes permit.
void few_channels(float* y, const float* x, const float* w, const float* bias, const float* residual,
                  const ConvShape& s, bool amx);
void few_channels_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                                 const ConvShape& s, bool amx);

// ---- winograd.cpp: F(4×4, 3×3); winograd_avgpool.cpp: the same idea for a convolution with average pooling ----

void winograd(float* y, const float* x, const float* w, const float* bias, const float* residual, const ConvShape& s);
void winograd_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                             const ConvShape& s);
void winograd_backward_weight(float* dw, const float* x, const float* dy, const ConvShape& s);
void winograd_avgpool(float* y, const float* x, const float* w, const float* bias, const float* residual,
                      const ConvShape& s);
void winograd_avgpool_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                                     const ConvShape& s);

// ---- amx.cpp: BF16x3 in AMX tiles; linked into the AVX-512 build only ----------------------------

// `im2col`: few input channels; the elements under all taps of a pixel form one row of the GEMM.
void amx(float* y, const float* x, const float* w, const float* bias, const float* residual, const ConvShape& s,
         bool im2col);
void amx_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                        const ConvShape& s);
// dx as the convolution dgrad_as_conv(s) of dy, by im2col: few output channels, stride 1.
void amx_backward_input_im2col(float* dx, const float* dy, const float* w, const float* residual, const ConvShape& s);
// 1×1, fewer input channels than a vector has lanes.
void amx_backward_input_narrow(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                               const ConvShape& s);

// At stride 1 dx is itself a convolution of dy, with the taps reversed and the channels exchanged: its shape.
inline ConvShape dgrad_as_conv(const ConvShape& s) {
    return {s.batch, s.out_height(), s.out_width(), s.out, s.in, s.kernel, 1, s.padding};
}

// y (M, N) = x (M, K) · w (K, N), with w packed by amx_pack. amx_gemm_applies: whether the sizes are whole tiles.
bool amx_gemm_applies(int64_t m, int64_t n, int64_t k);
int64_t amx_packed_size(int64_t n, int64_t k);  // in floats
void amx_pack(float* packed, const float* w, int64_t n, int64_t k);
void amx_gemm(float* y, const float* x, const float* packed, int64_t m, int64_t n, int64_t k);

// ---- packed_weights.cpp -------------------------------------------------------------------------

// w in an algorithm's own layout: `pack(packed)` writes its `size` floats. Within a ConstantWeights scope (backend.h)
// the calling thread caches them by w's address, size and `layout_tag`, the address of a static object per layout.
// Otherwise they are valid until the thread's next call.
const float* packed_weights(const void* layout_tag, const float* w, int64_t size,
                            const std::function<void(float*)>& pack);

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast
