// Which way a convolution goes: one table, decided in one function, choose().
//
//   shape                                                passes               route              MACs (definition: 1)
//   3×3, stride 1, padding 1, sides at least 4           fprop, dgrad, wgrad  winograd           1/4
//   the same, average-pooled, sides multiples of 8       fprop, dgrad         winograd_avgpool   81/576
//   3×3, stride 1, at most 3 results (*)                 fprop, dgrad         few_channels       1, in full vectors
//   3×3, stride 1, padding 1, at most 3 outputs          wgrad                tiles_exchanged    1, in full vectors
//   every other                                          fprop, dgrad, wgrad  tiles              1; pooled 1/4
//
// (*) output channels, for dgrad input channels. Both Winograd routes need channel counts that are whole vectors.
// Exact arithmetic takes few_channels and tiles only. With AMX (BF16x3: three bf16 MACs for one, of which the tiles do
// 16 times as many a cycle) these come first:
//
//   1×1, 3×3 at stride 1, 3×3 pooled, 4×4 at stride 2    fprop, dgrad         amx                1; pooled 1/4
//   few input channels: an image's colours               fprop, dgrad         amx_im2col         1
//   1×1, fewer input channels than a vector has lanes    dgrad                amx_narrow         1, in full vectors
//
// few_channels' GEMM runs in AMX's tiles, too, where its sizes are whole tiles.
#include "cpu/fast/routes.h"

#include "cpu/fast/algorithms.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

namespace {

enum class Pass { fprop, dgrad, wgrad };
enum class Route { tiles, tiles_exchanged, few_channels, winograd, winograd_avgpool, amx, amx_im2col, amx_narrow };

bool whole_vectors(const ConvShape& s) { return s.in % lanes == 0 && s.out % lanes == 0; }
bool same_size(const ConvShape& s) { return s.stride == 1 && s.kernel == 2 * s.padding + 1 && s.kernel <= 3; }
bool halves_size(const ConvShape& s) {
    return s.stride == 2 && s.kernel == 4 && s.padding == 1 && s.height % 2 == 0 && s.width % 2 == 0;
}
// What amx.cpp's im2col takes: a row of the kernel is at most a vector, and at least half of one or the only one.
bool fits_im2col(const ConvShape& s) {
    return !s.relu && !s.pool && s.in < 16 && (s.kernel == 1 || s.kernel * s.in >= 8) && s.kernel * s.in <= lanes &&
           s.kernel <= 4 && s.out % lanes == 0 && s.out_height() * s.out_width() >= 16;
}
ConvShape transposed(const ConvShape& s) {
    return {s.batch, s.out_height(), s.out_width(), s.out, s.in, s.kernel, 1, s.padding};
}

Route choose(Pass pass, const ConvShape& s, Arithmetic arithmetic) {
    const bool gradient = pass != Pass::wgrad;
    if (arithmetic == Arithmetic::amx && gradient) {
        if (whole_vectors(s) && s.height * s.width >= 16 && (same_size(s) || halves_size(s))) return Route::amx;
        if (pass == Pass::fprop && fits_im2col(s)) return Route::amx_im2col;
        if (pass == Pass::dgrad && !s.relu && !s.pool && same_size(s) && fits_im2col(transposed(s)))
            return Route::amx_im2col;
    }
    if (arithmetic != Arithmetic::exact && s.kernel == 3 && s.stride == 1 && s.padding == 1 && whole_vectors(s)) {
        if (!s.pool && s.height >= 4 && s.width >= 4) return Route::winograd;
        if (s.pool && gradient && s.height % 8 == 0 && s.width % 8 == 0) return Route::winograd_avgpool;
    }
    const int64_t results = pass == Pass::dgrad ? s.in : s.out;
    const bool whole_image = s.padding == 0 && s.kernel == s.height && s.kernel == s.width;  // a GEMM
    if (s.kernel == 3 && s.stride == 1 && !s.pool && results <= 3 && !whole_image) {
        if (gradient) return Route::few_channels;
        if (s.padding == 1 && s.in > s.out) return Route::tiles_exchanged;
    }
    if constexpr (lanes == 16)
        if (arithmetic == Arithmetic::amx && pass == Pass::dgrad && s.kernel == 1 && s.stride == 1 && s.padding == 0 &&
            !s.relu && !s.pool && s.in < lanes && amx_gemm_applies(s.height * s.width, lanes, s.out))
            return Route::amx_narrow;
    return Route::tiles;
}

}  // namespace

template <Arithmetic arithmetic>
void conv2d(float* y, const float* x, const float* w, const float* bias, const float* residual, ConvShape s) {
    constexpr bool amx_tiles = arithmetic == Arithmetic::amx;
    const Route route = choose(Pass::fprop, s, arithmetic);
    if constexpr (amx_tiles)
        if (route == Route::amx || route == Route::amx_im2col)
            return amx(y, x, w, bias, residual, s, route == Route::amx_im2col);
    if (route == Route::winograd) winograd(y, x, w, bias, residual, s);
    else if (route == Route::winograd_avgpool) winograd_avgpool(y, x, w, bias, residual, s);
    else if (route == Route::few_channels) few_channels(y, x, w, bias, residual, s, amx_tiles);
    else tiled(y, x, w, bias, residual, s);
}

template <Arithmetic arithmetic>
void conv2d_backward_input(float* dx, const float* dy, const float* w, const float* x, const float* residual,
                           ConvShape s) {
    constexpr bool amx_tiles = arithmetic == Arithmetic::amx;
    const Route route = choose(Pass::dgrad, s, arithmetic);
    if constexpr (amx_tiles) {
        if (route == Route::amx) return amx_backward_input(dx, dy, w, x, residual, s);
        if (route == Route::amx_im2col) return amx_backward_input_im2col(dx, dy, w, residual, s);
        if (route == Route::amx_narrow) return amx_backward_input_narrow(dx, dy, w, residual, s);
    }
    if (route == Route::winograd) winograd_backward_input(dx, dy, w, x, residual, s);
    else if (route == Route::winograd_avgpool) winograd_avgpool_backward_input(dx, dy, w, x, residual, s);
    else if (route == Route::few_channels) few_channels_backward_input(dx, dy, w, x, residual, s, amx_tiles);
    else tiled_backward_input(dx, dy, w, x, residual, s);
}

template <Arithmetic arithmetic>
void conv2d_backward_weight(float* dw, const float* x, const float* dy, ConvShape s) {
    const Route route = choose(Pass::wgrad, s, arithmetic);
    if (route == Route::winograd) winograd_backward_weight(dw, x, dy, s);
    else if (route == Route::tiles_exchanged) tiled_backward_weight_exchanged(dw, x, dy, s);
    else tiled_backward_weight(dw, x, dy, s);
}

#define INSTANTIATE(arithmetic)                                                                                     \
    template void conv2d<arithmetic>(float*, const float*, const float*, const float*, const float*, ConvShape);    \
    template void conv2d_backward_input<arithmetic>(float*, const float*, const float*, const float*, const float*, \
                                                    ConvShape);                                                     \
    template void conv2d_backward_weight<arithmetic>(float*, const float*, const float*, ConvShape);
INSTANTIATE(Arithmetic::exact)
INSTANTIATE(Arithmetic::fp32)
#ifdef __AVX512F__
INSTANTIATE(Arithmetic::amx)
#endif

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast
