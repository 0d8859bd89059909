// Reads PNG and JPEG files with stb_image.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace dualmcmc {

struct RgbPicture {
    int64_t height = 0, width = 0;
    std::vector<uint8_t> pixels;  // (height, width, 3)
};

// Whether the name ends as that of a PNG or JPEG file does, in upper or lower case.
bool has_picture_name(const std::string& path);

// Decodes a PNG or JPEG file, whichever its contents are; the name does not matter. Grey becomes three equal channels;
// 16 bits are cut to the upper 8; transparent parts are laid on white; CMYK becomes RGB; a JPEG's EXIF orientation is
// applied. Fails with one line that names the file and the reason, also if a JPEG is cut off.
RgbPicture read_picture(const std::string& path);

}  // namespace dualmcmc
