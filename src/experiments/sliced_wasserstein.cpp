// See sliced_wasserstein.h.
#include "experiments/sliced_wasserstein.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <numeric>

#include "check.h"
#include "engine/tensor.h"
#include "hash.h"

namespace dualmcmc {
namespace {

constexpr int64_t min_side = 16;

// out(y,x,c) = sum_k filter[k] in(y, x+k-2, c) and then the same along y; (S,S,3), mirrored about the edge pixels.
std::vector<real> blur(const std::vector<real>& in, int64_t size) {
    static constexpr real filter[5] = {1 / 16.0f, 4 / 16.0f, 6 / 16.0f, 4 / 16.0f, 1 / 16.0f};
    const auto mirror = [size](int64_t i) { return i < 0 ? -i : i >= size ? 2 * size - 2 - i : i; };
    const auto pass = [&](const std::vector<real>& from, int64_t along, int64_t across) {
        std::vector<real> to(from.size(), 0.0f);
        for (int64_t line = 0; line < size; ++line)
            for (int64_t i = 0; i < size; ++i)
                for (int64_t k = 0; k < 5; ++k)
                    for (int64_t c = 0; c < 3; ++c)
                        to[line * across + i * along + c] +=
                            filter[k] * from[line * across + mirror(i + k - 2) * along + c];
        return to;
    };
    return pass(pass(in, 3, size * 3), size * 3, 3);
}

// (S,S,3) to (S/2,S/2,3): blurs and keeps every second pixel.
std::vector<real> down(const std::vector<real>& in, int64_t size) {
    const std::vector<real> blurred = blur(in, size);
    const int64_t half = size / 2;
    std::vector<real> out(static_cast<size_t>(half * half * 3));
    for (int64_t y = 0; y < half; ++y)
        for (int64_t x = 0; x < half; ++x)
            std::copy_n(&blurred[(2 * y * size + 2 * x) * 3], 3, &out[(y * half + x) * 3]);
    return out;
}

// (S/2,S/2,3) to (S,S,3): inserts zeros, blurs, and multiplies by 4 to keep the brightness.
std::vector<real> up(const std::vector<real>& in, int64_t size) {
    const int64_t half = size / 2;
    std::vector<real> sparse(static_cast<size_t>(size * size * 3), 0.0f);
    for (int64_t y = 0; y < half; ++y)
        for (int64_t x = 0; x < half; ++x)
            for (int64_t c = 0; c < 3; ++c) sparse[(2 * y * size + 2 * x) * 3 + c] = 4 * in[(y * half + x) * 3 + c];
    return blur(sparse, size);
}

// The patches of one level of one set, normalised.
struct Patches {
    int64_t count = 0;
    std::vector<real> values;  // (count, patch_values)
    real& at(int64_t patch, int64_t value) { return values[static_cast<size_t>(patch * patch_values + value)]; }
};

// Normalises each channel to mean 0 and variance 1 over all patches. `sums` (images,2,3) holds each image's sums of the
// values and of their squares. They are added in the order of the images, so the result does not depend on the threads.
void normalize(Patches& patches, const std::vector<double>& sums) {
    for (int64_t c = 0; c < 3; ++c) {
        double sum = 0, squares = 0;
        for (size_t i = c; i < sums.size(); i += 6) sum += sums[i], squares += sums[i + 3];
        const double values = static_cast<double>(patches.count * patch_side * patch_side), mean = sum / values;
        const double variance = squares / values - mean * mean;
        // If all images have one and the same colour, only subtract the mean.
        const double scale = variance > 1e-9 * (1 + mean * mean) ? 1 / std::sqrt(variance) : 1;
#pragma omp parallel for schedule(static)
        for (int64_t p = 0; p < patches.count; ++p)
            for (int64_t v = c; v < patch_values; v += 3)
                patches.at(p, v) = static_cast<real>((patches.at(p, v) - mean) * scale);
    }
}

Patches make_patches(const ImageSet& set, int64_t images, int64_t level, uint64_t seed, int64_t per_image) {
    Patches patches{images * per_image, {}};
    patches.values.resize(static_cast<size_t>(patches.count * patch_values));
    std::vector<double> sums(static_cast<size_t>(images * 6), 0.0);
    const int64_t size = set.size >> level;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < images; ++i) {
        const std::vector<real> band = laplacian_pyramid(image_at(set, i), set.size)[level];
        for (int64_t p = i * per_image; p < (i + 1) * per_image; ++p) {
            const auto [row, column] = patch_corner(seed, level, p, size);
            for (int64_t v = 0; v < patch_values; ++v) {
                const int64_t y = row + v / (patch_side * 3), x = column + v / 3 % patch_side, c = v % 3;
                const real value = band[(y * size + x) * 3 + c];
                patches.at(p, v) = value;
                sums[i * 6 + c] += value;
                sums[i * 6 + 3 + c] += double{value} * value;
            }
        }
    }
    normalize(patches, sums);
    return patches;
}

// Directions per matrix product.
constexpr int64_t group = 64;

// Projects all patches on directions (patch_values, group): (group, count), in float32, which is sorted fastest. The
// GEMM is a 1×1 convolution.
std::vector<float> project(const Tensor& patches, const Tensor& directions) {
    const int64_t count = patches.dim(0);
    Tensor product({count, group});
    const ExactConvolutions exact;
    backend().conv2d(product.data(), patches.data(), directions.data(), nullptr, nullptr,
                     {count, 1, 1, patch_values, group, 1, 1, 0});
    const std::vector<real> by_patch = product.to_host();
    std::vector<float> by_direction(by_patch.size());
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < count; ++p)
        for (int64_t d = 0; d < group; ++d) by_direction[d * count + p] = float(by_patch[p * group + d]);
    return by_direction;
}

