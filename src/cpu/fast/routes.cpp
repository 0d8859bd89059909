// Which algorithm computes a convolution: one table, decided in one function, choose().
//
//   shape                                                 passes               route             MACs executed
//   3×3, stride 1, padding 1, sides of at least 4         fprop, dgrad, wgrad  winograd          1/4
//   the same with average pooling, sides multiples of 8   fprop, dgrad         winograd_avgpool  81/576
//   3×3, stride 1, at most 3 output channels              fprop, dgrad         few_channels      all, full vectors
//   the same at padding 1, more input channels            wgrad                tiles_exchanged   all, full vectors
//   everything else                                       fprop, dgrad, wgrad  tiles             all; pooled 1/4
//
// Channels are those of the pass: dgrad reads dy's and writes x's. The first two routes require both channel counts to
// be multiples of the vector length.
//
// With AMX these come first (BF16x3: three bf16 MACs for each fp32 MAC, at 16 times the rate):
//
//   1×1 or 3×3 at stride 1, 3×3 with pooling, 4×4 at      fprop, dgrad         amx               all; pooled 1/4
//     stride 2; channels in whole vectors
//   few input channels (an image's colours)               fprop, dgrad         amx_im2col        all
//   1×1, fewer output channels than a vector has lanes    dgrad                amx_narrow        all, full vectors
//
// and few_channels runs its GEMM in AMX tiles where the sizes permit. Exact arithmetic has few_channels and tiles only.
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
// What fill_im2col in amx.cpp supports: a row of the kernel spans at most one vector, and at least half of one unless
// it is the only row.
bool fits_im2col(const ConvShape& s) {
    return !s.relu && !s.pool && s.in < 16 && (s.kernel == 1 || s.kernel * s.in >= 8) && s.kernel * s.in <= lanes &&
           s.kernel <= 4 && s.out % lanes == 0 && s.out_height() * s.out_width() >= 16;
}

Route choose(Pass pass, const ConvShape& s, Arithmetic arithmetic) {
    const bool wgrad = pass == Pass::wgrad;
    if (arithmetic == Arithmetic::amx && !wgrad) {
        if (whole_vectors(s) && s.height * s.width >= 16 && (same_size(s) || halves_size(s))) return Route::amx;
        if (pass == Pass::fprop && fits_im2col(s)) return Route::amx_im2col;
        if (pass == Pass::dgrad && !s.relu && !s.pool && same_size(s) && fits_im2col(dgrad_as_conv(s)))
            return Route::amx_im2col;
    }
    if (arithmetic != Arithmetic::exact && s.kernel == 3 && s.stride == 1 && s.padding == 1 && whole_vectors(s)) {
        if (!s.pool && s.height >= 4 && s.width >= 4) return Route::winograd;
        if (s.pool && !wgrad && s.height % 8 == 0 && s.width % 8 == 0) return Route::winograd_avgpool;
    }
    const int64_t out_channels = pass == Pass::dgrad ? s.in : s.out;
    const bool single_gemm = s.padding == 0 && s.kernel == s.height && s.kernel == s.width;  // tiles' lowered_to_gemm
    if (s.kernel == 3 && s.stride == 1 && !s.pool && out_channels <= 3 && !single_gemm) {
        if (!wgrad) return Route::few_channels;
        if (s.padding == 1 && s.in > s.out) return Route::tiles_exchanged;
    }
    if constexpr (lanes == 16)
        if (arithmetic == Arithmetic::amx && pass == Pass::dgrad && s.kernel == 1 && s.stride == 1 && s.padding == 0 &&
            s.in < lanes && amx_gemm_applies(s.height * s.width, lanes, s.out))
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
        if (route == Route::amx_narrow) return amx_backward_input_narrow(dx, dy, w, x, residual, s);
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
