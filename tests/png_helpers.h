// Decodes PNG files with stb_image, independently of the program's own code.
#pragma once
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

namespace dualmcmc {

struct Picture {
    int width = 0, height = 0;
    std::vector<uint8_t> pixels;
    const uint8_t* at(int y, int x) const { return pixels.data() + (y * width + x) * 3; }
};

inline Picture decode(const std::string& path) {
    Picture picture;
    int channels = 0;
    stbi_uc* pixels = stbi_load(path.c_str(), &picture.width, &picture.height, &channels, 0);
    EXPECT_NE(pixels, nullptr) << path;
    EXPECT_EQ(channels, 3);
    if (pixels) picture.pixels.assign(pixels, pixels + picture.width * picture.height * 3);
    stbi_image_free(pixels);
    return picture;
}

}  // namespace dualmcmc
