// Sets of 8-bit RGB images in memory, to and from the values that the networks see, and as grids in PNG files.
// No data set is read here (data/dataset.h).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace dualmcmc {

struct ImageSet {
    int64_t count = 0;            // N
    int64_t size = 0;             // S, the side
    std::vector<uint8_t> pixels;  // (N,S,S,3)
    std::string name;             // for people: "CIFAR-10 train"
};

// One image of a set, (S,S,3).
const uint8_t* image_at(const ImageSet& set, int64_t index);

// The images set[indices] as out, (B,S,S,3), pixel/255*2 - 1 in [-1, 1]; image b is mirrored left to right where
// flip[b]. An empty `flip` mirrors none.
void gather_batch(const ImageSet& set, const std::vector<int64_t>& indices, const std::vector<bool>& flip, float* out);

// Adds the images of `more`, of the same side (or any, to an empty set).
void append_images(ImageSet& set, const ImageSet& more);

// The first `count` images of a set.
ImageSet first_images(const ImageSet& set, int64_t count);

// Images from x, (N,S,S,3) in [-1, 1]: clamped and rounded to the nearest of 256 levels; NaN becomes black.
ImageSet from_floats(const float* x, int64_t count, int64_t size);

// Writes panels side by side as one PNG. A panel shows all images of its set, row by row in `columns` columns; all sets
// have the same image side. Each pixel becomes scale x scale; white gaps of `gap` pixels (after scaling)
// part the images, gaps of 5 * gap the panels.
void write_grid(const std::string& path, const std::vector<const ImageSet*>& panels, int64_t columns, int64_t scale = 1,
                int64_t gap = 2);

}  // namespace dualmcmc
