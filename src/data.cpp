// Data sets: see data.h.
#include "data.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "check.h"
#include "files.h"
#include "hash.h"
#include "npy.h"
#include "shapes.h"

namespace dualmcmc {
namespace {

namespace fs = std::filesystem;

ImageSet empty_set(const std::string& name, int64_t count, int64_t size) {
    return {count, size, std::vector<uint8_t>(static_cast<size_t>(count * size * size * 3)), name};
}

ImageSet draw_shapes(const std::string& name, int64_t count, int64_t size, uint64_t seed) {
    ImageSet set = empty_set(name, count, size);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; ++i) draw_shape(seed, i, size, set.pixels.data() + i * size * size * 3);
    return set;
}

// --- CIFAR-10: a file is 10000 records of 1 label byte and 32x32 red, green and blue planes.

constexpr int64_t cifar_side = 32, cifar_pixels = cifar_side * cifar_side;
constexpr int64_t cifar_record = 1 + 3 * cifar_pixels, cifar_records = 10000;

const char* const cifar_advice = "; `bash data/cifar10.sh` fetches CIFAR-10 and prints its folder";

// Fails unless `path` is there and exactly as long as an official file.
void check_cifar_file(const std::string& path) {
    std::error_code error;
    if (!fs::is_regular_file(path, error)) fail("CIFAR-10 file ", path, " is missing", cifar_advice);
    const int64_t found = InputFile(path).size(), expected = cifar_records * cifar_record;
    if (found != expected)
        fail("CIFAR-10 file ", path, " is ", found < expected ? "truncated" : "too long", ": ", found,
             " bytes where ", expected, " are expected", cifar_advice);
}

// Fills images, (10000,32,32,3), from one file.
void read_cifar_file(const std::string& path, uint8_t* images) {
    InputFile input(path);
    std::vector<uint8_t> record(cifar_record);
    for (int64_t i = 0; i < cifar_records; ++i) {
        input.read(record.data(), cifar_record);
        if (record[0] > 9)
            fail("CIFAR-10 file ", path, " is damaged: record ", i, " has the label ", int{record[0]}, cifar_advice);
        for (int64_t p = 0; p < cifar_pixels; ++p)
            for (int64_t c = 0; c < 3; ++c) *images++ = record[1 + c * cifar_pixels + p];
    }
}

Dataset load_cifar(fs::path folder, int64_t size) {
    if (size != cifar_side)
        fail("CIFAR-10 in ", folder.string(), " has images of 32x32, this architecture takes ", size, "x", size,
             "; choose --architecture cifar10 or another --data");
    if (!fs::exists(folder / "data_batch_1.bin") && fs::is_directory(folder / "cifar-10-batches-bin"))
        folder /= "cifar-10-batches-bin";
    std::vector<std::string> paths;
    for (int i = 1; i <= 5; ++i) paths.push_back((folder / text("data_batch_", i, ".bin")).string());
    paths.push_back((folder / "test_batch.bin").string());
    for (const std::string& path : paths) check_cifar_file(path);

    Dataset data{empty_set("CIFAR-10 train", 5 * cifar_records, size), empty_set("CIFAR-10 test", cifar_records, size)};
    for (int64_t i = 0; i < 5; ++i)
        read_cifar_file(paths[i], data.train.pixels.data() + i * cifar_records * cifar_pixels * 3);
    read_cifar_file(paths[5], data.held_out.pixels.data());
    return data;
}

// --- CelebA: PIL's resize, to the bit: fixed-point weights, a horizontal pass rounded to 8 bits, then a vertical one.

constexpr int64_t celeba_height = 218, celeba_width = 178, celeba_size = 64;
constexpr int64_t crop_left = 15, crop_top = 40, crop_side = 148;
constexpr int weight_bits = 22;  // PIL: 32 - 8 - 2

// The source pixels first, first+1, ... that one output pixel averages, and their weights.
struct Taps {
    int64_t first = 0;
    std::vector<int32_t> weights;
};

// A triangle over 2 * scale source pixels around each output pixel's centre: bilinear with antialiasing.
std::vector<Taps> triangle_taps(int64_t from, int64_t to) {
    const double scale = static_cast<double>(from) / static_cast<double>(to), support = std::max(scale, 1.0);
    std::vector<Taps> result(static_cast<size_t>(to));
    for (int64_t i = 0; i < to; ++i) {
        const double centre = (static_cast<double>(i) + 0.5) * scale;
        const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
        const int64_t last = std::min(from, static_cast<int64_t>(centre + support + 0.5));
        std::vector<double> weights;
        double sum = 0;
        for (int64_t j = first; j < last; ++j) {
            const double distance = std::abs(static_cast<double>(j) - centre + 0.5) / support;
            weights.push_back(std::max(0.0, 1.0 - distance));
            sum += weights.back();
        }
        result[i].first = first;
        for (double w : weights) result[i].weights.push_back(static_cast<int32_t>(w / sum * (1 << weight_bits) + 0.5));
    }
    return result;
}

// out[k] = sum_j weight_j * from[(first + j) * stride], rounded and clamped.
uint8_t apply_taps(const Taps& taps, const uint8_t* from, int64_t stride) {
    int32_t sum = 1 << (weight_bits - 1);
    from += taps.first * stride;
    for (int32_t weight : taps.weights) sum += weight * *from, from += stride;
    return static_cast<uint8_t>(std::clamp(sum >> weight_bits, 0, 255));
}

Dataset load_npy(const std::string& path, int64_t size) {
    NpyImages input(path);
    const bool celeba = input.height == celeba_height && input.width == celeba_width && size == celeba_size;
    if (!celeba && (input.height != size || input.width != size))
        fail(path, " has images of ", input.height, "x", input.width, ", this architecture takes ", size, "x", size,
             size == celeba_size ? " (or CelebA's 218x178)" : "", "; resize them or choose another --architecture");
    const int64_t held_out = input.count >= 1000 ? input.count / 10 : 0;
    const std::string name = fs::path(path).filename().string();
    Dataset data{empty_set(name, input.count - held_out, size), empty_set(name + " held out", held_out, size)};
    std::vector<uint8_t> raw(static_cast<size_t>(input.height * input.width * 3));
    for (int64_t i = 0; i < input.count; ++i) {
        const bool training = i < data.train.count;
        const int64_t index = training ? i : i - data.train.count;
        uint8_t* image = (training ? data.train : data.held_out).pixels.data() + index * size * size * 3;
        input.read_next(celeba ? raw.data() : image);
        if (celeba) prepare_celeba(raw.data(), image);
    }
    if (held_out == 0) data.held_out = data.train;
    return data;
}

}  // namespace

