// The 2×2 box filter and its adjoint. They turn a pooled convolution into one of stride 2 (tiled_conv.cpp).
#include "cpu/fast/box_filter.h"

#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE::fast {

void box_filter2(float* y, const float* x, int64_t batch, int64_t height, int64_t width, int64_t channels) {
    const int64_t line = width * channels;
    // An output row is the mean of the input rows above and below it. Beyond the border the weight is 0, and the
    // pointer is that of the other row.
    struct Rows {
        float up, down;
        const float *above, *below;
        DEVICE Rows(const float* x, int64_t index, int64_t height, int64_t line) {
            const int64_t row = index % (height + 1), image = index / (height + 1);
            up = row > 0 ? 0.25f : 0;
            down = row < height ? 0.25f : 0;
            above = x + (image * height + (row > 0 ? row - 1 : 0)) * line;
            below = x + (image * height + (row < height ? row : row - 1)) * line;
        }
    };
    parallel_for_rows(batch * (height + 1), line - channels, [=] DEVICE(int64_t index) {
        const Rows rows(x, index, height, line);
        float* target = y + index * (line + channels) + channels;
        return [=](int64_t e) {
            target[e] = rows.up * (rows.above[e] + rows.above[e + channels]) +
                        rows.down * (rows.below[e] + rows.below[e + channels]);
        };
    });
    // The first and the last pixel of each row.
    parallel_for_rows(batch * (height + 1), channels, [=] DEVICE(int64_t index) {
        const Rows rows(x, index, height, line);
        float* target = y + index * (line + channels);
        const int64_t last = line - channels;
        return [=](int64_t c) {
            target[c] = rows.up * rows.above[c] + rows.down * rows.below[c];
            target[line + c] = rows.up * rows.above[last + c] + rows.down * rows.below[last + c];
        };
    });
}

void box_filter2_backward(float* dx, const float* dy, int64_t batch, int64_t height, int64_t width, int64_t channels) {
    const int64_t line = (width + 1) * channels;
    parallel_for_rows(batch * height, width * channels, [=] DEVICE(int64_t row) {
        const float* source = dy + (row + row / height) * line;  // dy has one row more per image
        float* target = dx + row * width * channels;
        return [=](int64_t e) {
            target[e] = 0.25f * (source[e] + source[e + channels] + source[e + line] + source[e + line + channels]);
        };
    });
}

}  // namespace dualmcmc::DEVICE_NAMESPACE::fast
