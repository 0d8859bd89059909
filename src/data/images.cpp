// Image sets: see images.h.
#include "data/images.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <new>

#include "check.h"
#include "formats/png.h"

namespace dualmcmc {

ImageSet empty_images(const std::string& name, int64_t count, int64_t size) {
    try {
        return {count, size, std::vector<uint8_t>(size_t(count * size * size * 3)), name};
    } catch (const std::bad_alloc&) {
        fail(name, ": ", count, " images of ", size, "x", size, " need ", count * size * size * 3 >> 20,
             " MiB of memory, which is more than there is; use fewer");
    }
}

const uint8_t* image_at(const ImageSet& set, int64_t index) {
    CHECK_GE(index, 0);
    CHECK_GT(set.count, index);
    return set.pixels.data() + index * set.size * set.size * 3;
}

void gather_batch(const ImageSet& set, const std::vector<int64_t>& indices, const std::vector<bool>& flip, real* out) {
    static const auto levels = [] {
        std::array<real, 256> table;
        for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<real>(i) / 255 * 2 - 1;
        return table;
    }();
    CHECK(flip.empty() || flip.size() == indices.size());
    const int64_t side = set.size;
    for (size_t b = 0; b < indices.size(); ++b) {
        const uint8_t* image = image_at(set, indices[b]);
        const bool mirrored = !flip.empty() && flip[b];
        for (int64_t row = 0; row < side; ++row)
            for (int64_t column = 0; column < side; ++column) {
                const int64_t from = mirrored ? side - 1 - column : column;
                for (int64_t c = 0; c < 3; ++c) *out++ = levels[image[(row * side + from) * 3 + c]];
            }
    }
}

void append_images(ImageSet& set, const ImageSet& more) {
    CHECK(set.count == 0 || set.size == more.size);
    set.size = more.size;
    set.count += more.count;
    set.pixels.insert(set.pixels.end(), more.pixels.begin(), more.pixels.end());
}

ImageSet first_images(const ImageSet& set, int64_t count) {
    const int64_t kept = std::min(count, set.count);
    return {kept, set.size, {set.pixels.begin(), set.pixels.begin() + kept * set.size * set.size * 3}, set.name};
}

ImageSet spread_images(const ImageSet& set, int64_t count) {
    const int64_t kept = std::min(count, set.count), values = set.size * set.size * 3;
    ImageSet out = empty_images(set.name, kept, set.size);
    for (int64_t i = 0; i < kept; ++i)
        std::copy_n(image_at(set, i * set.count / kept), values, out.pixels.data() + i * values);
    return out;
}

ImageSet from_floats(const real* x, int64_t count, int64_t size) {
    ImageSet set{count, size, std::vector<uint8_t>(static_cast<size_t>(count * size * size * 3)), ""};
    const auto level = [](real v) -> uint8_t {
        if (!(v > -1.0f)) return 0;  // NaN, too
        return v >= 1.0f ? 255 : static_cast<uint8_t>(std::lround((v + 1.0f) * 127.5f));
    };
    std::transform(x, x + set.pixels.size(), set.pixels.begin(), level);
    return set;
}

void write_grid(const std::string& path, const std::vector<const ImageSet*>& panels, int64_t columns, int64_t scale,
                int64_t gap) {
    CHECK(!panels.empty());
    CHECK_GT(columns, 0);
    CHECK_GT(scale, 0);
    const int64_t side = panels[0]->size * scale, pitch = side + gap, panel_pitch = columns * pitch + 4 * gap;
    int64_t rows = 1;
    for (const ImageSet* panel : panels) {
        CHECK_EQ(panel->size * scale, side);
        rows = std::max(rows, (panel->count + columns - 1) / columns);
    }
    const int64_t width = static_cast<int64_t>(panels.size()) * panel_pitch - 5 * gap, height = rows * pitch - gap;
    std::vector<uint8_t> canvas(static_cast<size_t>(width * height * 3), 255);
    for (size_t p = 0; p < panels.size(); ++p)
        for (int64_t i = 0; i < panels[p]->count; ++i) {
            const uint8_t* image = image_at(*panels[p], i);
            const int64_t left = static_cast<int64_t>(p) * panel_pitch + i % columns * pitch, top = i / columns * pitch;
            for (int64_t y = 0; y < side; ++y)
                for (int64_t x = 0; x < side; ++x)
                    std::copy_n(image + (y / scale * panels[p]->size + x / scale) * 3, 3,
                                canvas.data() + ((top + y) * width + left + x) * 3);
        }
    write_png(path, canvas.data(), width, height);
}

}  // namespace dualmcmc
