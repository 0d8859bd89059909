// The .npy format: see npy.h.
#include "formats/npy.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <sstream>
#include <string_view>

#include "check.h"
#include "formats/foreign.h"

namespace dualmcmc {
namespace {

constexpr int64_t max_header = 1 << 16;  // bytes; NumPy itself writes 118

// Reads magic, version and length; returns the header, a Python dictionary as text.
std::string read_header(InputFile& input, const std::string& path) {
    unsigned char start[8] = {}, length[4] = {};
    if (const std::string what = foreign_format(path, input.head(), Wanted::data); !what.empty())
        fail(path, " is not a .npy file, but ", what);
    if (input.size() < 10) fail(path, " is not a .npy file: it has only ", input.size(), " bytes");
    input.read(start, 8);
    if (std::memcmp(start, "\x93NUMPY", 6) != 0) fail(path, " is not a .npy file: it does not start with \\x93NUMPY");
    const int version = start[6];
    if (version < 1 || version > 3) fail(path, " is a .npy file of version ", version, "; versions 1 to 3 can be read");
    input.read(length, version == 1 ? 2 : 4);
    const int64_t bytes = length[0] | length[1] << 8 | length[2] << 16 | static_cast<int64_t>(length[3]) << 24;
    if (bytes > max_header || bytes > input.remaining())
        fail(path, " is truncated or not a .npy file: it claims a header of ", bytes, " bytes, the file has ",
             input.size());
    std::string header(static_cast<size_t>(bytes), ' ');
    input.read(header.data(), bytes);
    return header;
}

// The header's dictionary as NumPy reads it, as Python source: keys in any order, both kinds of quotes, any white
// space, the L of Python 2's long integers. A value is its text, a string's without the quotes.
class Dictionary {
public:
    Dictionary(std::string source, const std::string& path) : source_(std::move(source)), path_(path) {
        if (!accept('{')) fail(path_, " is not a valid .npy file: its header is not a dictionary");
        while (!accept('}')) {
            const std::optional<std::string> key = parse_string();
            if (!key || !accept(':')) return;
            skip_space();
            const std::optional<std::string> value = opening_quote() ? parse_string() : parse_other();
            if (!value) return;
            fields_[*key] = *value;
            if (!accept(',') && at_ < source_.size() && source_[at_] != '}') return;
        }
        complete_ = true;
    }
    const std::string& field(const std::string& name) const {
        const auto found = fields_.find(name);
        if (found == fields_.end()) fail(path_, " is not a valid .npy file: its header has no complete '", name, "'");
        return found->second;
    }
    void check_end() const {
        if (!complete_) fail(path_, " is not a valid .npy file: its header is no complete dictionary");
    }

private:
    void skip_space() { at_ = std::min(source_.find_first_not_of(" \t\r\n\f\v", at_), source_.size()); }
    bool accept(char c) {
        skip_space();
        const bool found = at_ < source_.size() && source_[at_] == c;
        at_ += found;
        return found;
    }
    // The position of the quote that opens a string here, or after the letter that Python allows before it: u'|u1'.
    std::optional<size_t> opening_quote() const {
        for (size_t at = at_; at < source_.size() && at <= at_ + 1; ++at) {
            if (source_[at] == '\'' || source_[at] == '"') return at;
            if (std::string_view("uUbB").find(source_[at]) == std::string_view::npos) break;
        }
        return {};
    }
    std::optional<std::string> parse_string() {
        skip_space();
        const std::optional<size_t> open = opening_quote();
        const size_t close = open ? source_.find(source_[*open], *open + 1) : std::string::npos;
        if (close == std::string::npos) return {};
        at_ = close + 1;
        return source_.substr(*open + 1, close - *open - 1);
    }
    // A tuple, a list or a word, up to the comma or brace after it.
    std::optional<std::string> parse_other() {
        const size_t start = at_;
        for (int depth = 0; at_ < source_.size(); ++at_) {
            const char c = source_[at_];
            if (depth == 0 && (c == ',' || c == '}')) {
                const std::string text = source_.substr(start, at_ - start);
                return text.substr(0, text.find_last_not_of(" \t\r\n\f\v") + 1);
            }
            depth += (c == '(' || c == '[') - (c == ')' || c == ']');
        }
        return {};
    }

