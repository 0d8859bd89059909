// The only file that compiles stb_image; see picture.h. stb_image neither notices that a JPEG is cut off nor knows its
// orientation, which are read here from the JPEG's markers; nor does it check a PNG's checksums, or the lengths of a
// JPEG's Huffman tables.
#include "formats/picture.h"

#include <algorithm>
#include <cctype>
#include <memory>
#include <string_view>

// In place of an assertion, which would end the program for a damaged file.
namespace {
struct BrokenAssertion {};
}  // namespace
#define STBI_ASSERT(condition)                     \
    do {                                           \
        if (!(condition)) throw BrokenAssertion(); \
    } while (0)

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_FAILURE_USERMSG
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

#include "check.h"
#include "formats/crc32.h"
#include "formats/files.h"
#include "formats/foreign.h"

namespace dualmcmc {
namespace {

constexpr int64_t max_bytes = int64_t(1) << 30, max_pixels = int64_t(1) << 27;  // 134 megapixels: 0.4 GB decoded
// Deflate packs 1032 bytes into one, a byte holds eight pixels; JPEG packs less. More is a claim without contents.
constexpr int64_t max_pixels_per_byte = 1032 * 8;

// Big or little endian unsigned numbers within a piece of a file; 0 beyond its end.
struct Reader {
    std::string_view bytes;
    bool little = false;
    size_t number(size_t at, size_t size) const {
        size_t value = 0;
        if (bytes.size() < size || at > bytes.size() - size) return 0;
        for (size_t i = 0; i < size; ++i)
            value = value << 8 | static_cast<unsigned char>(bytes[little ? at + size - 1 - i : at + i]);
        return value;
    }
};

// ---- what stb_image leaves out: PNG -------------------------------------------------------------

// Fails unless all chunks up to the last one are there and those with the picture have their checksums.
void check_chunks(const std::string& path, std::string_view bytes) {
    const Reader file{bytes};
    for (size_t at = 8; at + 12 <= bytes.size();) {
        const size_t length = file.number(at, 4);
        if (length > bytes.size() - at - 12) break;
        const std::string_view type = bytes.substr(at + 4, 4);
        const bool critical = type[0] >= 'A' && type[0] <= 'Z';
        if (critical && crc32(type.data(), 4 + length) != file.number(at + 8 + length, 4))
            fail(path, " is damaged: a checksum of the PNG is wrong");
        if (type == "IEND") return;
        at += 12 + length;
    }
    fail(path, " is cut off: a PNG without its end");
}

// ---- what stb_image leaves out: JPEG ------------------------------------------------------------

struct JpegMarkers {
    bool complete = false;  // ends with an end-of-image marker
    bool damaged = false;   // a Huffman table with more than 256 codes, beyond stb_image's arrays
    bool adobe = false;     // has Adobe's segment, without which four components may be anything
    int components = 0, orientation = 1;
};

// EXIF's tag 0x0112 in the first directory of a TIFF header: 1 to 8, 1 if it has none.
int exif_orientation(std::string_view segment) {
    if (!segment.starts_with(std::string_view("Exif\0\0", 6))) return 1;
    Reader tiff{segment.substr(6)};
    tiff.little = tiff.bytes.starts_with("II");
    const size_t directory = tiff.number(4, 4), entries = tiff.number(directory, 2);
    for (size_t i = 0; i < entries; ++i) {
        const size_t entry = directory + 2 + 12 * i, value = tiff.number(entry + 8, 2);
        if (tiff.number(entry, 2) == 0x0112) return value >= 1 && value <= 8 ? int(value) : 1;
    }
    return 1;
}

// Whether a segment of Huffman tables, `length` bytes from `at`, holds one with more codes than there are bytes.
bool has_too_many_codes(const Reader& file, size_t at, int64_t length) {
    while (length > 0) {
        size_t codes = 0;
        for (size_t bits = 1; bits <= 16; ++bits) codes += file.number(at + bits, 1);
        if (codes > 256) return true;
        at += 17 + codes;
        length -= int64_t(17 + codes);
    }
    return false;
}

JpegMarkers read_markers(std::string_view bytes) {
    JpegMarkers out;
    const Reader file{bytes};
    size_t at = 2;
    while (at + 1 < bytes.size()) {
        const size_t marker = file.number(at, 2);
        if (marker < 0xFF01 || marker == 0xFFFF || (marker >= 0xFFD0 && marker <= 0xFFD7)) {
            // Entropy-coded data, fill bytes and restart markers: on to the next 0xFF.
            at = std::min(bytes.find('\xFF', at + 1), bytes.size());
            continue;
        }
        if (marker == 0xFFD9) {
            out.complete = true;
            break;
        }
        const size_t length = file.number(at + 2, 2);
        const std::string_view segment = bytes.substr(std::min(at + 4, bytes.size()), std::max<size_t>(length, 2) - 2);
        if (marker == 0xFFC4) out.damaged |= has_too_many_codes(file, at + 4, int64_t(length) - 2);
        if (marker == 0xFFE1 && out.orientation == 1) out.orientation = exif_orientation(segment);
        if (marker == 0xFFEE && segment.starts_with("Adobe")) out.adobe = true;
        const bool frame = marker >= 0xFFC0 && marker <= 0xFFCF && marker % 4 != 0;
        if ((frame || marker == 0xFFC0) && segment.size() > 5) out.components = static_cast<unsigned char>(segment[5]);
        at += 2 + std::max<size_t>(length, 2);
    }
    return out;
}

// ---- pixels -------------------------------------------------------------------------------------

using StbPixels = std::unique_ptr<stbi_uc, decltype(&stbi_image_free)>;

// Four channels, (height, width, 4), laid on white.
RgbPicture to_rgb(const stbi_uc* from, int64_t height, int64_t width) {
    RgbPicture out{height, width, std::vector<uint8_t>(size_t(height * width * 3))};
    for (uint8_t* to = out.pixels.data(); to != out.pixels.data() + out.pixels.size(); to += 3, from += 4)
        for (int c = 0; c < 3; ++c) to[c] = uint8_t((from[c] * from[3] + 255 * (255 - from[3]) + 127) / 255);
    return out;
}

// EXIF: from 5 on rows and columns are exchanged; then what is upside down and mirrored is turned.
RgbPicture upright(RgbPicture picture, int orientation) {
    if (orientation == 1) return picture;
    const bool exchanged = orientation >= 5;
    const bool rows_reversed = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
    const bool columns_reversed = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
    RgbPicture out{exchanged ? picture.width : picture.height, exchanged ? picture.height : picture.width, {}};
    out.pixels.resize(picture.pixels.size());
    uint8_t* to = out.pixels.data();
    for (int64_t y = 0; y < out.height; ++y)
        for (int64_t x = 0; x < out.width; ++x, to += 3) {
            const int64_t row = rows_reversed ? out.height - 1 - y : y,
                          column = columns_reversed ? out.width - 1 - x : x;
            const int64_t from = exchanged ? column * picture.width + row : row * picture.width + column;
            std::copy_n(picture.pixels.data() + 3 * from, 3, to);
        }
    return out;
}

}  // namespace

bool has_picture_name(const std::string& path) {
    const size_t dot = path.find_last_of("./");
    if (dot == std::string::npos || path[dot] == '/') return false;
    std::string ending = path.substr(dot + 1);
    std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return char(std::tolower(c)); });
    for (const char* known : {"png", "jpg", "jpeg", "jpe", "jfif"})
        if (ending == known) return true;
    return false;
}

