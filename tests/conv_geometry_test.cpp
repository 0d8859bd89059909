// The index arithmetic of the GPU's convolutions (cuda/gpu/conv_geometry.h) against the definition of a convolution:
// which source pixel each output pixel meets under each tap, through padding, phases, shifts and output maps. Then the
// bounds and sizes of its buffers, and the example of its header.
#include "gpu/conv_geometry.h"

#include <algorithm>

#include "compare.h"

namespace dualmcmc::test {
namespace {

// The networks' sizes and strides, and others: paddings larger than the kernel's, strides that do not divide the sides,
// single rows.
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

// The index of a pixel of a (batch, height, width) array, or -1 beyond its edges.
int64_t pixel(int64_t image, int64_t row, int64_t column, int64_t height, int64_t width) {
    return row < 0 || row >= height || column < 0 || column >= width ? -1 : (image * height + row) * width + column;
}

// Of output pixel (image height + row) width + column.
int64_t result_index(const OutputMap& out, const PaddedImages& source, int64_t pixel) {
    return out.result_index(source, pixel / (out.width * out.height), uint32_t(pixel / out.width % out.height),
                            uint32_t(pixel % out.width));
}

TEST(ConvGeometry, FpropTapsMeetThePixelsOfTheDefinition) {
    for (const ConvShape& s : shapes()) {
        const PaddedImages source = fprop_source(s);
        const std::vector<Tap> taps = fprop_taps(s, source);
        ASSERT_EQ(int64_t(taps.size()), s.kernel * s.kernel) << name(s);
        for (int64_t image = 0; image < s.batch; ++image)
            for (int64_t h = 0; h < s.out_height(); ++h)
                for (int64_t w = 0; w < s.out_width(); ++w) {
                    const int64_t m =
                        result_index(fprop_output(s), source, (image * s.out_height() + h) * s.out_width() + w);
                    for (const Tap& tap : taps) {
                        const int64_t row = h * s.stride - s.padding + tap.weight / s.kernel;
                        const int64_t column = w * s.stride - s.padding + tap.weight % s.kernel;
                        ASSERT_EQ(source.source_pixel(m + tap.shift), pixel(image, row, column, s.height, s.width))
                            << name(s) << ": image " << image << ", output (" << h << ", " << w << "), tap "
                            << tap.weight;
                    }
                }
    }
}

TEST(ConvGeometry, DgradTapsMeetThePixelsOfTheDefinition) {
    for (const ConvShape& s : shapes()) {
        const PaddedImages source = dgrad_source(s);
        for (int64_t image = 0; image < s.batch; ++image)
            for (int64_t h = 0; h < s.height; ++h)
                for (int64_t w = 0; w < s.width; ++w) {
                    const int64_t m = result_index(dgrad_output(s), source, (image * s.height + h) * s.width + w);
                    const int64_t phase = m / source.padded_pixels();
                    // Exactly the taps whose row and column of dy are integers.
                    std::vector<int64_t> expected, found;
                    for (int64_t tap = 0; tap < s.kernel * s.kernel; ++tap) {
                        const int64_t row = h + s.padding - tap / s.kernel, column = w + s.padding - tap % s.kernel;
                        if (row % s.stride == 0 && column % s.stride == 0 &&
                            pixel(image, row / s.stride, column / s.stride, s.out_height(), s.out_width()) >= 0)
                            expected.insert(expected.end(), {tap, pixel(image, row / s.stride, column / s.stride,
                                                                        s.out_height(), s.out_width())});
                    }
                    for (const Tap& tap : dgrad_taps(s, source, phase)) {
                        const int64_t met = source.source_pixel(m % source.padded_pixels() + tap.shift);
                        if (met >= 0) found.insert(found.end(), {tap.weight, met});
                    }
                    ASSERT_EQ(found, expected)
                        << name(s) << ": image " << image << ", pixel (" << h << ", " << w << ")";
                }
    }
}

// Over all phases the GEMMs' rows hold each output pixel once, at its padded pixel.
TEST(ConvGeometry, RowMapsHoldEachOutputOnce) {
    for (const ConvShape& s : shapes())
        for (const bool dgrad : {false, true}) {
            const PaddedImages source = dgrad ? dgrad_source(s) : fprop_source(s);
            const OutputMap out = dgrad ? dgrad_output(s) : fprop_output(s);
            std::vector<int> met(size_t(s.batch * out.height * out.width), 0);
            for (int64_t phase = 0; phase < out.stride * out.stride; ++phase) {
                const RowMap rows = row_map(source, out, phase);
                for (int64_t r = 0; r < s.batch * rows.rows_per_image(); ++r) {
                    const RowMap::Entry entry = rows.at(r);
                    met.at(size_t(entry.pixel)) += 1;
                    ASSERT_EQ(phase * source.padded_pixels() + entry.padded, result_index(out, source, entry.pixel))
                        << name(s) << ", phase " << phase << ", row " << r;
                }
            }
            ASSERT_EQ(met, std::vector<int>(met.size(), 1)) << name(s);
        }
    for (const int64_t r : {0, 1, 41}) EXPECT_EQ(identity_row_map(42).at(r).pixel, r);
    for (const int64_t r : {0, 1, 41}) EXPECT_EQ(identity_row_map(42).at(r).padded, r);
}

// Σ_m x[m + shift] dy[m] over all padded pixels m has each term of the definition once; elsewhere dy is zero.
TEST(ConvGeometry, WgradMeetsEachOutputOnce) {
    for (const ConvShape& s : shapes()) {
        const PaddedImages source = fprop_source(s), dy = wgrad_dy(s, source);
        ASSERT_EQ(dy.phase_size(), source.padded_pixels()) << name(s);
        std::vector<int64_t> met;
        for (int64_t m = 0; m < source.padded_pixels(); ++m) {
            const int64_t output = dy.source_pixel(m);
            if (output < 0) continue;
            met.push_back(output);
            ASSERT_EQ(result_index(fprop_output(s), source, output), m) << name(s);
        }
        ASSERT_EQ(int64_t(met.size()), s.batch * s.out_height() * s.out_width()) << name(s);
        ASSERT_TRUE(std::is_sorted(met.begin(), met.end())) << name(s);
    }
}

// The GEMMs run over all padded pixels: each shifted view must end within its buffer.
TEST(ConvGeometry, ShiftedViewsStayWithinTheBuffer) {
    for (const ConvShape& s : shapes()) {
        const PaddedImages x = fprop_source(s), dy = dgrad_source(s);
        for (const Tap& tap : fprop_taps(s, x)) {
            ASSERT_GE(tap.shift, 0) << name(s);
            ASSERT_LE(tap.shift % x.phase_size(), x.tail) << name(s);
            ASSERT_LT(tap.shift / x.phase_size(), x.phases()) << name(s);
        }
        for (int64_t phase = 0; phase < s.stride * s.stride; ++phase)
            for (const Tap& tap : dgrad_taps(s, dy, phase)) {
                ASSERT_GE(tap.shift, 0) << name(s);
                ASSERT_LE(tap.shift, dy.tail) << name(s);
            }
    }
}

// Neighbouring rows share their padding; 1×1 convolutions and linear layers need none.
TEST(ConvGeometry, PadsNoMoreThanNeeded) {
    const PaddedImages same = fprop_source({2, 8, 6, 1, 1, 3, 1, 1});
    EXPECT_EQ(same.rows.pitch, 9);
    EXPECT_EQ(same.columns.pitch, 7);
    EXPECT_EQ(dgrad_source({2, 8, 6, 1, 1, 3, 1, 1}).image_size(), 9 * 7);
    const PaddedImages halved = fprop_source({2, 32, 32, 1, 1, 4, 2, 1});
    EXPECT_EQ(halved.phases() * halved.image_size(), 4 * 17 * 17);
    for (const ConvShape& s : {ConvShape{2, 8, 6, 1, 1, 1, 1, 0}, {5, 1, 1, 1, 1, 1, 1, 0}}) {
        EXPECT_TRUE(fprop_source(s).unpadded());
        EXPECT_TRUE(dgrad_source(s).unpadded());
        EXPECT_TRUE(wgrad_dy(s, fprop_source(s)).unpadded());
    }
    EXPECT_FALSE(fprop_source({2, 8, 6, 1, 1, 1, 2, 0}).unpadded());
}

std::vector<int64_t> shifts(const std::vector<Tap>& taps) {
    std::vector<int64_t> all;
    for (const Tap& tap : taps) all.push_back(tap.shift);
    return all;
}

// A buffer as conv_geometry.h draws it, without spaces: a letter for each pixel, a dot for each zero.
std::string drawing(const PaddedImages& source) {
    std::string all;
    for (int64_t i = 0; i < source.size(); ++i)
        all += source.source_pixel(i) < 0 ? '.' : char('A' + source.source_pixel(i));
    return all;
}

TEST(ConvGeometry, ExampleOfItsHeader) {
    const ConvShape s{1, 4, 4, 1, 1, 3, 1, 1}, halving{1, 4, 4, 1, 1, 3, 2, 1};
    const PaddedImages x = fprop_source(s);
    EXPECT_EQ(x.columns.pitch, 5);
    EXPECT_EQ(x.padded_pixels(), 25);
    EXPECT_EQ(x.tail, 12);
    EXPECT_EQ(drawing(x),
              "....."
              ".ABCD"
              ".EFGH"
              ".IJKL"
              ".MNOP"
              "............");
    EXPECT_EQ(result_index(fprop_output(s), x, 2 * 4 + 3), 5 * 2 + 3);
    EXPECT_EQ(shifts(fprop_taps(s, x)), (std::vector<int64_t>{0, 1, 2, 5, 6, 7, 10, 11, 12}));

    const PaddedImages split = fprop_source(halving);
    EXPECT_EQ(halving.out_height() * halving.out_width(), 2 * 2);
    EXPECT_EQ(split.columns.pitch, 3);
    EXPECT_EQ(split.padded_pixels(), 9);
    EXPECT_EQ(split.tail, 4);
    EXPECT_EQ(drawing(split),
              "....FH.NP"
              "...."
              "...EG.MO."
              "...."
              ".BD.JL..."
              "...."
              "AC.IK...."
              "....");
    EXPECT_EQ(result_index(fprop_output(halving), split, 3), 3 * 1 + 1);
    EXPECT_EQ(shifts(fprop_taps(halving, split)), (std::vector<int64_t>{0, 13, 1, 26, 39, 27, 3, 16, 4}));

    const PaddedImages dy = dgrad_source(halving);
    EXPECT_EQ(dy.columns.pitch, 3);
    EXPECT_EQ(shifts(dgrad_taps(halving, dy, 0)), (std::vector<int64_t>{4, 3, 1, 0}));
    EXPECT_EQ(shifts(dgrad_taps(halving, dy, 1)), (std::vector<int64_t>{4, 1}));
    EXPECT_EQ(shifts(dgrad_taps(halving, dy, 2)), (std::vector<int64_t>{4, 3}));
    EXPECT_EQ(shifts(dgrad_taps(halving, dy, 3)), (std::vector<int64_t>{4}));
}

}  // namespace
}  // namespace dualmcmc::test
