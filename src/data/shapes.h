// The built-in data set `shapes`: one large disc, square, triangle or ring on a softly shaded background, a pure
// function of (seed, index). It needs no download and can be learnt in minutes.
#pragma once
#include <cstdint>

namespace dualmcmc {

// Draws image `index` of the set defined by `seed` into image, (size, size, 3).
void draw_shape(uint64_t seed, int64_t index, int64_t size, uint8_t* image);

}  // namespace dualmcmc