RgbPicture read_picture(const std::string& path) {
    InputFile input(path);
    const std::string head = input.head();
    const bool jpeg = head.starts_with("\xFF\xD8\xFF");
    if (!jpeg && !head.starts_with("\x89PNG\r\n\x1A\n")) {
        const std::string what = foreign_format(path, head, Wanted::picture);
        fail(path, " is neither PNG nor JPEG", what.empty() ? "" : ", but " + what);
    }
    if (input.size() > max_bytes) fail(path, " is too large: ", input.size(), " bytes, at most ", max_bytes);
    std::string bytes(size_t(input.size()), '\0');
    input.read(bytes.data(), input.size());
    if (!jpeg) check_chunks(path, bytes);
    const JpegMarkers markers = jpeg ? read_markers(bytes) : JpegMarkers();
    if (jpeg && !markers.complete) fail(path, " is cut off: a JPEG without its end");
    if (markers.damaged) fail(path, " is damaged: a Huffman table of the JPEG is too long");
    if (markers.components == 4 && !markers.adobe)
        fail(path, " is a JPEG of four components that do not say which colours they are; convert it to RGB");

    const auto* const data = reinterpret_cast<const stbi_uc*>(bytes.data());
    const int size = int(bytes.size());
    int width = 0, height = 0, channels = 0;
    const auto refuse = [&] { fail(path, " cannot be decoded: ", stbi_failure_reason()); };
    if (!stbi_info_from_memory(data, size, &width, &height, &channels)) refuse();
    const int64_t pixels = int64_t(width) * height;
    if (pixels > max_pixels || pixels / max_pixels_per_byte > size)
        fail(path, " cannot be decoded: ", width, "x", height, " pixels ",
             pixels > max_pixels ? text("are more than ", max_pixels) : text("do not fit into its ", size, " bytes"));
    StbPixels decoded(nullptr, &stbi_image_free);
    try {
        decoded.reset(stbi_load_from_memory(data, size, &width, &height, &channels, 4));
    } catch (const BrokenAssertion&) {
        fail(path, " cannot be decoded: it is damaged");
    }
    if (!decoded) refuse();
    return upright(to_rgb(decoded.get(), height, width), markers.orientation);
}

}  // namespace dualmcmc
