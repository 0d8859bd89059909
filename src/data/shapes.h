// The built-in image set `shapes`: one large disc, square, triangle or ring on a softly shaded background, drawn by a
// pure function of (seed, index). It needs no download and is simple enough to be learnt in minutes.
#pragma once
#include <cstdint>

namespace dualmcmc {

// Draws image `index` of the set that belongs to `seed`: image, (size, size, 3).
void draw_shape(uint64_t seed, int64_t index, int64_t size, uint8_t* image);

}  // namespace dualmcmc
