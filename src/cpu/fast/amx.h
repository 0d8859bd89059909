// Convolutions in the tiles of AMX (amx.cu): on processors that have them, the quickest way. Arguments as conv2d's and
// conv2d_backward_input's (backend.h). The CPU's alone.
#pragma once
#include "backend.h"

namespace dualmcmc::DEVICE_NAMESPACE {

#ifdef __AMX_BF16__
// Whether amx() can do this convolution: channel counts whole vectors; 3×3 at stride 1 or before pooling, 1×1, 4×4 at stride 2; or few
// input channels.
bool amx_applies(const ConvShape& shape);
// Whether amx_backward_input() can: the same, but for few output channels (at stride 1, without ReLU and pooling) in place of few input ones.
bool amx_backward_applies(const ConvShape& shape);
void amx(float* y, const float* x, const float* w, const float* bias, const float* addend, const ConvShape& shape);
void amx_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* addend, const ConvShape& shape);

// y (rows, columns) = x (rows, in) · w (in, columns), w packed beforehand. Rows in multiples of 32, the others of 16.
constexpr bool amx_product_applies(int64_t rows, int64_t in, int64_t columns) { return rows % 32 == 0 && in % 16 == 0 && columns % 16 == 0; }
int64_t amx_packed_size(int64_t in, int64_t columns);
void amx_pack(float* packed, const float* w, int64_t in, int64_t columns);
void amx_product(float* y, const float* x, const float* packed, int64_t rows, int64_t in, int64_t columns);
#else
constexpr bool amx_applies(const ConvShape&) { return false; }
constexpr bool amx_backward_applies(const ConvShape&) { return false; }
inline void amx(float*, const float*, const float*, const float*, const float*, const ConvShape&) {}
inline void amx_backward_input(float*, const float*, const float*, const float*, const float*, const ConvShape&) {}
constexpr bool amx_product_applies(int64_t, int64_t, int64_t) { return false; }
constexpr int64_t amx_packed_size(int64_t, int64_t) { return 0; }
inline void amx_pack(float*, const float*, int64_t, int64_t) {}
inline void amx_product(float*, const float*, const float*, int64_t, int64_t, int64_t) {}
#endif

}  // namespace dualmcmc::DEVICE_NAMESPACE
