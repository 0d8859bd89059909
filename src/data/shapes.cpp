// The built-in data set `shapes`: see shapes.h. Lengths are fractions of the image's width; the origin is its centre
// and y points down. Colours are in [0, 1].
#include "data/shapes.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "hash.h"

namespace dualmcmc {
namespace {

using Colour = std::array<double, 3>;

enum Kind { disc, square, triangle, ring, kinds };

constexpr Colour palette[] = {{0.90, 0.16, 0.18}, {0.98, 0.78, 0.10}, {0.13, 0.70, 0.30},
                              {0.10, 0.68, 0.86}, {0.20, 0.30, 0.88}, {0.80, 0.22, 0.74}};

// All that determines an image: few enough parameters for a small latent vector.
struct Scene {
    Kind kind;
    Colour colour;
    double centre_x, centre_y, radius;
    double base, slope_x, slope_y;  // background brightness: base + slope . (x, y)
};

Scene make_scene(uint64_t seed, int64_t index) {
    const uint64_t key = hash64(seed, static_cast<uint64_t>(index));
    uint64_t counter = 0;
    const auto between = [&](double low, double high) { return low + (high - low) * hash_uniform(key, counter++); };
    Scene scene;
    scene.kind = static_cast<Kind>(hash64(key, counter++) % kinds);
    scene.colour = palette[hash64(key, counter++) % std::size(palette)];
    scene.centre_x = between(-0.11, 0.11);
    scene.centre_y = between(-0.11, 0.11);
    scene.radius = between(0.27, 0.35);
    const bool dark = between(0, 1) < 0.5;
    scene.base = dark ? between(0.14, 0.24) : between(0.76, 0.86);
    scene.slope_x = between(-0.15, 0.15);
    scene.slope_y = between(0.05, 0.2);
    return scene;
}

// Signed distance of (x, y), relative to the shape's centre, to its edge; negative inside. The four kinds are scaled to
// look equally large for the same radius.
double distance_to_edge(Kind kind, double x, double y, double radius) {
    const double from_centre = std::sqrt(x * x + y * y);
    if (kind == disc) return from_centre - radius;
    if (kind == ring) return std::abs(from_centre - 0.78 * radius) - 0.27 * radius;
    if (kind == square) return std::max(std::abs(x), std::abs(y)) - 0.87 * radius;
    // Triangle: two slanted sides with unit normals (+-2, -1) / sqrt(5), and the base.
    const double slanted = (2 * std::abs(x) - (y + 1.15 * radius)) / std::sqrt(5.0);
    return std::max(slanted, y - 0.8 * radius);
}

}  // namespace

void draw_shape(uint64_t seed, int64_t index, int64_t size, uint8_t* image) {
    const Scene scene = make_scene(seed, index);
    const double pixel = 1.0 / static_cast<double>(size);
    for (int64_t row = 0; row < size; ++row)
        for (int64_t column = 0; column < size; ++column) {
            const double x = (static_cast<double>(column) + 0.5) * pixel - 0.5;
            const double y = (static_cast<double>(row) + 0.5) * pixel - 0.5;
            const double dx = x - scene.centre_x, dy = y - scene.centre_y;
            const double distance = distance_to_edge(scene.kind, dx, dy, scene.radius);
            const double cover = std::clamp(0.5 - distance / pixel, 0.0, 1.0);  // covered fraction of the pixel
            const double light = 1.0 - 0.22 * (dx + dy) / scene.radius;         // from the upper left
            const double shadow = 1.0 - 0.2 * std::clamp(1.0 - distance / 0.1, 0.0, 1.0);  // soft, around the shape
            const double ground = (scene.base + scene.slope_x * x + scene.slope_y * y) * shadow;
            for (int c = 0; c < 3; ++c) {
                const double tint = c == 2 ? 1.06 : 1.0;  // a slightly bluish grey
                const double value = cover * scene.colour[c] * light + (1.0 - cover) * ground * tint;
                *image++ = static_cast<uint8_t>(std::clamp(value, 0.0, 1.0) * 255.0 + 0.5);
            }
        }
}

}  // namespace dualmcmc
