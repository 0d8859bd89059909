// The sliced Wasserstein distance between two sets of images (Karras et al. 2018, "Progressive growing of GANs",
// section 5, and their metrics/sliced_wasserstein.py): small if the sets look alike at every scale. For each level of a
// Laplacian pyramid, from the full side down to 16: take 128 patches of 7x7x3 from every image, normalise each colour
// channel to mean 0 and variance 1 over the set, project on 512 random directions, sort; the distance is 1000 times the
// mean |difference|.
//
// One difference from their program: both sets take their patches at the same (random) positions, so the distance is
// symmetric, and 0 from a set to itself. This is not the FID: it needs no trained network.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "data/images.h"

namespace dualmcmc {

constexpr int64_t patch_side = 7, patch_values = patch_side * patch_side * 3;

struct SlicedWasserstein {
    std::vector<double> per_level;  // from the full side (fine detail) down to 16 (the low-pass rest)
    double mean = 0;                // over the levels
};

struct SlicedWassersteinSettings {
    int64_t patches_per_image = 128;
    int64_t directions_per_repeat = 128;  // as in their program: the mean over 4 * 128 directions
    int64_t repeats = 4;
};

// The distance between the first n images of a and of b, where n is the smaller count. Both must have the same side, at
// least 16. The result depends on the seed but not on the number of threads. Takes 150 kB of memory per image.
SlicedWasserstein sliced_wasserstein(const ImageSet& a, const ImageSet& b, uint64_t seed,
                                     const SlicedWassersteinSettings& settings = {});

// Parts of it, exposed for the tests:

// The levels (S,S,3), (S/2,S/2,3), ... of the Laplacian pyramid of an image, (S,S,3) in 0..255. Binomial filter
// [1 4 6 4 1]/16 on both axes, mirrored at the edges. Level i is G_i - up(G_i+1), the last one G itself;
// G_i+1 = down(G_i).
std::vector<std::vector<real>> laplacian_pyramid(const uint8_t* image, int64_t size);

// Upper left corner (row, column) of patch `index` of a set, at pyramid level `level` of side `size`.
std::array<int64_t, 2> patch_corner(uint64_t seed, int64_t level, int64_t index, int64_t size);

// Direction `index` of a level: uniform on the unit sphere, components in the order of a patch's values (7,7,3).
std::array<real, patch_values> projection_direction(uint64_t seed, int64_t level, int64_t index);

}  // namespace dualmcmc
