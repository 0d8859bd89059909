// Sets of 8-bit RGB images in memory: conversion to and from the networks' values, and grids of images as PNG files.
// Data sets are read in data/dataset.h.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "real.h"

namespace dualmcmc {

struct ImageSet {
    int64_t count = 0;            // N
    int64_t size = 0;             // S, height and width
    std::vector<uint8_t> pixels;  // (N,S,S,3)
    std::string name;             // for messages, e.g. "CIFAR-10 train"
};

// A set of black images. Fails if they do not fit into memory.
ImageSet empty_images(const std::string& name, int64_t count, int64_t size);

// One image of a set, (S,S,3).
const uint8_t* image_at(const ImageSet& set, int64_t index);

// Writes the images set[indices] to out, (B,S,S,3), as pixel/255*2 - 1 in [-1, 1]. Mirrors image b left to right if
// flip[b]; an empty `flip` mirrors none.
void gather_batch(const ImageSet& set, const std::vector<int64_t>& indices, const std::vector<bool>& flip, real* out);

// Appends the images of `more`, which must have the same size unless `set` is empty.
void append_images(ImageSet& set, const ImageSet& more);

// The first `count` images of a set, or all if it has fewer.
ImageSet first_images(const ImageSet& set, int64_t count);

// `count` images at equal distances in a set, or all if it has fewer: of a set sorted by class, images of every class.
ImageSet spread_images(const ImageSet& set, int64_t count);

// Images from x, (N,S,S,3) in [-1, 1]: clamped and rounded to the nearest of 256 levels; NaN becomes black.
ImageSet from_floats(const real* x, int64_t count, int64_t size);

// Writes panels side by side into one PNG. A panel shows all images of its set, row by row in `columns` columns; all
// sets must have the same image size. Each pixel is enlarged to scale x scale. White gaps of `gap` pixels (after
// scaling) separate images, gaps of 5 * gap panels.
void write_grid(const std::string& path, const std::vector<const ImageSet*>& panels, int64_t columns, int64_t scale = 1,
                int64_t gap = 2);

}  // namespace dualmcmc
