// im2col: for convolutions between few channels (an image's colours) and many. The elements of the few channels that a
// pixel of the other side meets under the taps make one row, so that all taps are one GEMM.
#pragma once
#include "gpu/conv_common.h"

namespace dualmcmc::DEVICE_NAMESPACE {

constexpr int64_t max_patch = 128;  // elements of the few channels under a kernel

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Which source pixel an output pixel meets under tap (kh, kw): its row times the stride, plus direction kh + shift;
// columns likewise. Fewer than 2^32 output pixels.
struct TapWindow {
    int64_t batch, height, width, out_height, out_width;  // height, width: of the source
    int64_t kernel, stride, direction, shift;
    struct Origin {
        int64_t image, row, column;  // what tap (0, 0) meets
    };
    DEVICE Origin origin(int64_t pixel) const {
        const uint32_t line = uint32_t(pixel) / uint32_t(out_width),
                       column = uint32_t(pixel) - line * uint32_t(out_width), image = line / uint32_t(out_height),
                       row = line - image * uint32_t(out_height);
        return {image, row * stride + shift, column * stride + shift};
    }
    DEVICE int64_t source_pixel(const Origin& o, int64_t kh, int64_t kw) const {  // -1: padding
        const int64_t row = o.row + direction * kh, column = o.column + direction * kw;
        return row >= 0 && row < height && column >= 0 && column < width ? (o.image * height + row) * width + column
                                                                         : -1;
    }
    int64_t out_pixels() const { return batch * out_height * out_width; }
};
inline TapWindow fprop_window(const ConvShape& s) {
    return {s.batch, s.height, s.width, s.out_height(), s.out_width(), s.kernel, s.stride, 1, -s.padding};
}
// At stride 1. The source is dy.
inline TapWindow dgrad_window(const ConvShape& s) {
    return {s.batch, s.out_height(), s.out_width(), s.height, s.width, s.kernel, 1, -1, s.padding};
}

// x (source pixels, few), or max(x, 0), as patches (output pixels, k): element tap × few + f, then zeros up to k.
template <class Element>
Element* im2col(WorkspaceSlot slot, const float* x, const TapWindow& window, int64_t few, int64_t k,
                bool relu = false) {
    const int64_t m = window.out_pixels(), patch = window.kernel * window.kernel * few;
    check_pixels(m);
    Element* patches = workspace<Element>(slot, m * k);
    const uint32_t divisor = uint32_t(few), kernel = uint32_t(window.kernel);
    parallel_for_rows(m, k, [=] DEVICE(int64_t pixel) {
        const TapWindow::Origin origin = window.origin(pixel);
        return [=](int64_t e) {
            const uint32_t tap = uint32_t(e) / divisor;
            const int64_t source = e < patch ? window.source_pixel(origin, tap / kernel, tap % kernel) : -1;
            const float value = source < 0 ? 0 : x[source * few + uint32_t(e) % divisor];
            convert(patches[pixel * k + e], relu && value <= 0 ? 0 : value);
        };
    });
    return patches;
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
