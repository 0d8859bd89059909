// The only file that compiles stb_image_write.
#include "formats/png.h"

#include <climits>
#include <vector>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wunused-function"
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop

#include "check.h"
#include "formats/files.h"

namespace dualmcmc {

void write_png(const std::string& path, const uint8_t* pixels, int64_t width, int64_t height, bool durable) {
    const auto append = [](void* context, void* data, int bytes) {
        const char* from = static_cast<const char*>(data);
        auto& to = *static_cast<std::vector<char>*>(context);
        to.insert(to.end(), from, from + bytes);
    };
    if (width > (INT_MAX - 1) / 3 || 3 * width + 1 > INT_MAX / height)  // stb's own sizes are ints
        fail(path, ": a picture of ", width, "x", height, " is too large for a PNG here; lower --count or --points");
    std::vector<char> file;
    const int w = static_cast<int>(width), h = static_cast<int>(height);
    CHECK(stbi_write_png_to_func(append, &file, w, h, 3, pixels, 3 * w));
    AtomicFile output(path);
    output.write(file.data(), static_cast<int64_t>(file.size()));
    output.commit(durable);
}

}  // namespace dualmcmc