    std::string source_;
    const std::string& path_;
    size_t at_ = 0;
    bool complete_ = false;
    std::map<std::string, std::string> fields_;
};

// Parses "(10, 32, 32, 3)"; returns an empty shape if it is malformed or a dimension does not fit.
std::vector<int64_t> parse_shape(std::string tuple) {
    std::erase(tuple, 'L');
    std::vector<int64_t> shape;
    std::istringstream list(tuple);
    char separator = 0;
    for (int64_t dimension = 0; list >> separator && list >> dimension; shape.push_back(dimension))
        if (dimension < 0 || separator != (shape.empty() ? '(' : ',')) return {};
    return shape;
}

// ---- arrays of other kinds ----------------------------------------------------------------------

// An element type without its byte order: f4, and float32 as the same.
std::string bare_type(const std::string& type) {
    static const std::map<std::string, std::string> names{
        {"uint8", "u1"},   {"ubyte", "u1"},   {"B", "u1"},     {"1u1", "u1"},    {"int8", "i1"},  {"uint16", "u2"},
        {"int16", "i2"},   {"uint32", "u4"},  {"int32", "i4"}, {"uint64", "u8"}, {"int64", "i8"}, {"float16", "f2"},
        {"float32", "f4"}, {"float64", "f8"}, {"bool", "b1"},  {"?", "b1"},      {"f", "f4"},     {"d", "f8"}};
    const bool ordered = !type.empty() && std::string_view("|<>=").find(type[0]) != std::string_view::npos;
    const std::string bare = ordered ? type.substr(1) : type;
    const auto found = names.find(bare);
    if (found == names.end()) return bare;
    return ordered && bare.size() > 1 ? type : found->second;  // NumPy takes <B, but not <uint8
}

// A way to tell the user what an array is, and the statements of Python that make `a` what is read here.
struct Difference {
    std::string what, repair;
};

std::optional<Difference> type_difference(const std::string& type) {
    const std::string bare = bare_type(type), what = text("elements of type '", type, "'");
    if (bare == "u1") return Difference{};
    if (bare == "f2" || bare == "f4" || bare == "f8")
        return Difference{what,
                          " a = (a + 1) * 127.5 if a.min() < 0 else a * 255 if a.max() <= 1 else a;"
                          " a = a.round().clip(0, 255).astype('uint8');"};
    if (bare == "b1") return Difference{what, " a = a.astype('uint8') * 255;"};
    if (bare == "u2") return Difference{what, " a = (a // 257 if a.max() > 255 else a).astype('uint8');"};
    for (const char* integer : {"i1", "i2", "i4", "i8", "u4", "u8"})
        if (bare == integer) return Difference{what, " a = a.clip(0, 255).astype('uint8');"};
    return {};
}

std::optional<Difference> shape_difference(const std::vector<int64_t>& s) {
    const size_t n = s.size();
    const auto grey = [](int64_t height, int64_t width, const std::string& repair) {
        const bool mnist = height == 28 && width == 28;
        return Difference{
            mnist ? "grey 28x28 images (MNIST's)" : "grey images",
            repair + (mnist ? " a = np.pad(a, ((0, 0), (2, 2), (2, 2), (0, 0)));" : "") + " a = a.repeat(3, axis=3);"};
    };
    if (n == 4 && s[3] == 3) return Difference{};
    if (n == 4 && s[1] == 3) return Difference{"channels first", " a = a.transpose(0, 2, 3, 1);"};
    if (n == 4 && s[2] == 3) return Difference{"the images along the last axis", " a = a.transpose(3, 0, 1, 2);"};
    if (n == 4 && s[3] == 1) return grey(s[1], s[2], "");
    if (n == 4 && s[1] == 1) return grey(s[2], s[3], " a = a.transpose(0, 2, 3, 1);");
    if (n == 4 && s[3] == 4) return Difference{"four channels", " a = a[..., :3];"};
    if (n == 4 && s[1] == 4) return Difference{"four channels, first", " a = a[:, :3].transpose(0, 2, 3, 1);"};
    if (n == 3 && s[2] == 3) return Difference{"a single image", " a = a[None];"};
    if (n == 3) return grey(s[1], s[2], " a = a[..., None];");
    if (n == 2 && s[1] == 784) return grey(28, 28, " a = a.reshape(-1, 28, 28, 1);");
    for (const int64_t side : {32, 64})
        if (n == 2 && s[1] == 3 * side * side)
            return Difference{"flat rows",
                              text(" a = a.reshape(-1, 3, ", side, ", ", side, ").transpose(0, 2, 3, 1);")};
    return {};
}

// Fails unless the header describes what is read here; says what the array is, and how to convert it.
void check_array(const std::string& path, const std::string& type, const std::string& order,
                 const std::string& shape_text) {
    const std::vector<int64_t> shape = parse_shape(shape_text);
    const std::optional<Difference> of_type = type_difference(type), of_shape = shape_difference(shape);
    if (order != "True" && order != "False")
        fail(path, " is not a valid .npy file: its header's 'fortran_order' is ", order);
    const bool fortran = order == "True";
    if (of_type && of_shape && of_type->what.empty() && of_shape->what.empty() && !fortran) return;
    std::string found;
    for (const std::string& what : {of_type ? of_type->what : text("elements of type '", type, "'"),
                                    fortran ? std::string("Fortran order") : "", of_shape ? of_shape->what : ""})
        if (!what.empty()) found += what + ", ";
    const std::string target = std::filesystem::path(path).stem().string() + "-uint8.npy";
    fail(path, " has ", found, "shape ", shape_text, "; expected uint8 images (N, H, W, 3) in C order",
         !of_type || !of_shape ? ""
                               : text("; convert it: python3 -c \"import numpy as np; a = np.load(", python_word(path),
                                      ");", of_type->repair, of_shape->repair, " np.save(", python_word(target),
                                      ", np.ascontiguousarray(a))\" and give ", target));
}

}  // namespace

NpyImages::NpyImages(const std::string& path) : input_(path) {
    const Dictionary header(read_header(input_, path), path);
    const std::string type = header.field("descr"), order = header.field("fortran_order"),
                      shape_text = header.field("shape");
    header.check_end();
    check_array(path, type, order, shape_text);
    const std::vector<int64_t> shape = parse_shape(shape_text);
    count = shape[0], height = shape[1], width = shape[2];
    int64_t bytes = 3;
    for (int i = 0; i < 3; ++i)
        if (shape[i] == 0 || __builtin_mul_overflow(bytes, shape[i], &bytes))
            fail(path, " has the impossible shape ", shape_text);
    if (input_.remaining() < bytes)
        fail(path, " is truncated: shape ", shape_text, " needs ", bytes, " bytes, the file has ", input_.remaining());
}

void NpyImages::read_next(uint8_t* image) { input_.read(image, height * width * 3); }

namespace {

// Magic, version, length and dictionary; 128 bytes for image shapes.
std::string make_header(const std::vector<int64_t>& shape) {
    std::string dimensions;
    for (int64_t dimension : shape) dimensions += text(dimension, ", ");
    std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (" + dimensions + "), }";
    header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 10, ' ');  // the data start at a multiple of 64
    header.back() = '\n';
    const char low = static_cast<char>(header.size() & 255), high = static_cast<char>(header.size() >> 8);
    return std::string({'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, low, high}) + header;
}

}  // namespace

// The header holds the number of images: 0, padded to the same length, until commit().
NpyWriter::NpyWriter(const std::string& path) : output_(path) {
    const std::string header = make_header({0, 0, 0, 3});
    output_.write(header.data(), static_cast<int64_t>(header.size()));
}

void NpyWriter::write(const uint8_t* images, int64_t count, int64_t size) {
    CHECK(count_ == 0 || size == size_);
    size_ = size;
    count_ += count;
    output_.write(images, count * size * size * 3);
}

void NpyWriter::commit() {
    const std::string header = make_header({count_, size_, size_, 3});
    CHECK_EQ(header.size(), make_header({0, 0, 0, 3}).size());
    output_.rewind();
    output_.write(header.data(), static_cast<int64_t>(header.size()));
    output_.commit();
}

void write_npy(const std::string& path, const std::vector<int64_t>& shape, const uint8_t* values) {
    const std::string header = make_header(shape);
    int64_t bytes = 1;
    for (int64_t dimension : shape) bytes *= dimension;
    AtomicFile output(path);
    output.write(header.data(), static_cast<int64_t>(header.size()));
    output.write(values, bytes);
    output.commit();
}

}  // namespace dualmcmc
