// Data sets: see dataset.h.
#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "check.h"
#include "data/shapes.h"
#include "formats/files.h"
#include "formats/npy.h"
#include "hash.h"

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

// --- CIFAR-10 and CIFAR-100: each record is one label byte (CIFAR-100: two), then 32x32 red, green and blue planes.

constexpr int64_t cifar_side = 32, cifar_pixels = cifar_side * cifar_side;

struct CifarFormat {
    const char *name, *folder, *advice;    // `folder`: the official archive's; `advice`: ends the error messages
    std::vector<int> labels;               // number of classes, one entry for each of a record's label bytes
    std::vector<const char*> train_files;  // train_records each
    int64_t train_records, test_records;
    const char* test_file;
    int64_t record_bytes() const { return int64_t(labels.size()) + 3 * cifar_pixels; }
};
const CifarFormat cifar10{
    "CIFAR-10",
    "cifar-10-batches-bin",
    "; `bash data/cifar10.sh` fetches CIFAR-10 and prints its folder",
    {10},
    {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
    10000,
    10000,
    "test_batch.bin"};
const CifarFormat cifar100{"CIFAR-100", "cifar-100-binary", "; unpack the official cifar-100-binary.tar.gz again",
                           {20, 100},   {"train.bin"},      50000,
                           10000,       "test.bin"};

// Fails unless `path` exists and has exactly the official file's size.
void check_cifar_file(const CifarFormat& format, const std::string& path, int64_t records) {
    std::error_code error;
    if (!fs::is_regular_file(path, error)) fail(format.name, " file ", path, " is missing", format.advice);
    const int64_t found = InputFile(path).size(), expected = records * format.record_bytes();
    if (found != expected)
        fail(format.name, " file ", path, " is ", found < expected ? "truncated" : "too long", ": ", found,
             " bytes, expected ", expected, format.advice);
}

// Fills images, (records,32,32,3), from one file.
void read_cifar_file(const CifarFormat& format, const std::string& path, int64_t records, uint8_t* images) {
    InputFile input(path);
    const size_t labels = format.labels.size();
    std::vector<uint8_t> record(size_t(format.record_bytes()));
    for (int64_t i = 0; i < records; ++i) {
        input.read(record.data(), format.record_bytes());
        for (size_t l = 0; l < labels; ++l)
            if (record[l] >= format.labels[l])
                fail(format.name, " file ", path, " is corrupt: record ", i, " has label ", int{record[l]},
                     format.advice);
        for (size_t p = 0; p < cifar_pixels; ++p)
            for (size_t c = 0; c < 3; ++c) *images++ = record[labels + c * cifar_pixels + p];
    }
}

void check_cifar_size(const std::string& what, int64_t size) {
    if (size != cifar_side)
        fail(what, " has 32x32 images, but this architecture needs ", size, "x", size,
             "; choose --architecture cifar10 or another --data");
}

// Reads the files in `folder` or in its subfolder named as in the official archive.
Dataset load_cifar(const CifarFormat& format, fs::path folder, int64_t size) {
    check_cifar_size(text(format.name, " in ", folder.string()), size);
    if (!fs::exists(folder / format.train_files[0]) && fs::is_directory(folder / format.folder))
        folder /= format.folder;
    const int64_t files = int64_t(format.train_files.size()), file_bytes = format.train_records * cifar_pixels * 3;
    const std::string test = (folder / format.test_file).string();
    std::vector<std::string> train;
    for (const char* name : format.train_files) train.push_back((folder / name).string());
    for (const std::string& path : train) check_cifar_file(format, path, format.train_records);
    check_cifar_file(format, test, format.test_records);

    Dataset data{empty_set(text(format.name, " train"), files * format.train_records, size),
                 empty_set(text(format.name, " test"), format.test_records, size)};
    for (int64_t i = 0; i < files; ++i)
        read_cifar_file(format, train[size_t(i)], format.train_records, data.train.pixels.data() + i * file_bytes);
    read_cifar_file(format, test, format.test_records, data.held_out.pixels.data());
    return data;
}

Dataset load_cifar_folder(const fs::path& folder, int64_t size) {
    const bool is_cifar100 = fs::exists(folder / cifar100.train_files[0]) ||
                             (fs::is_directory(folder / cifar100.folder) && !fs::is_directory(folder / cifar10.folder));
    return load_cifar(is_cifar100 ? cifar100 : cifar10, folder, size);
}

// A single file; its size tells which.
Dataset load_cifar_file(const std::string& path, int64_t size) {
    check_cifar_size(path, size);
    const int64_t bytes = InputFile(path).size();
    for (const CifarFormat* format : {&cifar10, &cifar100})
        for (const int64_t records : {format->train_records, format->test_records}) {
            if (bytes != records * format->record_bytes()) continue;
            ImageSet set = empty_set(text(format->name, " ", fs::path(path).filename().string()), records, size);
            read_cifar_file(*format, path, records, set.pixels.data());
            return {set, set};
        }
    fail(path, " is not a CIFAR-10 or CIFAR-100 file: it has ", bytes,
         " bytes; CIFAR-10's files have 30730000, CIFAR-100's test.bin 30740000 and train.bin 153700000");
}

// --- CelebA: PIL's resize, bit for bit: fixed-point weights; a horizontal pass rounded to 8 bits, then a vertical one.

constexpr int64_t celeba_height = 218, celeba_width = 178, celeba_size = 64;
constexpr int64_t crop_left = 15, crop_top = 40, crop_side = 148;
constexpr int weight_bits = 22;  // PIL: 32 - 8 - 2

// One output pixel is the weighted mean of the source pixels first, first + 1, ...
struct ResizeTaps {
    int64_t first = 0;
    std::vector<int32_t> weights;
};

// Bilinear with antialiasing: a triangle filter, 2 * scale source pixels wide, centred on each output pixel.
std::vector<ResizeTaps> triangle_taps(int64_t from, int64_t to) {
    const double scale = static_cast<double>(from) / static_cast<double>(to), support = std::max(scale, 1.0);
    std::vector<ResizeTaps> result(static_cast<size_t>(to));
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

// sum_j weight_j * from[(first + j) * stride], rounded and clamped to 8 bits.
uint8_t apply_taps(const ResizeTaps& taps, const uint8_t* from, int64_t stride) {
    int32_t sum = 1 << (weight_bits - 1);
    from += taps.first * stride;
    for (int32_t weight : taps.weights) sum += weight * *from, from += stride;
    return static_cast<uint8_t>(std::clamp(sum >> weight_bits, 0, 255));
}

Dataset load_npy(const std::string& path, int64_t size) {
    NpyImages input(path);
    const bool celeba = input.height == celeba_height && input.width == celeba_width && size == celeba_size;
    if (!celeba && (input.height != size || input.width != size))
        fail(path, " has ", input.height, "x", input.width, " images, but this architecture needs ", size, "x", size,
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
    static const std::vector<ResizeTaps> taps = triangle_taps(crop_side, celeba_size);
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
    if (fs::is_directory(source, error)) return load_cifar_folder(source, size);
    if (!fs::exists(source, error))
        fail("no file or folder ", source,
             " to read images from; give a folder with CIFAR-10 (`bash data/cifar10.sh` fetches it), a .npy file or "
             "the word shapes");
    if (source.ends_with(".bin")) return load_cifar_file(source, size);
    return load_npy(source, size);
}

std::string default_data(int64_t size) {
    if (size != cifar_side) fail("--data: give a .npy file of uint8 images, (N, 218, 178, 3) or (N, 64, 64, 3)");
    const char* folder = std::getenv("CIFAR10_DIR");
    return folder && *folder ? folder : "data/cifar-10-batches-bin";
}

}  // namespace dualmcmc
