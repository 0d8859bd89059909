// The subset of NumPy's .npy format that images need: uint8 in C order.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "formats/files.h"

namespace dualmcmc {

// A .npy file of images, (count, height, width, 3) uint8, read one image at a time: it may be larger than memory.
class NpyImages {
public:
    // Opens the file and reads its header (versions 1 to 3), in every spelling that NumPy reads. Fails, naming the
    // file, if it is missing, truncated or not .npy (naming what it is); and if the array is not uint8 of shape (N, H,
    // W, 3) in C order, with the command that converts it.
    explicit NpyImages(const std::string& path);
    int64_t count = 0, height = 0, width = 0;
    // Copies the next image to `image`, (height, width, 3). May be called `count` times.
    void read_next(uint8_t* image);

private:
    InputFile input_;
};

// Writes a .npy file of images incrementally, so that they need not fit in memory together. The file appears on
// commit(), complete or not at all.
class NpyWriter {
public:
    explicit NpyWriter(const std::string& path);
    // Appends `count` images, (count, size, size, 3); all calls must use the same size.
    void write(const uint8_t* images, int64_t count, int64_t size);
    void commit();

private:
    AtomicFile output_;
    int64_t count_ = 0, size_ = 0;
};

// Writes a uint8 array of any shape in C order, complete or not at all.
void write_npy(const std::string& path, const std::vector<int64_t>& shape, const uint8_t* values);

}  // namespace dualmcmc
