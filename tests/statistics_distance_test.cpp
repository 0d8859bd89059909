// The distance by image statistics against naive definitions and closed forms; and what it sees.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <functional>
#include <map>

#include "data/shapes.h"
#include "experiments/statistics_distance.h"
#include "file_helpers.h"
#include "hash.h"

namespace dualmcmc {
namespace {

ImageSet shapes(int64_t count, uint64_t seed, int64_t size = 32) {
    ImageSet set = empty_images("", count, size);
    for (int64_t i = 0; i < count; ++i) draw_shape(seed, i, size, set.pixels.data() + i * size * size * 3);
    return set;
}

// pixel(image, row, column, colour), rounded and clamped.
using Pixel = std::function<double(int64_t, int64_t, int64_t, int64_t)>;
ImageSet images_of(int64_t count, int64_t size, const Pixel& pixel) {
    ImageSet set = empty_images("", count, size);
    for (int64_t p = 0; p < count * size * size * 3; ++p)
        set.pixels[size_t(p)] = uint8_t(std::clamp(
            std::lround(pixel(p / (size * size * 3), p / (size * 3) % size, p / 3 % size, p % 3)), 0L, 255L));
    return set;
}

// ---- the statistics -----------------------------------------------------------------------------

// By their definition in the header, with the Fourier transform as a double sum.
std::vector<double> naive_statistics(const uint8_t* image, int64_t side) {
    const auto x = [&](int64_t row, int64_t column, int64_t c) {
        return image[(row * side + column) * 3 + c] / 127.5 - 1;
    };
    const double n = double(side), rounding = 4 / (255.0 * 255 * 12);
    std::vector<double> out;
    for (int64_t c = 0; c < 3; ++c) {
        double sum = 0;
        for (int64_t p = 0; p < side * side; ++p) sum += x(p / side, p % side, c);
        out.push_back(sum / n / n);
    }
    const auto window = [&](int64_t i) { return 0.5 - 0.5 * std::cos(2 * M_PI * double(i + 1) / (n + 1)); };
    double squares = 0;
    for (int64_t i = 0; i < side; ++i) squares += window(i) * window(i);
    std::vector<std::array<double, 3>> power(size_t(side), std::array<double, 3>{});
    std::vector<double> count(size_t(side), 0);
    for (int64_t u = -side / 2; u < side / 2; ++u)
        for (int64_t v = -side / 2; v < side / 2; ++v) {
            const size_t radius = size_t(std::floor(std::sqrt(double(u * u + v * v)) + 0.5));
            ++count[radius];
            for (int64_t c = 0; c < 3; ++c) {
                std::complex<double> sum = 0;
                for (int64_t row = 0; row < side; ++row)
                    for (int64_t column = 0; column < side; ++column)
                        sum += (x(row, column, c) - out[size_t(c)]) * window(row) * window(column) *
                               std::exp(std::complex<double>(0, -2 * M_PI * double(u * row + v * column) / n));
                power[radius][size_t(c)] += std::norm(sum);
            }
        }
    for (size_t r = 1; r <= size_t(side / 2); ++r)
        for (size_t c = 0; c < 3; ++c) out.push_back(std::log(power[r][c] / count[r] + rounding * squares * squares));
    for (const int64_t block : {1, 2, 4}) {
        const auto mean = [&](int64_t row, int64_t column, int64_t c) {
            double sum = 0;
            for (int64_t p = 0; p < block * block; ++p)
                sum += x(row * block + p / block, column * block + p % block, c);
            return sum / double(block * block);
        };
        for (const bool along_x : {false, true})
            for (int64_t c = 0; c < 3; ++c) {
                double square = 0, size = 0;
                const int64_t rows = side / block - !along_x, columns = side / block - along_x;
                for (int64_t row = 0; row < rows; ++row)
                    for (int64_t column = 0; column < columns; ++column) {
                        const double d = mean(row + !along_x, column + along_x, c) - mean(row, column, c);
                        square += d * d / double(rows * columns);
                        size += std::abs(d) / double(rows * columns);
                    }
                out.push_back(std::log(std::sqrt(square + 2 * rounding) / (size + std::sqrt(rounding))));
            }
    }
    return out;
}

TEST(ImageStatistics, EqualTheirDefinition) {
    const ImageSet noise = images_of(1, 16, [](int64_t, int64_t r, int64_t c, int64_t k) {
        return 255 * hash_uniform(1, uint64_t((r * 16 + c) * 3 + k));
    });
    for (const ImageSet& set : {shapes(1, 3, 16), shapes(1, 4, 32), noise}) {
        const auto expected = naive_statistics(image_at(set, 0), set.size),
                   found = image_statistics(image_at(set, 0), set.size);
        ASSERT_EQ(found.size(), size_t(3 + 3 * set.size / 2 + 18));
        ASSERT_EQ(expected.size(), found.size());
        for (size_t k = 0; k < found.size(); ++k) EXPECT_NEAR(found[k], expected[k], 1e-11) << set.size << " " << k;
    }
}

// White noise of deviation s has the expected power s² (Σ w²)² at every frequency, and differences of the root mean
// square √2 s and the mean size 2 s / √π.
TEST(ImageStatistics, OfWhiteNoise) {
    const int64_t count = 400;
    const double deviation = 20 / 127.5;
    const ImageSet noise = images_of(count, 32, [](int64_t i, int64_t r, int64_t c, int64_t k) {
        const uint64_t index = uint64_t(((i * 32 + r) * 32 + c) * 3 + k);
        return 127.5 +
               20 * std::sqrt(-2 * std::log(1 - hash_uniform(2, index))) * std::cos(2 * M_PI * hash_uniform(3, index));
    });
    std::vector<double> mean(69, 0.0);
    for (int64_t i = 0; i < count; ++i) {
        const auto one = image_statistics(image_at(noise, i), 32);
        for (size_t k = 0; k < 69; ++k) mean[k] += (k < 3 || k >= 51 ? one[k] : std::exp(one[k])) / double(count);
    }
    double squares = 0;
    for (int64_t i = 1; i <= 32; ++i) squares += std::pow(std::sin(M_PI * double(i) / 33), 4);
    for (size_t k = 0; k < 3; ++k) EXPECT_NEAR(mean[k], 0, 5 * deviation / std::sqrt(1024.0 * count));
    // The lowest radius has 8 frequencies, whose power varies by 1 / sqrt(4) of its mean at most; the mean that the
    // window subtracts takes some of it.
    for (size_t k = 6; k < 51; ++k)
        EXPECT_NEAR(mean[k] / (deviation * deviation * squares * squares), 1, 5 * 0.5 / std::sqrt(double(count))) << k;
    const double rounding = 4 / (255.0 * 255 * 12);
    const double edges = std::log(std::sqrt(2 * deviation * deviation + 2 * rounding) /
                                  (2 * deviation / std::sqrt(M_PI) + std::sqrt(rounding)));
    for (size_t k = 51; k < 57; ++k) EXPECT_NEAR(mean[k], edges, 0.01) << k;
}

// ---- the distance -------------------------------------------------------------------------------

TEST(StatisticsDistance, ClosedForms) {
    const ImageSet data = shapes(50, 1);
    const StatisticsDistance distance(data);
    EXPECT_EQ(distance(data), 0);
    // An image repeated has no deviation, and nothing in common with the data.
    ImageSet same = first_images(data, 1);
    append_images(same, first_images(data, 1));
    EXPECT_EQ(distance(same), 1);
}

// Of images of one grey level each, only the three means vary.
TEST(StatisticsDistance, OfGreyImages) {
    const auto greys = [](const std::vector<double>& levels) {
        return images_of(int64_t(levels.size()), 32,
                         [&](int64_t i, int64_t, int64_t, int64_t) { return levels[size_t(i)]; });
    };
    const StatisticsDistance distance(greys({100, 120}));
    EXPECT_NEAR(distance(greys({110, 130})), 1 - std::exp(-1 / 8.0), 1e-12);
    EXPECT_NEAR(distance(greys({90, 130})), 1 - std::sqrt(0.8), 1e-12);
    EXPECT_NEAR(distance(greys({110, 150})), 1 - std::sqrt(0.8) * std::exp(-1 / 5.0), 1e-12);
}

// ---- what it sees -------------------------------------------------------------------------------

TEST(StatisticsDistance, GrowsWithEveryKindOfDamage) {
    const StatisticsDistance distance(shapes(500, 1));
    const ImageSet fresh = shapes(300, 2);
    const double floor = distance(fresh);
    std::vector<double> others;  // of other draws: what chance does
    for (const uint64_t seed : {3, 4, 5, 6, 7, 8}) others.push_back(distance(shapes(300, seed)));
    const double highest = *std::max_element(others.begin(), others.end());
    EXPECT_LT(highest, 0.1);

    const auto pixel = [&](int64_t i, int64_t r, int64_t c, int64_t k) {
        return double(image_at(fresh, i)[(r * 32 + std::min<int64_t>(c, 31)) * 3 + k]);
    };
    const std::map<std::string, std::function<double(double, int64_t, int64_t, int64_t, int64_t)>> kinds{
        {"blur", [&](double s, int64_t i, int64_t r, int64_t c,
                     int64_t k) { return (1 - s / 2) * pixel(i, r, c, k) + s / 2 * pixel(i, r, c + 1, k); }},
        {"noise",
         [&](double s, int64_t i, int64_t r, int64_t c, int64_t k) {
             const uint64_t index = uint64_t(((i * 32 + r) * 32 + c) * 3 + k);
             return pixel(i, r, c, k) + 20 * s * (hash_uniform(9, index) - 0.5);
         }},
        {"contrast", [&](double s, int64_t i, int64_t r, int64_t c,
                         int64_t k) { return 127.5 + (1 - 0.4 * s) * (pixel(i, r, c, k) - 127.5); }},
        {"brightness",
         [&](double s, int64_t i, int64_t r, int64_t c, int64_t k) { return pixel(i, r, c, k) + 120 * s; }},
        {"one colour", [&](double s, int64_t i, int64_t r, int64_t c,
                           int64_t k) { return pixel(i, r, c, k) + (k == 0 ? 120 * s : 0); }},
        {"few images",
         [&](double s, int64_t i, int64_t r, int64_t c, int64_t k) { return pixel(i % (s < 1 ? 12 : 4), r, c, k); }}};
    for (const auto& [name, damage] : kinds) {
        double previous = floor;
        for (const double strength : {0.5, 1.0}) {
            const double damaged = distance(images_of(
                300, 32, [&](int64_t i, int64_t r, int64_t c, int64_t k) { return damage(strength, i, r, c, k); }));
            EXPECT_GT(damaged, previous + (highest - floor)) << name << " " << strength;
            previous = damaged;
        }
        EXPECT_GT(previous, 2 * highest) << name;
    }
}

// The power of every frequency stays, but not the shapes: each image is shifted on its torus by its own transform's
// random phases, here those of white noise.
TEST(StatisticsDistance, SeesTextureWithoutShapes) {
    const StatisticsDistance distance(shapes(300, 1));
    const ImageSet fresh = shapes(60, 2);
    const auto convolved = images_of(60, 32, [&](int64_t i, int64_t r, int64_t c, int64_t k) {
        double sum = 0;  // with random signs of 16 pixels
        for (uint64_t tap = 0; tap < 16; ++tap) {
            const uint64_t bits = hash64(hash64(5, uint64_t(i)), tap);
            const int64_t row = (r + int64_t(bits % 32)) % 32, column = (c + int64_t(bits / 32 % 32)) % 32;
            sum += (bits / 1024 % 2 ? 1 : -1) * (double(image_at(fresh, i)[(row * 32 + column) * 3 + k]) - 127.5);
        }
        return 127.5 + sum / 4;
    });
    EXPECT_GT(distance(convolved), 5 * distance(fresh));
}

TEST(StatisticsDistance, SameForAnyNumberOfThreads) {
    const ImageSet data = shapes(70, 1), images = shapes(33, 2);
    std::vector<double> results;
    const int before = omp_get_max_threads();
    for (const int threads : {1, 2, 5}) {
        omp_set_num_threads(threads);
        results.push_back(StatisticsDistance(data)(images));
    }
    omp_set_num_threads(before);
    EXPECT_EQ(results, std::vector<double>(3, results[0]));
}

TEST(StatisticsDistance, DataThatDoNotVary) {
    const StatisticsDistance distance(empty_images("", 4, 32));  // no statistic is left
    EXPECT_EQ(distance(shapes(4, 1)), 0);
}

TEST(StatisticsDistance, Contracts) {
    const StatisticsDistance distance(shapes(4, 1));
    EXPECT_THROW(distance(shapes(1, 1)), std::runtime_error);
    EXPECT_THROW(distance(shapes(4, 1, 64)), std::runtime_error);
    EXPECT_THROW(StatisticsDistance(shapes(1, 1)), std::runtime_error);
    EXPECT_THROW(StatisticsDistance(empty_images("", 2, 24)), std::runtime_error);
}

}  // namespace
}  // namespace dualmcmc
