// The .npy format: see npy.h.
#include "formats/npy.h"

#include <cstring>
#include <sstream>

#include "check.h"

namespace dualmcmc {
namespace {

constexpr int64_t max_header = 1 << 16;  // bytes; NumPy itself writes 118

// Reads magic, version and length; returns the header, a Python dictionary as text.
std::string read_header(InputFile& input, const std::string& path) {
    unsigned char start[8] = {}, length[4] = {};
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

// The text of the value of 'name' in the header's dictionary: a tuple up to its closing bracket, others up to a comma.
std::string find_field(const std::string& header, const std::string& name, const std::string& path) {
    const size_t key = header.find("'" + name + "':");
    const size_t start = key == std::string::npos ? key : header.find_first_not_of(' ', key + name.size() + 3);
    const bool tuple = start != std::string::npos && header[start] == '(';
    const size_t end = start == std::string::npos ? start : header.find_first_of(tuple ? ")" : ",}", start);
    if (end == std::string::npos) fail(path, " is not a valid .npy file: its header has no complete '", name, "'");
    return header.substr(start, end - start + tuple);
}

// Parses "(10, 32, 32, 3)"; returns an empty shape if it is malformed or a dimension does not fit.
std::vector<int64_t> parse_shape(const std::string& tuple) {
    std::vector<int64_t> shape;
    std::istringstream list(tuple);
    char separator = 0;
    for (int64_t dimension = 0; list >> separator && list >> dimension; shape.push_back(dimension))
        if (dimension < 0 || separator != (shape.empty() ? '(' : ',')) return {};
    return shape;
}

}  // namespace

NpyImages::NpyImages(const std::string& path) : input_(path) {
    const std::string header = read_header(input_, path);
    const std::string type = find_field(header, "descr", path);
    if (type != "'|u1'" && type != "'u1'")
        fail(path, " has elements of type ", type, "; expected uint8 ('|u1') images");
    if (find_field(header, "fortran_order", path) != "False")
        fail(path, " is in Fortran order; save numpy.ascontiguousarray(images) instead");
    const std::string shape_text = find_field(header, "shape", path);
    const std::vector<int64_t> shape = parse_shape(shape_text);
    if (shape.size() != 4 || shape[3] != 3) fail(path, " has shape ", shape_text, "; expected images (N, H, W, 3)");
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

// The header holds the number of images: a placeholder of the same length stands there until commit().
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
