// PNG files, by stb_image_write.
#pragma once
#include <cstdint>
#include <string>

namespace dualmcmc {

// Writes pixels, (height, width, 3), as an RGB PNG, complete or not at all; one line where it cannot be written.
// `durable` as in files.h.
void write_png(const std::string& path, const uint8_t* pixels, int64_t width, int64_t height, bool durable = true);

}  // namespace dualmcmc
