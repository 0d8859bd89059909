// A folder of 000000.png, 000001.png, …, the format that torch-fidelity, pytorch-fid and clean-fid read. They use
// every picture in the folder, so it must hold exactly the intended images.
#pragma once
#include <string>

#include "data/images.h"

namespace dualmcmc {

class PngFolder {
public:
    // A folder for `count` images; created if it is missing. It may hold some of the images 0 … count - 1 from an
    // interrupted run; fails, naming the file, if it holds anything else.
    PngFolder(const std::string& path, int64_t count);
    // How many leading images were complete when the folder was opened.
    int64_t complete() const { return complete_; }
    // Writes the images first, first + 1, … on all threads and ignores those from `count` on. Each file appears
    // complete or not at all.
    void write(int64_t first, const ImageSet& images) const;
    // Fails unless the folder holds exactly `count` images, all complete.
    void check() const;

private:
    std::string file(int64_t index) const;
    std::string path_;
    int64_t count_, complete_ = 0;
};

}  // namespace dualmcmc
