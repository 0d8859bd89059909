// The index arithmetic of the GPU's convolutions (cuda/taps.h) against the definition of a convolution: which source
// pixel each target pixel meets under each tap, through halo, phases, shifts and targets; and what the arithmetic
// promises of its buffers.
#include "gpu/conv_geometry.h"

#include <algorithm>

#include "compare.h"

namespace dualmcmc::test {
namespace {

// All sides and strides that these networks have, and others: paddings beyond the kernel's, strides that divide
// nothing, single rows.
std::vector<ConvShape> shapes() {
    std::vector<ConvShape> all;
    for (const int64_t kernel : {1, 2, 3, 4, 5})
        for (const int64_t stride : {1, 2, 3})
            for (const int64_t padding : {0, 1, 2, 3})
                for (const auto& [height, width] : {std::pair(4, 7), {9, 6}, {5, 5}, {1, 8}}) {
                    const ConvShape s{3, height, width, 1, 1, kernel, stride, padding};
                    if (s.height + 2 * padding >= kernel && s.width + 2 * padding >= kernel) all.push_back(s);
                }
    return all;
}

std::string name(const ConvShape& s) {
    return std::to_string(s.height) + "x" + std::to_string(s.width) + ", kernel " + std::to_string(s.kernel) +
           ", stride " + std::to_string(s.stride) + ", padding " + std::to_string(s.padding);
}

// The pixel of a (batch, height, width), or -1 beyond its edges.
int64_t pixel(int64_t image, int64_t row, int64_t column, int64_t height, int64_t width) {
    return row < 0 || row >= height || column < 0 || column >= width ? -1 : (image * height + row) * width + column;
}

TEST(Taps, ForwardFindsThePixelsOfTheDefinition) {
    for (const ConvShape& s : shapes()) {
        const Halo halo = forward_halo(s);
        const std::vector<Tap> taps = forward_taps(s, halo);
        ASSERT_EQ(int64_t(taps.size()), s.kernel * s.kernel) << name(s);
        for (int64_t image = 0; image < s.batch; ++image)
            for (int64_t h = 0; h < s.out_height(); ++h)
                for (int64_t w = 0; w < s.out_width(); ++w) {
                    const int64_t place =
                        forward_targets(s).place(halo, (image * s.out_height() + h) * s.out_width() + w);
                    for (const Tap& tap : taps) {
                        const int64_t row = h * s.stride - s.padding + tap.weight / s.kernel;
                        const int64_t column = w * s.stride - s.padding + tap.weight % s.kernel;
                        ASSERT_EQ(halo.source(place + tap.shift), pixel(image, row, column, s.height, s.width))
                            << name(s) << ": image " << image << ", target (" << h << ", " << w << "), tap "
                            << tap.weight;
                    }
                }
    }
}

TEST(Taps, BackwardFindsThePixelsOfTheDefinition) {
    for (const ConvShape& s : shapes()) {
        const Halo halo = backward_halo(s);
        for (int64_t image = 0; image < s.batch; ++image)
            for (int64_t h = 0; h < s.height; ++h)
                for (int64_t w = 0; w < s.width; ++w) {
                    const int64_t place = backward_targets(s).place(halo, (image * s.height + h) * s.width + w);
                    const int64_t phase = place / halo.places();
                    // Every tap whose target is whole, and no other: a tap that is not of this phase meets no pixel of
                    // dy.
                    std::vector<int64_t> expected, found;
                    for (int64_t tap = 0; tap < s.kernel * s.kernel; ++tap) {
                        const int64_t row = h + s.padding - tap / s.kernel, column = w + s.padding - tap % s.kernel;
                        if (row % s.stride == 0 && column % s.stride == 0 &&
                            pixel(image, row / s.stride, column / s.stride, s.out_height(), s.out_width()) >= 0)
                            expected.insert(expected.end(), {tap, pixel(image, row / s.stride, column / s.stride,
                                                                        s.out_height(), s.out_width())});
                    }
                    for (const Tap& tap : backward_taps(s, halo, phase)) {
                        const int64_t source = halo.source(place % halo.places() + tap.shift);
                        if (source >= 0) found.insert(found.end(), {tap.weight, source});
                    }
                    ASSERT_EQ(found, expected)
                        << name(s) << ": image " << image << ", pixel (" << h << ", " << w << ")";
                }
    }
}

// A sum's rows are each pixel once, at its place in its phase.
TEST(Taps, PhasesHoldEachPixelAtItsPlace) {
    for (const ConvShape& s : shapes())
        for (const bool backward : {false, true}) {
            const Halo halo = backward ? backward_halo(s) : forward_halo(s);
            const Targets targets = backward ? backward_targets(s) : forward_targets(s);
            std::vector<int> met(size_t(s.batch * targets.height * targets.width), 0);
            for (int64_t phase = 0; phase < targets.stride * targets.stride; ++phase) {
                const Pixels pixels = phase_pixels(halo, targets, phase);
                for (int64_t r = 0; r < s.batch * pixels.in_image(); ++r) {
                    const Pixels::At at = pixels.at(r);
                    met.at(size_t(at.pixel)) += 1;
                    ASSERT_EQ(phase * halo.places() + at.place, targets.place(halo, at.pixel))
                        << name(s) << ", phase " << phase << ", row " << r;
                }
            }
            ASSERT_EQ(met, std::vector<int>(met.size(), 1)) << name(s);
        }
    for (const int64_t r : {0, 1, 41}) EXPECT_EQ(pixels_in_order(42).at(r).pixel, r);
    for (const int64_t r : {0, 1, 41}) EXPECT_EQ(pixels_in_order(42).at(r).place, r);
}

// Σ over all places of x[place + shift] dy[place] holds each product of the definition, and otherwise zeros of dy.
TEST(Taps, WeightGradientMeetsEachTargetOnce) {
    for (const ConvShape& s : shapes()) {
        const Halo halo = forward_halo(s), upstream = target_halo(s, halo);
        ASSERT_EQ(upstream.phase_size(), halo.places()) << name(s);
        std::vector<int64_t> met;
        for (int64_t place = 0; place < halo.places(); ++place) {
            const int64_t target = upstream.source(place);
            if (target < 0) continue;
            met.push_back(target);
            ASSERT_EQ(forward_targets(s).place(halo, target), place) << name(s);
        }
        ASSERT_EQ(int64_t(met.size()), s.batch * s.out_height() * s.out_width()) << name(s);
        ASSERT_TRUE(std::is_sorted(met.begin(), met.end())) << name(s);
    }
}

// The products run over all places: each shifted view must end within its buffer.
TEST(Taps, ShiftedViewsStayWithinTheBuffer) {
    for (const ConvShape& s : shapes()) {
        const Halo forward = forward_halo(s), backward = backward_halo(s);
        for (const Tap& tap : forward_taps(s, forward)) {
            ASSERT_GE(tap.shift, 0) << name(s);
            ASSERT_LE(tap.shift % forward.phase_size(), forward.tail) << name(s);
            ASSERT_LT(tap.shift / forward.phase_size(), forward.phases()) << name(s);
        }
        for (int64_t phase = 0; phase < s.stride * s.stride; ++phase)
            for (const Tap& tap : backward_taps(s, backward, phase)) {
                ASSERT_GE(tap.shift, 0) << name(s);
                ASSERT_LE(tap.shift, backward.tail) << name(s);
            }
    }
}

// What is saved: rows share their zeros, and 1×1 convolutions, linear layers and the targets of those need none.
TEST(Taps, TakesNoMorePlacesThanNeeded) {
    const Halo same = forward_halo({2, 8, 6, 1, 1, 3, 1, 1});
    EXPECT_EQ(same.rows.pitch, 9);
    EXPECT_EQ(same.columns.pitch, 7);
    EXPECT_EQ(backward_halo({2, 8, 6, 1, 1, 3, 1, 1}).image(), 9 * 7);
    const Halo halved = forward_halo({2, 32, 32, 1, 1, 4, 2, 1});
    EXPECT_EQ(halved.phases() * halved.image(), 4 * 17 * 17);
    for (const ConvShape& s : {ConvShape{2, 8, 6, 1, 1, 1, 1, 0}, {5, 1, 1, 1, 1, 1, 1, 0}}) {
        EXPECT_TRUE(forward_halo(s).bare());
        EXPECT_TRUE(backward_halo(s).bare());
        EXPECT_TRUE(target_halo(s, forward_halo(s)).bare());
    }
    EXPECT_FALSE(forward_halo({2, 8, 6, 1, 1, 1, 2, 0}).bare());
}

}  // namespace
}  // namespace dualmcmc::test
