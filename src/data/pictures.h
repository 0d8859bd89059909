// Reads folders of PNG and JPEG pictures as image sets.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/images.h"

namespace dualmcmc {

// The pictures in a folder and its sub-folders, by their names' endings (has_picture_name), sorted by path. Links are
// followed, each folder is visited once; hidden files and folders are left out, and so is the overview samples.png
// beside a samples.txt, which `sample` writes. Fails if there is none, naming what the folder holds instead.
std::vector<std::string> find_pictures(const std::string& folder);

// A set of pictures, and the indices in `files` of those that could be read, in the same order.
struct PictureSet {
    ImageSet images;
    std::vector<int64_t> indices;
};

// Decodes these files of `folder`, several at a time, and brings them to size x size: with size 64 pictures of 178x218
// by prepare_celeba, all others by crop_and_average. Shows progress on stderr and prints a summary. Names the files
// that cannot be read and leaves them out; fails if they are more than ten and more than a tenth, or more than half.
PictureSet read_pictures(const std::string& folder, const std::vector<std::string>& files, int64_t size);

// During its lifetime the sets that read_pictures returns are kept and not decoded again: for commands that load the
// same data set many times.
class KeepPictures {
public:
    KeepPictures();
    ~KeepPictures();
    KeepPictures(const KeepPictures&) = delete;
    KeepPictures& operator=(const KeepPictures&) = delete;
};

}  // namespace dualmcmc
