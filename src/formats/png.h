// Writes PNG files with stb_image_write.
#pragma once
#include <cstdint>
#include <string>

namespace dualmcmc {

// Writes pixels, (height, width, 3), as an RGB PNG, complete or not at all. `durable` as in AtomicFile::commit.
void write_png(const std::string& path, const uint8_t* pixels, int64_t width, int64_t height, bool durable = true);

}  // namespace dualmcmc
