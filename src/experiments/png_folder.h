// A folder of 000000.png, 000001.png, …: what torch-fidelity, pytorch-fid and clean-fid read. They count every picture
// in it, so it must hold the images that are meant and no others.
#pragma once
#include <string>

#include "data/images.h"

namespace dualmcmc {

class PngFolder {
public:
    // The folder that is to hold `count` images; made where it is missing. Images 0 … count - 1 of an earlier,
    // interrupted run may be there; fails, naming it, where there is anything else.
    PngFolder(const std::string& path, int64_t count);
    // How many images, from the first on, were there whole.
    int64_t complete() const { return complete_; }
    // Writes the images first, first + 1, …, on all threads; those beyond `count` are left out. Each file appears
    // complete or not at all.
    void write(int64_t first, const ImageSet& images) const;
    // Fails unless there are exactly `count` images, each whole.
    void check() const;

private:
    std::string file(int64_t index) const;
    std::string path_;
    int64_t count_, complete_ = 0;
};

}  // namespace dualmcmc