void prepare_celeba(const uint8_t* image, uint8_t* out) {
    static const std::vector<Taps> taps = triangle_taps(crop_side, celeba_size);
    std::vector<uint8_t> narrow(crop_side * celeba_size * 3);  // (148,64,3)
    for (int64_t row = 0; row < crop_side; ++row)
        for (int64_t i = 0; i < celeba_size * 3; ++i)
            narrow[row * celeba_size * 3 + i] =
                apply_taps(taps[i / 3], image + ((crop_top + row) * celeba_width + crop_left) * 3 + i % 3, 3);
    for (int64_t row = 0; row < celeba_size; ++row)
        for (int64_t i = 0; i < celeba_size * 3; ++i)
            out[row * celeba_size * 3 + i] = apply_taps(taps[row], narrow.data() + i, celeba_size * 3);
}

Dataset load_dataset(const std::string& source, int64_t size, uint64_t seed) {
    if (source == "shapes")
        return {draw_shapes("shapes", 10000, size, hash64(seed, 0)),
                draw_shapes("shapes held out", 2000, size, hash64(seed, 1))};
    std::error_code error;
    if (fs::is_directory(source, error)) return load_cifar(source, size);
    if (!fs::exists(source, error))
        fail("there is no file or folder ", source, " to read images from; give a folder with CIFAR-10 "
             "(`bash data/cifar10.sh`), a .npy file or the word shapes");
    return load_npy(source, size);
}

std::string default_data(int64_t size) {
    if (size != cifar_side) fail("--data: give a .npy of uint8 images, (N, 218, 178, 3) or (N, 64, 64, 3)");
    const char* folder = std::getenv("CIFAR10_DIR");
    return folder && *folder ? folder : "data/cifar-10-batches-bin";
}

}  // namespace dualmcmc
