// See statistics_distance.h.
#include "experiments/statistics_distance.h"

#include <array>
#include <bit>
#include <cmath>
#include <complex>
#include <numbers>

#include "check.h"

namespace dualmcmc {
namespace {

using std::numbers::pi;
constexpr int64_t scales = 3;
// Variance of the rounding to 256 levels, in pixels of [-1, 1]. It keeps the logarithms of plain images finite.
constexpr double rounding = (2 / 255.0) * (2 / 255.0) / 12;

// One colour of an image, (side, side), in [-1, 1].
struct Plane {
    int64_t side;
    std::vector<double> values;
    double at(int64_t row, int64_t column) const { return values[size_t(row * side + column)]; }
    double mean() const {
        double sum = 0;
        for (const double value : values) sum += value;
        return sum / double(values.size());
    }
};

Plane plane_of(const uint8_t* image, int64_t size, int64_t colour) {
    Plane plane{size, {}};
    for (int64_t p = 0; p < size * size; ++p) plane.values.push_back(image[p * 3 + colour] / 127.5 - 1);
    return plane;
}

// ---- power --------------------------------------------------------------------------------------

using Complex = std::complex<double>;

// The discrete Fourier transform of n values at `first`, `stride` apart, in place; n is a power of two (Cooley and
// Tukey 1965).
void fourier_transform(Complex* first, int64_t n, int64_t stride) {
    if (n == 1) return;
    fourier_transform(first, n / 2, 2 * stride);
    fourier_transform(first + stride, n / 2, 2 * stride);
    std::vector<Complex> out(static_cast<size_t>(n));
    for (int64_t k = 0; k < n / 2; ++k) {
        const Complex even = first[2 * k * stride],
                      odd = std::polar(1.0, -2 * pi * double(k) / double(n)) * first[(2 * k + 1) * stride];
        out[size_t(k)] = even + odd;
        out[size_t(k + n / 2)] = even - odd;
    }
    for (int64_t k = 0; k < n; ++k) first[k * stride] = out[size_t(k)];
}

// log of the mean power at the frequencies whose distance from 0 rounds to 1, 2, …, S/2 cycles an image. A window of
// sin² makes the edges meet.
std::vector<double> log_powers(const Plane& plane) {
    const int64_t side = plane.side;
    std::vector<double> window;
    double squares = 0;
    for (int64_t i = 0; i < side; ++i) {
        const double sine = std::sin(pi * double(i + 1) / double(side + 1));
        window.push_back(sine * sine);
        squares += window.back() * window.back();
    }
    const double mean = plane.mean();
    std::vector<Complex> spectrum;
    for (int64_t row = 0; row < side; ++row)
        for (int64_t column = 0; column < side; ++column)
            spectrum.push_back((plane.at(row, column) - mean) * window[size_t(row)] * window[size_t(column)]);
    for (int64_t i = 0; i < side; ++i) fourier_transform(spectrum.data() + i * side, side, 1);
    for (int64_t i = 0; i < side; ++i) fourier_transform(spectrum.data() + i, side, side);

    std::vector<double> power(size_t(side / 2), 0.0), count = power;
    for (int64_t row = 0; row < side; ++row)
        for (int64_t column = 0; column < side; ++column) {
            const double y = double(std::min(row, side - row)), x = double(std::min(column, side - column));
            const int64_t radius = std::lround(std::hypot(x, y));
            if (radius < 1 || radius > side / 2) continue;
            power[size_t(radius - 1)] += std::norm(spectrum[size_t(row * side + column)]);
            ++count[size_t(radius - 1)];
        }
    for (size_t r = 0; r < power.size(); ++r) power[r] = std::log(power[r] / count[r] + rounding * squares * squares);
    return power;
}

// ---- edges --------------------------------------------------------------------------------------

// log(root mean square / mean size) of the differences of pixels that are (down, right) apart.
double edge_sparsity(const Plane& plane, int64_t down, int64_t right) {
    double squares = 0, sizes = 0;
    for (int64_t row = 0; row + down < plane.side; ++row)
        for (int64_t column = 0; column + right < plane.side; ++column) {
            const double difference = plane.at(row + down, column + right) - plane.at(row, column);
            squares += difference * difference;
            sizes += std::abs(difference);
        }
    const double count = double((plane.side - down) * (plane.side - right));
    return std::log(std::sqrt(squares / count + 2 * rounding) / (sizes / count + std::sqrt(rounding)));
}

// The means of 2×2 pixels.
Plane halved(const Plane& plane) {
    Plane out{plane.side / 2, {}};
    for (int64_t row = 0; row < plane.side; row += 2)
        for (int64_t column = 0; column < plane.side; column += 2)
            out.values.push_back((plane.at(row, column) + plane.at(row, column + 1) + plane.at(row + 1, column) +
                                  plane.at(row + 1, column + 1)) /
                                 4);
    return out;
}

// ---- moments ------------------------------------------------------------------------------------

// Mean and deviation over the images of each statistic.
std::array<std::vector<double>, 2> moments(const ImageSet& images) {
    CHECK_GE(images.count, 2);
    std::vector<std::vector<double>> rows(static_cast<size_t>(images.count));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < images.count; ++i) rows[size_t(i)] = image_statistics(image_at(images, i), images.size);
    std::array<std::vector<double>, 2> out;
    for (size_t k = 0; k < rows[0].size(); ++k) {
        double sum = 0, squares = 0;
        for (const auto& row : rows) sum += row[k];
        const double mean = sum / double(images.count);
        for (const auto& row : rows) squares += (row[k] - mean) * (row[k] - mean);
        out[0].push_back(mean);
        out[1].push_back(std::sqrt(squares / double(images.count)));
    }
    return out;
}

}  // namespace