// Sorts finite floats by a radix sort of three passes of 11 bits, here about ten times as fast as std::sort.
void radix_sort(float* values, int64_t count, std::vector<uint32_t>& buffer) {
    constexpr uint32_t buckets = 2048, sign = 0x80000000u;
    buffer.resize(static_cast<size_t>(2 * count));
    uint32_t *from = buffer.data(), *to = from + count;
    std::vector<uint32_t> starts(3 * buckets, 0);
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t bits = std::bit_cast<uint32_t>(values[i]);
        from[i] = bits & sign ? ~bits : bits | sign;  // unsigned integers in the order of the floats
        for (uint32_t pass = 0; pass < 3; ++pass) ++starts[pass * buckets + (from[i] >> (11 * pass)) % buckets];
    }
    for (uint32_t pass = 0; pass < 3; ++pass) {
        uint32_t* start = starts.data() + pass * buckets;
        std::exclusive_scan(start, start + buckets, start, 0u);
        for (int64_t i = 0; i < count; ++i) to[start[(from[i] >> (11 * pass)) % buckets]++] = from[i];
        std::swap(from, to);
    }
    for (int64_t i = 0; i < count; ++i) values[i] = std::bit_cast<float>(from[i] & sign ? from[i] & ~sign : ~from[i]);
}

// Writes to `distances` the mean |difference| of the sorted projections on each of the directions first …
// first + wanted - 1, at most `group` of them.
void group_distances(const Tensor& a, const Tensor& b, uint64_t seed, int64_t level, int64_t first, int64_t wanted,
                     double* distances) {
    std::vector<real> values(patch_values * group);
    for (int64_t d = 0; d < group; ++d) {
        const auto direction = projection_direction(seed, level, first + d);
        for (int64_t v = 0; v < patch_values; ++v) values[v * group + d] = direction[v];
    }
    const Tensor directions = Tensor::from_host({patch_values, group}, values);
    std::vector<float> projections[2] = {project(a, directions), project(b, directions)};
    const int64_t count = a.dim(0);
#pragma omp parallel for schedule(dynamic)
    for (int64_t d = 0; d < wanted; ++d) {
        float *x = projections[0].data() + d * count, *y = projections[1].data() + d * count;
        std::vector<uint32_t> buffer;
        radix_sort(x, count, buffer);
        radix_sort(y, count, buffer);
        double sum = 0;
        for (int64_t i = 0; i < count; ++i) sum += std::abs(double{x[i]} - y[i]);
        distances[d] = sum / static_cast<double>(count);
    }
}

}  // namespace

