// The sliced Wasserstein distance against SciPy's pyramid, a naive reimplementation and closed forms.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "data/shapes.h"
#include "experiments/sliced_wasserstein.h"
#include "file_helpers.h"
#include "hash.h"

namespace dualmcmc {
namespace {

ImageSet shapes(int64_t count, int64_t size, uint64_t seed) {
    ImageSet set{count, size, std::vector<uint8_t>(count * size * size * 3), ""};
    for (int64_t i = 0; i < count; ++i) draw_shape(seed, i, size, set.pixels.data() + i * size * size * 3);
    return set;
}

ImageSet map_pixels(ImageSet set, const std::function<int(int pixel, size_t index)>& f) {
    for (size_t i = 0; i < set.pixels.size(); ++i) set.pixels[i] = static_cast<uint8_t>(f(set.pixels[i], i));
    return set;
}

ImageSet grey_images(const std::vector<int>& levels, int64_t size) {
    const int64_t count = static_cast<int64_t>(levels.size());
    const ImageSet set{count, size, std::vector<uint8_t>(count * size * size * 3), ""};
    return map_pixels(set, [&](int, size_t i) { return levels[i / (size * size * 3)]; });
}

TEST(Pyramid, EqualsScipy) {
    // The constants are SciPy 1.10's scipy.ndimage.convolve(mode='mirror') with outer([1,4,6,4,1], [1,4,6,4,1]) / 256,
    // of y, x, c = np.ogrid[0:32, 0:32, 0:3]; image = (y * 37 + x * 91 + c * 53 + x * y % 17 * 11) % 256, level by
    // level at (0,0), (0,S-1), (5,9), (S-1,3), (S-1,S-1); and the sum of value[i] * (i % 101) over (y, x, c) in order.
    const real pixels[2][5][3] = {{{-112.6055f, -83.6055f, -42.793f},
                                   {-137.8545f, -83.8545f, -10.6045f},
                                   {-27.8662f, 47.8838f, 71.8838f},
                                   {99.6484f, -96.8516f, -40.8516f},
                                   {39.7969f, -108.2031f, 7.7969f}},
                                  {{98.1875f, 135.1875f, 160.1875f},
                                   {141.2188f, 148.2188f, 119.2188f},
                                   {101.4414f, 143.4414f, 161.4414f},
                                   {132.0469f, 121.0469f, 142.0469f},
                                   {187.2031f, 132.2031f, 69.2031f}}};
    const double sums[2] = {-42989.987548828125, 4741217.265625};
    std::vector<uint8_t> image(32 * 32 * 3);
    for (int y = 0; y < 32; ++y)
        for (int x = 0; x < 32; ++x)
            for (int c = 0; c < 3; ++c)
                image[(y * 32 + x) * 3 + c] = static_cast<uint8_t>(y * 37 + x * 91 + c * 53 + x * y % 17 * 11);
    const auto levels = laplacian_pyramid(image.data(), 32);
    ASSERT_EQ(levels.size(), 2u);
    for (int level = 0; level < 2; ++level) {
        const int side = 32 >> level, last = side - 1;
        ASSERT_EQ(levels[level].size(), static_cast<size_t>(side * side * 3));
        const int pixels_at[5][2] = {{0, 0}, {0, last}, {5, 9}, {last, 3}, {last, last}};
        for (int p = 0; p < 5; ++p)
            for (int c = 0; c < 3; ++c)
                EXPECT_NEAR(levels[level][(pixels_at[p][0] * side + pixels_at[p][1]) * 3 + c], pixels[level][p][c],
                            1e-4)
                    << level << " " << p << " " << c;
        double sum = 0;
        for (size_t i = 0; i < levels[level].size(); ++i)
            sum += double{levels[level][i]} * static_cast<double>(i % 101);
        EXPECT_NEAR(sum, sums[level], 0.5);
    }
}

TEST(Pyramid, OneColourHasNoDetail) {
    const std::vector<uint8_t> image(64 * 64 * 3, 77);
    const auto levels = laplacian_pyramid(image.data(), 64);
    ASSERT_EQ(levels.size(), 3u);
    for (size_t level = 0; level < 3; ++level)
        for (real value : levels[level]) ASSERT_EQ(value, level < 2 ? 0.0f : 77.0f) << level;
}

TEST(SlicedWasserstein, NothingToItself) {
    const ImageSet a = shapes(20, 32, 1);
    const SlicedWasserstein result = sliced_wasserstein(a, a, 5);
    EXPECT_EQ(result.per_level, (std::vector<double>{0, 0}));
    EXPECT_EQ(result.mean, 0);
}

TEST(SlicedWasserstein, SymmetricAndMeanOfItsLevels) {
    const ImageSet a = shapes(10, 64, 1), b = map_pixels(a, [](int v, size_t i) { return i % 7 < 3 ? v : 255 - v; });
    const SlicedWasserstein ab = sliced_wasserstein(a, b, 5), ba = sliced_wasserstein(b, a, 5);
    ASSERT_EQ(ab.per_level.size(), 3u);
    EXPECT_EQ(ab.per_level, ba.per_level);
    EXPECT_GT(ab.mean, 10);
    EXPECT_DOUBLE_EQ(ab.mean, (ab.per_level[0] + ab.per_level[1] + ab.per_level[2]) / 3);
}

// The normalisation removes brightness and contrast of the whole set: 2 a + 1 is equivalent to a.
TEST(SlicedWasserstein, BlindToAnAffineChangeOfTheWholeSet) {
    const ImageSet a = map_pixels(shapes(20, 32, 1), [](int v, size_t) { return v / 3; });
    const ImageSet b = map_pixels(a, [](int v, size_t i) { return i % 3 == 1 ? 3 * v : 2 * v + 1; });
    EXPECT_LT(sliced_wasserstein(a, b, 5).mean, 1e-3);
    EXPECT_GT(sliced_wasserstein(a, map_pixels(a, [](int v, size_t i) { return i % 2 ? v : 3 * v; }), 5).mean, 10);
}

// If each image has one grey level, a patch is a single value, and the distance in one direction is the Wasserstein
// distance of two distributions on four points, times |sum of the direction's components|. Levels {0, 0, 255, 255}
// become -1 -1 1 1, levels {0, 0, 0, 255} become -1/sqrt(3) (three times) and sqrt(3).
TEST(SlicedWasserstein, ClosedFormForGreyImages) {
    const ImageSet a = grey_images({0, 255, 0, 255}, 16), b = grey_images({0, 0, 255, 0}, 16);
    const double r = std::sqrt(3.0), distance = (2 * (1 - 1 / r) + (1 + 1 / r) + (r - 1)) / 4;
    double sum = 0;
    for (int64_t d = 0; d < 512; ++d) {
        double components = 0;
        for (real v : projection_direction(9, 0, d)) components += v;
        sum += std::abs(components);
    }
    const double expected = 1e3 * distance * sum / 512;
    const SlicedWasserstein result = sliced_wasserstein(a, b, 9);
    ASSERT_EQ(result.per_level.size(), 1u);
    EXPECT_NEAR(result.mean, expected, 1e-4 * expected);
}

// The definition, in double, with std::sort and two passes for the variance.
double naive_distance(const ImageSet* sets[2], int64_t level, uint64_t seed, int64_t images, int64_t per_image,
                      int64_t all) {
    const int64_t size = sets[0]->size >> level;
    std::vector<std::vector<double>> patches[2];
    for (int s = 0; s < 2; ++s) {
        for (int64_t p = 0; p < images * per_image; ++p) {
            const auto band = laplacian_pyramid(image_at(*sets[s], p / per_image), sets[s]->size)[level];
            const auto corner = patch_corner(seed, level, p, size);
            std::vector<double> patch;
            for (int64_t y = 0; y < 7; ++y)
                for (int64_t x = 0; x < 7; ++x)
                    for (int64_t c = 0; c < 3; ++c)
                        patch.push_back(band[((corner[0] + y) * size + corner[1] + x) * 3 + c]);
            patches[s].push_back(patch);
        }
        for (int c = 0; c < 3; ++c) {
            double mean = 0, variance = 0;
            const double n = static_cast<double>(images * per_image * 49);
            for (const auto& patch : patches[s])
                for (int v = c; v < 147; v += 3) mean += patch[v] / n;
            for (const auto& patch : patches[s])
                for (int v = c; v < 147; v += 3) variance += (patch[v] - mean) * (patch[v] - mean) / n;
            for (auto& patch : patches[s])
                for (int v = c; v < 147; v += 3) patch[v] = (patch[v] - mean) / std::sqrt(variance);
        }
    }
    double total = 0;
    for (int64_t d = 0; d < all; ++d) {
        const auto direction = projection_direction(seed, level, d);
        std::vector<double> projections[2];
        for (int s = 0; s < 2; ++s) {
            for (const auto& patch : patches[s]) {
                double sum = 0;
                for (int v = 0; v < 147; ++v) sum += patch[v] * direction[v];
                projections[s].push_back(sum);
            }
            std::sort(projections[s].begin(), projections[s].end());
        }
        for (size_t i = 0; i < projections[0].size(); ++i)
            total += std::abs(projections[0][i] - projections[1][i]) / static_cast<double>(projections[0].size());
    }
    return 1e3 * total / static_cast<double>(all);
}

// Odd sizes: neither patches nor directions fill their last block, and one set is larger.
TEST(SlicedWasserstein, EqualsTheNaiveDefinition) {
    const ImageSet a = shapes(7, 32, 1);
    const ImageSet b = map_pixels(shapes(9, 32, 2), [](int v, size_t i) { return (v + i % 50) / 2; });
    const ImageSet* sets[2] = {&a, &b};
    for (const auto& settings : std::vector<SlicedWassersteinSettings>{{5, 7, 3}, {1, 1, 1}, {64, 16, 1}}) {
        const SlicedWasserstein result = sliced_wasserstein(a, b, 77, settings);
        ASSERT_EQ(result.per_level.size(), 2u);
        for (int64_t level = 0; level < 2; ++level) {
            const double expected = naive_distance(sets, level, 77, 7, settings.patches_per_image,
                                                   settings.directions_per_repeat * settings.repeats);
            EXPECT_NEAR(result.per_level[level], expected, 1e-4 * expected + 1e-4) << level;
            EXPECT_GT(expected, 1);
        }
    }
}

TEST(SlicedWasserstein, SameForAnyNumberOfThreads) {
    const ImageSet a = shapes(30, 32, 1), b = shapes(30, 32, 2);
    const int before = omp_get_max_threads();
    std::vector<SlicedWasserstein> results;
    for (int threads : {1, 2, 3, 7}) {
        omp_set_num_threads(threads);
        results.push_back(sliced_wasserstein(a, b, 5));
    }
    omp_set_num_threads(before);
    for (const SlicedWasserstein& result : results) EXPECT_EQ(result.per_level, results[0].per_level);
    EXPECT_GT(results[0].mean, 1);
}

TEST(SlicedWasserstein, SeedsDisagreeALittle) {
    const ImageSet a = shapes(60, 32, 1), b = map_pixels(shapes(60, 32, 2), [](int v, size_t i) {
                                              return std::clamp(v + static_cast<int>(hash64(1, i) % 101) - 50, 0, 255);
                                          });
    const double first = sliced_wasserstein(a, b, 5).mean, again = sliced_wasserstein(a, b, 5).mean;
    const double second = sliced_wasserstein(a, b, 6).mean;
    EXPECT_EQ(first, again);
    EXPECT_NE(first, second);
    EXPECT_NEAR(first, second, 0.15 * first);
}

// Its purpose: new images of the same kind are close, noisy ones farther away, pure noise the farthest.
TEST(SlicedWasserstein, GrowsWithTheDamage) {
    const ImageSet a = shapes(100, 32, 1), fresh = shapes(100, 32, 2);
    double previous = sliced_wasserstein(a, fresh, 5).mean;
    for (int amplitude : {20, 80, 255}) {
        const ImageSet noisy = map_pixels(fresh, [&](int v, size_t i) {
            const int noise = static_cast<int>(hash64(3, i) % (2 * amplitude + 1)) - amplitude;
            return amplitude == 255 ? std::abs(noise) : std::clamp(v + noise, 0, 255);
        });
        const double distance = sliced_wasserstein(a, noisy, 5).mean;
        EXPECT_GT(distance, 1.2 * previous) << amplitude;
        previous = distance;
    }
}

TEST(SlicedWasserstein, FiniteForImagesOfOneColour) {
    const ImageSet a = shapes(4, 32, 1), b = grey_images({128, 128, 128, 128}, 32);
    for (double value : sliced_wasserstein(a, b, 5).per_level) {
        EXPECT_TRUE(std::isfinite(value));
        EXPECT_GT(value, 100);
    }
}

TEST(SlicedWasserstein, Contracts) {
    const ImageSet a = shapes(2, 32, 1), none{0, 32, {}, ""};
    EXPECT_THROW(sliced_wasserstein(a, shapes(2, 64, 1), 1), std::runtime_error);
    EXPECT_THROW(sliced_wasserstein(a, none, 1), std::runtime_error);
    EXPECT_THROW(sliced_wasserstein(shapes(2, 8, 1), shapes(2, 8, 1), 1), std::runtime_error);
}

// On the unit sphere E[w] = 0 and E[w w'] = I / 147. Over 4000 directions 5 standard errors are 5 / sqrt(4000) of a
// component's deviation 1 / sqrt(147).
TEST(Projections, UniformOnTheSphere) {
    const int n = 4000;
    std::vector<double> mean(147), squares(147), neighbours(147);
    for (int d = 0; d < n; ++d) {
        const auto w = projection_direction(3, 1, d);
        double norm = 0;
        for (int v = 0; v < 147; ++v) {
            norm += double{w[v]} * w[v];
            mean[v] += w[v] / n;
            squares[v] += 147.0 * w[v] * w[v] / n;
            neighbours[v] += 147.0 * w[v] * w[(v + 1) % 147] / n;
        }
        ASSERT_NEAR(norm, 1, 1e-5);
    }
    for (int v = 0; v < 147; ++v) {
        EXPECT_NEAR(mean[v] * std::sqrt(147.0), 0, 5 / std::sqrt(n)) << v;
        EXPECT_NEAR(squares[v], 1, 5 * std::sqrt(2.0 / n)) << v;
        EXPECT_NEAR(neighbours[v], 0, 5 / std::sqrt(n)) << v;
    }
}

// Every position of a 7x7 patch on a 16x16 level occurs equally often.
TEST(Projections, PatchesCoverTheImage) {
    std::vector<int> counts(100);
    for (int64_t p = 0; p < 40000; ++p) {
        const auto [row, column] = patch_corner(3, 1, p, 16);
        ASSERT_TRUE(row >= 0 && row < 10 && column >= 0 && column < 10) << row << " " << column;
        ++counts[row * 10 + column];
    }
    for (int count : counts) EXPECT_NEAR(count, 400, 5 * 20);
}

}  // namespace
}  // namespace dualmcmc