std::vector<double> image_statistics(const uint8_t* image, int64_t size) {
    std::array<Plane, 3> colours{plane_of(image, size, 0), plane_of(image, size, 1), plane_of(image, size, 2)};
    std::vector<double> out;
    for (const Plane& colour : colours) out.push_back(colour.mean());
    std::array<std::vector<double>, 3> powers;
    for (size_t c = 0; c < 3; ++c) powers[c] = log_powers(colours[c]);
    for (size_t r = 0; r < powers[0].size(); ++r)
        for (const auto& power : powers) out.push_back(power[r]);
    for (int64_t scale = 0; scale < scales; ++scale) {
        for (const auto& [down, right] : {std::pair(1, 0), std::pair(0, 1)})
            for (const Plane& colour : colours) out.push_back(edge_sparsity(colour, down, right));
        for (Plane& colour : colours) colour = halved(colour);
    }
    return out;
}

StatisticsDistance::StatisticsDistance(const ImageSet& data) : size_(data.size) {
    CHECK(data.size >= 16 && std::has_single_bit(uint64_t(data.size)));
    auto [mean, deviation] = moments(spread_images(data, distance_data_images));
    mean_ = std::move(mean);
    deviation_ = std::move(deviation);
}

double StatisticsDistance::operator()(const ImageSet& images) const {
    CHECK_EQ(images.size, size_);
    const auto [mean, deviation] = moments(images);
    double sum = 0;
    int64_t counted = 0;
    for (size_t k = 0; k < mean.size(); ++k) {
        // Rounding alone moves a statistic that does not vary.
        if (!(deviation_[k] > 1e-9)) continue;
        const double shift = mean[k] - mean_[k],
                     variances = deviation[k] * deviation[k] + deviation_[k] * deviation_[k];
        sum += 1 - std::sqrt(2 * deviation[k] * deviation_[k] / variances) * std::exp(-shift * shift / (4 * variances));
        ++counted;
    }
    return counted > 0 ? sum / double(counted) : 0;
}

}  // namespace dualmcmc
