// The sliced Wasserstein distance between two sets of images (Karras et al. 2018, "Progressive growing of GANs",
// section 5, and their metrics/sliced_wasserstein.py): small where the sets look alike at every scale. For each level
// of a Laplacian pyramid, from the full side down to 16: 128 patches of 7x7x3 from every image, each colour channel
// brought to mean 0 and variance 1 over the set, projected on 512 random directions, sorted; 1000 times the mean
// |difference|.
//
// One thing differs from their program: both sets take their patches at the same (random) places, which makes the
// distance of a set to itself 0 and the distance symmetric. This is not the FID: it needs no trained network.
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
    int64_t directions_per_repeat = 128;  // their numbers: the result is a mean over 4 * 128 directions
    int64_t repeats = 4;
};

// The distance between the first n images of a and of b, n the smaller count. Same sides, at least 16; the same seed
// gives the same number for any number of threads. Takes 150 kB of memory per image.
SlicedWasserstein sliced_wasserstein(const ImageSet& a, const ImageSet& b, uint64_t seed,
                                     const SlicedWassersteinSettings& settings = {});

// Its pieces, for the tests:

// The levels of an image's Laplacian pyramid: image, (S,S,3) in 0..255, to (S,S,3), (S/2,S/2,3), ... Binomial filter
// [1 4 6 4 1]/16 on both axes, mirrored at the edge. Level i = G_i - up(G_i+1), the last G itself; G_i+1 = down(G_i).
std::vector<std::vector<float>> laplacian_pyramid(const uint8_t* image, int64_t size);

// Upper left corner (row, column) of patch `index` of a set, at pyramid level `level` of side `size`.
std::array<int64_t, 2> patch_corner(uint64_t seed, int64_t level, int64_t index, int64_t size);

// Direction `index` of a level: uniform on the unit sphere; its components belong to the patch's values (7,7,3).
std::array<float, patch_values> projection_direction(uint64_t seed, int64_t level, int64_t index);

}  // namespace dualmcmc