std::vector<std::vector<real>> laplacian_pyramid(const uint8_t* image, int64_t size) {
    std::vector<std::vector<real>> levels(1, std::vector<real>(image, image + size * size * 3));
    for (int64_t side = size; side / 2 >= min_side; side /= 2) {
        CHECK_EQ(side % 2, 0);
        levels.push_back(down(levels.back(), side));
        const std::vector<real> coarse = up(levels.back(), side);
        std::vector<real>& fine = levels[levels.size() - 2];
        for (size_t i = 0; i < fine.size(); ++i) fine[i] -= coarse[i];
    }
    return levels;
}

std::array<int64_t, 2> patch_corner(uint64_t seed, int64_t level, int64_t index, int64_t size) {
    const uint64_t bits = hash64(hash64(seed, static_cast<uint64_t>(2 * level)), static_cast<uint64_t>(index));
    const uint64_t positions = static_cast<uint64_t>(size - patch_side + 1);
    return {static_cast<int64_t>((bits >> 32) % positions), static_cast<int64_t>((bits & 0xFFFFFFFFu) % positions)};
}

std::array<real, patch_values> projection_direction(uint64_t seed, int64_t level, int64_t index) {
    const uint64_t key = hash64(hash64(seed, static_cast<uint64_t>(2 * level + 1)), static_cast<uint64_t>(index));
    std::array<double, patch_values + 1> normal;
    for (uint64_t v = 0; v < normal.size(); v += 2) {  // Box-Muller
        const double radius = std::sqrt(-2 * std::log(1 - hash_uniform(key, v)));
        const double angle = 2 * std::numbers::pi * hash_uniform(key, v + 1);
        normal[v] = radius * std::cos(angle);
        normal[v + 1] = radius * std::sin(angle);
    }
    const double norm = std::sqrt(std::inner_product(normal.begin(), normal.end() - 1, normal.begin(), 0.0));
    std::array<real, patch_values> direction;
    for (int64_t v = 0; v < patch_values; ++v) direction[v] = static_cast<real>(normal[v] / norm);
    return direction;
}

SlicedWasserstein sliced_wasserstein(const ImageSet& a, const ImageSet& b, uint64_t seed,
                                     const SlicedWassersteinSettings& settings) {
    CHECK_EQ(a.size, b.size);
    CHECK_GE(a.size, min_side);
    const int64_t images = std::min(a.count, b.count), all = settings.directions_per_repeat * settings.repeats;
    CHECK_GT(images * settings.patches_per_image, 0);
    CHECK_GT(all, 0);
    SlicedWasserstein result;
    for (int64_t level = 0; (a.size >> level) >= min_side; ++level) {
        const auto patches = [&](const ImageSet& set) {
            const Patches made = make_patches(set, images, level, seed, settings.patches_per_image);
            return Tensor::from_host({made.count, patch_values}, made.values);
        };
        const Tensor patches_a = patches(a), patches_b = patches(b);
        std::vector<double> distances(static_cast<size_t>(all));
        for (int64_t first = 0; first < all; first += group)
            group_distances(patches_a, patches_b, seed, level, first, std::min(group, all - first), &distances[first]);
        const double sum = std::accumulate(distances.begin(), distances.end(), 0.0);
        result.per_level.push_back(1e3 * sum / static_cast<double>(all));
    }
    const double sum = std::accumulate(result.per_level.begin(), result.per_level.end(), 0.0);
    result.mean = sum / static_cast<double>(result.per_level.size());
    return result;
}

}  // namespace dualmcmc
