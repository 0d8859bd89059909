// NumPy's .npy format, as far as images need it: uint8, C order. Nothing else of the format is read or written.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "formats/files.h"

namespace dualmcmc {

// A .npy file of images, (count, height, width, 3) uint8, read one image at a time: such a file may exceed the memory.
class NpyImages {
public:
    // Opens the file and reads its header (versions 1 to 3). Fails, naming the file, where it is missing, truncated,
    // not .npy, not uint8, in Fortran order, or not of the shape (N, H, W, 3).
    explicit NpyImages(const std::string& path);
    int64_t count = 0, height = 0, width = 0;
    // Copies the next image, (height, width, 3), to `image`; at most `count` times.
    void read_next(uint8_t* image);

private:
    InputFile input_;
};

// Writes such a file image by image: images must not all be held at once. It appears with commit(), complete or not at
// all.
class NpyWriter {
public:
    explicit NpyWriter(const std::string& path);
    // Adds `count` images of side `size`, (count, size, size, 3); the side is the same every time.
    void write(const uint8_t* images, int64_t count, int64_t size);
    void commit();

private:
    AtomicFile output_;
    int64_t count_ = 0, size_ = 0;
};

// Writes a uint8 array of any shape in C order, complete or not at all.
void write_npy(const std::string& path, const std::vector<int64_t>& shape, const uint8_t* values);

}  // namespace dualmcmc
