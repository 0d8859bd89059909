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
#include "rounding.h"

namespace dualmcmc {
namespace {

using rounding::RandomSum, rounding::Running;

constexpr double unit = 0x1p-53;                                           // all is computed in double
const Running level_variance = rounding::rounded(4 / (255.0 * 255 * 12));  // of the rounding to 256 levels

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

// By their definition in the header, with the Fourier transform as a double sum, and their running error.
using Level = std::function<Running(int64_t row, int64_t column, int64_t c)>;

void add_naive_powers(const Level& x, int64_t side, std::vector<Running>& out) {
    const auto angle = [](int64_t k, int64_t n) { return rounding::rounded(2 * M_PI) * double(k) / double(n); };
    std::vector<Running> window, cosine, sine;
    Running squares;
    for (int64_t i = 0; i < side; ++i) {
        window.push_back(0.5 - 0.5 * cos(angle(i + 1, side + 1)));
        squares = squares + square(window.back());
        cosine.push_back(cos(angle(i, side)));
        sine.push_back(sin(angle(i, side)));
    }
    std::vector<std::array<Running, 3>> power(static_cast<size_t>(side));
    std::vector<double> count(size_t(side), 0);
    for (int64_t u = -side / 2; u < side / 2; ++u)
        for (int64_t v = -side / 2; v < side / 2; ++v) {
            const size_t radius = size_t(std::floor(std::sqrt(double(u * u + v * v)) + 0.5));
            ++count[radius];
            for (int64_t c = 0; c < 3; ++c) {
                RandomSum re, im;
                for (int64_t row = 0; row < side; ++row)
                    for (int64_t column = 0; column < side; ++column) {
                        const Running value =
                            (x(row, column, c) - out[size_t(c)]) * window[size_t(row)] * window[size_t(column)];
                        const size_t turn = size_t((u * row + v * column) & (side - 1));  // without whole turns
                        re.add(value * cosine[turn]);
                        im.add(value * sine[turn]);
                    }
                power[radius][size_t(c)] = power[radius][size_t(c)] + square(re.get()) + square(im.get());
            }
        }
    for (size_t r = 1; r <= size_t(side / 2); ++r)
        for (size_t c = 0; c < 3; ++c) out.push_back(log(power[r][c] / count[r] + level_variance * squares * squares));
}

std::vector<Running> naive_statistics(const uint8_t* image, int64_t side) {
    const Level x = [&](int64_t row, int64_t column, int64_t c) {
        return Running(image[(row * side + column) * 3 + c]) / 127.5 - 1;
    };
    std::vector<Running> out;
    for (int64_t c = 0; c < 3; ++c) {
        RandomSum sum;
        for (int64_t p = 0; p < side * side; ++p) sum.add(x(p / side, p % side, c));
        out.push_back(sum.get() / double(side * side));
    }
    add_naive_powers(x, side, out);
    for (const int64_t block : {1, 2, 4}) {
        const auto mean = [&](int64_t row, int64_t column, int64_t c) {
            Running sum;
            for (int64_t p = 0; p < block * block; ++p)
                sum = sum + x(row * block + p / block, column * block + p % block, c);
            return sum / double(block * block);
        };
        for (const bool along_x : {false, true})
            for (int64_t c = 0; c < 3; ++c) {
                RandomSum squares, sizes;
                const int64_t rows = side / block - !along_x, columns = side / block - along_x;
                for (int64_t row = 0; row < rows; ++row)
                    for (int64_t column = 0; column < columns; ++column) {
                        const Running d = mean(row + !along_x, column + along_x, c) - mean(row, column, c);
                        squares.add(square(d));
                        sizes.add({std::abs(d.value), d.error});
                    }
                const double n = double(rows * columns);
                out.push_back(
                    log(sqrt(squares.get() / n + 2 * level_variance) / (sizes.get() / n + sqrt(level_variance))));
            }
    }
    return out;
}

TEST(ImageStatistics, EqualTheirDefinition) {
    const ImageSet noise = images_of(1, 16, [](int64_t, int64_t r, int64_t c, int64_t k) {
        return 255 * hash_uniform(1, uint64_t((r * 16 + c) * 3 + k));
    });
    for (const ImageSet& set : {shapes(1, 3, 16), shapes(1, 4, 32), noise}) {
        const auto expected = naive_statistics(image_at(set, 0), set.size);
        const auto found = image_statistics(image_at(set, 0), set.size);
        ASSERT_EQ(found.size(), size_t(3 + 3 * set.size / 2 + 18));
        ASSERT_EQ(expected.size(), found.size());
        for (size_t k = 0; k < found.size(); ++k)  // both round
            EXPECT_NEAR(found[k], expected[k].value, 2 * expected[k].error * unit) << set.size << " " << k;
    }
}

// White noise of deviation s has the expected power s² (Σ w²)² at every frequency, and differences of the root mean
// square √2 s and the mean size 2 s / √π. Tolerances are 5 standard errors, exceeded by chance once in 1.7 million
// comparisons.
TEST(ImageStatistics, OfWhiteNoise) {
    const int64_t count = 400;
    const ImageSet noise = images_of(count, 32, [](int64_t i, int64_t r, int64_t c, int64_t k) {
        const uint64_t index = uint64_t(((i * 32 + r) * 32 + c) * 3 + k);
        return 127.5 +
               20 * std::sqrt(-2 * std::log(1 - hash_uniform(2, index))) * std::cos(2 * M_PI * hash_uniform(3, index));
    });
    const double variance = std::pow(20 / 127.5, 2) + level_variance.value;
    std::vector<double> mean(69, 0.0), squares(69, 0.0);
    for (int64_t i = 0; i < count; ++i) {
        const auto one = image_statistics(image_at(noise, i), 32);
        for (size_t k = 0; k < 69; ++k) {
            const double value = k < 3 || k >= 51 ? one[k] : std::exp(one[k]);
            mean[k] += value / double(count), squares[k] += value * value / double(count);
        }
    }
    const auto tolerance = [&](size_t k) {
        return 5 * std::sqrt((squares[k] - mean[k] * mean[k]) / double(count - 1));
    };
    double window = 0;
    for (int64_t i = 1; i <= 32; ++i) window += std::pow(std::sin(M_PI * double(i) / 33), 4);
    for (size_t k = 0; k < 3; ++k) EXPECT_NEAR(mean[k], 0, tolerance(k)) << k;
    // From the second radius on: the mean that the window subtracts takes some of the first.
    for (size_t k = 6; k < 51; ++k)
        EXPECT_NEAR(mean[k], (variance + level_variance.value) * window * window, tolerance(k)) << k;
    const double edges = std::log(std::sqrt(2 * variance + 2 * level_variance.value) /
                                  (2 * std::sqrt(variance / M_PI) + std::sqrt(level_variance.value)));
    // Of 992 differences with 3/992 of relative variance in their squares, the logarithm is less by up to a quarter of
    // that.
    for (size_t k = 51; k < 57; ++k) EXPECT_NEAR(mean[k], edges, tolerance(k) + 0.75 / 992) << k;
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

// Of images of one grey level each, only the three means vary. A mean of 1024 pixels up to 0.3, added one by one, is
// off by 512 u of them; the distance, by less than four times that of the smallest deviation, 10 / 127.5.
TEST(StatisticsDistance, OfGreyImages) {
    const auto greys = [](const std::vector<double>& levels) {
        return images_of(int64_t(levels.size()), 32,
                         [&](int64_t i, int64_t, int64_t, int64_t) { return levels[size_t(i)]; });
    };
    const StatisticsDistance distance(greys({100, 120}));
    const double bound = 4 * 512 * unit * 0.3 / (10 / 127.5);
    EXPECT_NEAR(distance(greys({110, 130})), 1 - std::exp(-1 / 8.0), bound);
    EXPECT_NEAR(distance(greys({90, 130})), 1 - std::sqrt(0.8), bound);
    EXPECT_NEAR(distance(greys({110, 150})), 1 - std::sqrt(0.8) * std::exp(-1 / 5.0), bound);
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

using Plane = std::vector<std::complex<double>>;  // 32 × 32

Plane fourier(const Plane& x, double sign) {
    Plane rows(1024), out(1024);
    const auto turn = [&](int64_t k) { return std::polar(1.0, sign * 2 * M_PI * double(k) / 32); };
    for (int64_t r = 0; r < 32; ++r)
        for (int64_t u = 0; u < 32; ++u)
            for (int64_t c = 0; c < 32; ++c) rows[size_t(r * 32 + u)] += x[size_t(r * 32 + c)] * turn(c * u % 32);
    for (int64_t v = 0; v < 32; ++v)
        for (int64_t u = 0; u < 32; ++u)
            for (int64_t r = 0; r < 32; ++r) out[size_t(v * 32 + u)] += rows[size_t(r * 32 + u)] * turn(r * v % 32);
    return out;
}

// The statistics of all images, one after another.
std::vector<std::vector<double>> all_statistics(const ImageSet& set) {
    std::vector<std::vector<double>> all;
    for (int64_t i = 0; i < set.count; ++i) all.push_back(image_statistics(image_at(set, i), set.size));
    return all;
}

// The mean over statistics [first, last) of |m - m'| / s', with m of `images`, and m' and s' of `data`.
double shift(const std::vector<std::vector<double>>& images, const std::vector<std::vector<double>>& data, size_t first,
             size_t last) {
    double total = 0;
    for (size_t k = first; k < last; ++k) {
        double m = 0, mean = 0, squares = 0;
        for (const auto& one : images) m += one[k] / double(images.size());
        for (const auto& one : data) mean += one[k] / double(data.size());
        for (const auto& one : data) squares += (one[k] - mean) * (one[k] - mean) / double(data.size());
        total += std::abs(m - mean) / std::sqrt(squares);
    }
    return total / double(last - first);
}

// Each image has random phases, those of white noise: the amplitude of each frequency and the mean stay, but not the
// shapes. It is the ratios of edges that see it. (Of grey levels that need no clamping.)
TEST(StatisticsDistance, SeesTextureWithoutShapes) {
    const auto pale = [](const ImageSet& set) {
        return images_of(set.count, 32, [&](int64_t i, int64_t r, int64_t c, int64_t k) {
            return 127.5 + 0.3 * (double(image_at(set, i)[(r * 32 + c) * 3 + k]) - 127.5);
        });
    };
    const ImageSet data = pale(shapes(300, 1)), fresh = pale(shapes(60, 2));
    std::vector<double> scrambled(size_t(60 * 1024 * 3));
    for (size_t i = 0; i < 60; ++i) {
        Plane noise(1024);
        for (size_t p = 0; p < 1024; ++p) noise[p] = hash_uniform(5, i * 1024 + p) - 0.5;
        Plane phases = fourier(noise, -1);
        for (auto& value : phases) value /= std::abs(value);
        phases[0] = 1;
        for (size_t k = 0; k < 3; ++k) {
            Plane x(1024);
            for (size_t p = 0; p < 1024; ++p) x[p] = double(image_at(fresh, int64_t(i))[p * 3 + k]);
            x = fourier(x, -1);
            for (size_t p = 0; p < 1024; ++p) x[p] *= phases[p];
            x = fourier(x, 1);
            for (size_t p = 0; p < 1024; ++p) scrambled[(i * 1024 + p) * 3 + k] = x[p].real() / 1024;
        }
    }
    const ImageSet texture = images_of(60, 32, [&](int64_t i, int64_t r, int64_t c, int64_t k) {
        return scrambled[size_t(((i * 32 + r) * 32 + c) * 3 + k)];
    });
    const auto of_data = all_statistics(data), of_fresh = all_statistics(fresh), of_texture = all_statistics(texture);
    for (size_t i = 0; i < 60; ++i)
        for (size_t k = 0; k < 3; ++k)  // but for the rounding of each pixel
            EXPECT_NEAR(of_texture[i][k], of_fresh[i][k], 0.5 / 127.5) << i;
    EXPECT_LT(shift(of_texture, of_data, 3, 51), 2 * shift(of_fresh, of_data, 3, 51));
    EXPECT_GT(shift(of_texture, of_data, 51, 69), 10 * shift(of_fresh, of_data, 51, 69));
    const StatisticsDistance distance(data);
    EXPECT_GT(distance(texture), 5 * distance(fresh));
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
