// Crops and resizes images: see resize.h.
#include "data/resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace dualmcmc {
namespace {

// ---- CelebA: PIL's resize, bit for bit: fixed-point weights; a horizontal pass rounded to 8 bits, then a vertical
// one.

constexpr int64_t crop_left = 15, crop_top = 40, crop_side = 148;
constexpr int weight_bits = 22;  // PIL: 32 - 8 - 2

// One output pixel is the weighted mean of the source pixels first, first + 1, ...
struct ResizeTaps {
    int64_t first = 0;
    std::vector<int32_t> weights;
};

// Bilinear with antialiasing: a triangle filter, 2 * scale source pixels wide, centred on each output pixel.
std::vector<ResizeTaps> triangle_taps(int64_t from, int64_t to) {
    const double scale = static_cast<double>(from) / static_cast<double>(to), support = std::max(scale, 1.0);
    std::vector<ResizeTaps> result(static_cast<size_t>(to));
    for (int64_t i = 0; i < to; ++i) {
        const double centre = (static_cast<double>(i) + 0.5) * scale;
        const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
        const int64_t last = std::min(from, static_cast<int64_t>(centre + support + 0.5));
        std::vector<double> weights;
        double sum = 0;
        for (int64_t j = first; j < last; ++j) {
            const double distance = std::abs(static_cast<double>(j) - centre + 0.5) / support;
            weights.push_back(std::max(0.0, 1.0 - distance));
            sum += weights.back();
        }
        result[i].first = first;
        for (double w : weights) result[i].weights.push_back(static_cast<int32_t>(w / sum * (1 << weight_bits) + 0.5));
    }
    return result;
}

// sum_j weight_j * from[(first + j) * stride], rounded and clamped to 8 bits.
uint8_t apply_taps(const ResizeTaps& taps, const uint8_t* from, int64_t stride) {
    int32_t sum = 1 << (weight_bits - 1);
    from += taps.first * stride;
    for (int32_t weight : taps.weights) sum += weight * *from, from += stride;
    return static_cast<uint8_t>(std::clamp(sum >> weight_bits, 0, 255));
}

}  // namespace

void prepare_celeba(const uint8_t* image, uint8_t* out) {
    static const std::vector<ResizeTaps> taps = triangle_taps(crop_side, celeba_size);
    std::vector<uint8_t> narrow(crop_side * celeba_size * 3);  // (148,64,3)
    for (int64_t row = 0; row < crop_side; ++row)
        for (int64_t i = 0; i < celeba_size * 3; ++i)
            narrow[row * celeba_size * 3 + i] =
                apply_taps(taps[i / 3], image + ((crop_top + row) * celeba_width + crop_left) * 3 + i % 3, 3);
    for (int64_t row = 0; row < celeba_size; ++row)
        for (int64_t i = 0; i < celeba_size * 3; ++i)
            out[row * celeba_size * 3 + i] = apply_taps(taps[row], narrow.data() + i, celeba_size * 3);
}

// ---- the mean over areas --------------------------------------------------------------------------

namespace {

// In units of 1 / to source pixels, output pixel i covers [i from, (i + 1) from) and source pixel j [j to, (j + 1) to):
// calls add(i, j, overlap) for each pair that overlaps. The overlaps of an output pixel sum to `from`.
template <class Add>
void for_each_overlap(int64_t from, int64_t to, Add add) {
    for (int64_t i = 0, j = 0; i < to; ++i)
        for (; j < from; ++j) {
            const int64_t overlap = std::min((i + 1) * from, (j + 1) * to) - std::max(i * from, j * to);
            if (overlap > 0) add(i, j, overlap);
            if ((j + 1) * to > (i + 1) * from) break;
        }
}

}  // namespace

void crop_and_average(const uint8_t* image, int64_t height, int64_t width, int64_t size, uint8_t* out) {
    const int64_t side = std::min(height, width), top = (height - side) / 2, left = (width - side) / 2;
    // Each row of the crop, (size, 3), times `side`; then their sums, times side squared: at most 2^8 2^27 2^27 / 2^0.
    std::vector<uint64_t> row(size_t(size * 3)), sums(size_t(size * size * 3), 0);
    int64_t averaged = -1;
    for_each_overlap(side, size, [&](int64_t i, int64_t j, int64_t height_part) {
        if (j != averaged) {
            std::fill(row.begin(), row.end(), 0);
            const uint8_t* const pixels = image + ((top + j) * width + left) * 3;
            for_each_overlap(side, size, [&](int64_t k, int64_t l, int64_t part) {
                for (int64_t c = 0; c < 3; ++c) row[size_t(k * 3 + c)] += uint64_t(part) * pixels[l * 3 + c];
            });
            averaged = j;
        }
        for (int64_t k = 0; k < size * 3; ++k) sums[size_t(i * size * 3 + k)] += uint64_t(height_part) * row[size_t(k)];
    });
    const uint64_t area = uint64_t(side) * uint64_t(side);
    std::transform(sums.begin(), sums.end(), out, [&](uint64_t sum) { return uint8_t((sum + area / 2) / area); });
}

}  // namespace dualmcmc
