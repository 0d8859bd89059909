// Data sets: see dataset.h.
#include "data/dataset.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <numeric>

#include "check.h"
#include "data/pictures.h"
#include "data/resize.h"
#include "data/shapes.h"
#include "formats/files.h"
#include "formats/foreign.h"
#include "formats/npy.h"
#include "hash.h"

namespace dualmcmc {
namespace {

namespace fs = std::filesystem;

ImageSet draw_shapes(const std::string& name, int64_t count, int64_t size, uint64_t seed) {
    ImageSet set = empty_images(name, count, size);
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
    const InputFile input(path);
    const int64_t found = input.size(), expected = records * format.record_bytes();
    if (found == expected) return;
    const std::string what = found == 0 ? "" : foreign_format(path, input.head(), Wanted::data);
    fail(format.name, " file ", path, " is ", found < expected ? "truncated" : "too long", ": ", found,
         " bytes, expected ", expected, what.empty() ? format.advice : "; it is " + what);
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

    Dataset data{empty_images(text(format.name, " train"), files * format.train_records, size),
                 empty_images(text(format.name, " test"), format.test_records, size)};
    for (int64_t i = 0; i < files; ++i)
        read_cifar_file(format, train[size_t(i)], format.train_records, data.train.pixels.data() + i * file_bytes);
    read_cifar_file(format, test, format.test_records, data.held_out.pixels.data());
    return data;
}

bool holds_any(const CifarFormat& format, const fs::path& folder) {
    std::error_code error;
    return fs::is_directory(folder / format.folder, error) || fs::exists(folder / format.test_file, error) ||
           std::any_of(format.train_files.begin(), format.train_files.end(),
                       [&](const char* name) { return fs::exists(folder / name, error); });
}

// The format of a folder that holds CIFAR-10 or CIFAR-100, complete or not; null for any other.
const CifarFormat* cifar_of(const fs::path& folder) {
    for (const CifarFormat* format : {&cifar10, &cifar100})
        if (holds_any(*format, folder)) return format;
    return nullptr;
}

// A single file; its size tells which.
ImageSet load_cifar_file(const std::string& path, int64_t size) {
    check_cifar_size(path, size);
    const InputFile input(path);
    const int64_t bytes = input.size();
    for (const CifarFormat* format : {&cifar10, &cifar100})
        for (const int64_t records : {format->train_records, format->test_records}) {
            if (bytes != records * format->record_bytes()) continue;
            ImageSet set = empty_images(text(format->name, " ", fs::path(path).filename().string()), records, size);
            read_cifar_file(*format, path, records, set.pixels.data());
            return set;
        }
    const std::string what = foreign_format(path, input.head(), Wanted::data);
    fail(path, " is not a CIFAR-10 or CIFAR-100 file",
         what.empty()
             ? text(": it has ", bytes, " bytes; CIFAR-10's files have 30730000, CIFAR-100's test.bin 30740000 ",
                    "and train.bin 153700000")
             : ", but " + what);
}

// ---- .npy ---------------------------------------------------------------------------------------

ImageSet load_npy(const std::string& path, int64_t size) {
    NpyImages input(path);
    const bool celeba = input.height == celeba_height && input.width == celeba_width && size == celeba_size;
    const bool mnist = input.height == 28 && input.width == 28 && size == 32;
    if (!celeba && (input.height != size || input.width != size))
        fail(path, " has ", input.height, "x", input.width, " images, but this architecture needs ", size, "x", size,
             size == celeba_size ? " (or CelebA's 218x178)" : "", "; ",
             mnist ? text("pad them: python3 -c \"import numpy as np; np.save('padded.npy', np.pad(np.load(",
                          python_word(path), "), ((0, 0), (2, 2), (2, 2), (0, 0))))\" and give padded.npy")
                   : "resize them, give them as a folder of pictures, which are cropped and resized, or choose another "
                     "--architecture");
    const int64_t values = size * size * 3;
    ImageSet set = empty_images(fs::path(path).filename().string(), input.count, size);
    std::vector<uint8_t> raw(size_t(celeba ? input.height * input.width * 3 : 0));
    for (int64_t i = 0; i < input.count; ++i) {
        uint8_t* const image = set.pixels.data() + i * values;
        input.read_next(celeba ? raw.data() : image);
        if (celeba) prepare_celeba(raw.data(), image);
    }
    return set;
}

// ---- held-out images ------------------------------------------------------------------------------

constexpr int64_t least_to_hold_out = 1000;

std::vector<int64_t> in_order(int64_t count) {
    std::vector<int64_t> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    return order;
}

// Indices by their hashes, which mixes the classes of a set that is sorted by class.
std::vector<int64_t> mixed(int64_t count) {
    std::vector<int64_t> order = in_order(count);
    std::sort(order.begin(), order.end(), [](int64_t a, int64_t b) {
        return std::pair(hash64(0, uint64_t(a)), a) < std::pair(hash64(0, uint64_t(b)), b);
    });
    return order;
}

// The indices of the training images, ascending, and of the held-out ones: the first tenth of mixed(count). None of a
// small set.
struct Split {
    std::vector<int64_t> train, held_out;
};

Split split_of(int64_t count) {
    if (count < least_to_hold_out) return {in_order(count), {}};
    Split out;
    const std::vector<int64_t> order = mixed(count);
    out.held_out.assign(order.begin(), order.begin() + count / 10);
    out.train.assign(order.begin() + count / 10, order.end());
    std::sort(out.train.begin(), out.train.end());
    return out;
}

std::string held_out_name(const std::string& name) { return name + " held out"; }

// These images of a set, in this order.
ImageSet selected(const ImageSet& set, const std::vector<int64_t>& indices, const std::string& name) {
    ImageSet out = empty_images(name, int64_t(indices.size()), set.size);
    uint8_t* to = out.pixels.data();
    for (const int64_t i : indices) to = std::copy_n(image_at(set, i), set.size * set.size * 3, to);
    return out;
}

// The training images serve as held-out ones, too: mixed, so that the first of them stand for all.
Dataset none_held_out(ImageSet set) {
    ImageSet held_out = selected(set, mixed(set.count), set.name + " (none held out: training images)");
    return {std::move(set), std::move(held_out), true};
}

// Without a copy of the training images.
Dataset split(ImageSet set) {
    const Split parts = split_of(set.count);
    if (parts.held_out.empty()) return none_held_out(std::move(set));
    const int64_t values = set.size * set.size * 3;
    Dataset data;
    data.held_out = selected(set, parts.held_out, held_out_name(set.name));
    uint8_t* to = set.pixels.data();
    for (const int64_t i : parts.train) to = std::copy_n(image_at(set, i), values, to);
    set.count = int64_t(parts.train.size());
    set.pixels.resize(size_t(set.count * values));
    data.train = std::move(set);
    return data;
}

// ---- folders of pictures --------------------------------------------------------------------------

std::vector<std::string> chosen(const std::vector<std::string>& files, const std::vector<int64_t>& indices) {
    std::vector<std::string> out;
    for (const int64_t i : indices) out.push_back(files[size_t(i)]);
    return out;
}

// At most `count` of them, as spread_images.
std::vector<int64_t> spread(std::vector<int64_t> indices, int64_t count) {
    const int64_t all = int64_t(indices.size()), kept = std::min(count, all);
    for (int64_t i = 0; i < kept; ++i) indices[size_t(i)] = indices[size_t(i * all / kept)];
    indices.resize(size_t(kept));
    return indices;
}

// Whether a picture is held out depends on its place among all files, not on which of them can be read: so a part can
// be loaded alone.
Dataset load_pictures(const std::string& folder, int64_t size) {
    const std::vector<std::string> files = find_pictures(folder);
    const Split parts = split_of(int64_t(files.size()));
    std::vector<int64_t> order = parts.train;
    order.insert(order.end(), parts.held_out.begin(), parts.held_out.end());
    PictureSet read = read_pictures(folder, chosen(files, order), size);
    if (parts.held_out.empty()) return none_held_out(std::move(read.images));
    Dataset data{std::move(read.images), {}, false};
    ImageSet& train = data.train;
    const int64_t all = train.count, values = size * size * 3;
    train.count =
        std::lower_bound(read.indices.begin(), read.indices.end(), int64_t(parts.train.size())) - read.indices.begin();
    data.held_out = {all - train.count,
                     size,
                     {train.pixels.begin() + train.count * values, train.pixels.end()},
                     held_out_name(train.name)};
    train.pixels.resize(size_t(train.count * values));
    return data;
}

bool is_picture_folder(const std::string& source) {
    std::error_code error;
    return source != "shapes" && fs::is_directory(source, error) && !cifar_of(source);
}

}  // namespace

std::optional<ImageSet> load_unsplit(const std::string& source, int64_t size, int64_t count) {
    if (source == "shapes") return {};
    std::error_code error;
    if (!fs::exists(source, error))
        fail("no file or folder ", source,
             " to read images from; give a folder of PNG or JPEG pictures, a folder with CIFAR-10 (`bash "
             "data/cifar10.sh` fetches it), a .npy file or the word shapes");
    if (is_picture_folder(source)) {
        const std::vector<std::string> files = find_pictures(source);
        return read_pictures(source, chosen(files, spread(in_order(int64_t(files.size())), count)), size).images;
    }
    if (fs::is_directory(source, error)) return {};
    ImageSet all = source.ends_with(".bin") ? load_cifar_file(source, size) : load_npy(source, size);
    return count < all.count ? spread_images(all, count) : std::move(all);
}

Dataset load_dataset(const std::string& source, int64_t size, uint64_t seed) {
    if (source == "shapes")
        return {draw_shapes("shapes", 10000, size, hash64(seed, 0)),
                draw_shapes("shapes held out", 2000, size, hash64(seed, 1)), false};
    if (is_picture_folder(source)) return load_pictures(source, size);
    std::optional<ImageSet> whole = load_unsplit(source, size);
    if (!whole) return load_cifar(*cifar_of(source), source, size);
    return source.ends_with(".bin") ? none_held_out(std::move(*whole)) : split(std::move(*whole));
}

ImageSet load_held_out(const std::string& source, int64_t size, uint64_t seed, int64_t count) {
    if (is_picture_folder(source)) {
        const std::vector<std::string> files = find_pictures(source);
        std::vector<int64_t> held_out = split_of(int64_t(files.size())).held_out;
        if (!held_out.empty()) {
            held_out.resize(size_t(std::min(count, int64_t(held_out.size()))));
            ImageSet set = read_pictures(source, chosen(files, held_out), size).images;
            set.name = held_out_name(set.name);
            return set;
        }
    }
    return first_images(load_dataset(source, size, seed).held_out, count);
}

ImageSet load_train(const std::string& source, int64_t size, uint64_t seed, int64_t count) {
    if (!is_picture_folder(source)) return spread_images(load_dataset(source, size, seed).train, count);
    const std::vector<std::string> files = find_pictures(source);
    return read_pictures(source, chosen(files, spread(split_of(int64_t(files.size())).train, count)), size).images;
}

Dataset load_some(const std::string& source, int64_t size, uint64_t seed, int64_t train_count, int64_t held_out_count) {
    if (is_picture_folder(source))
        return {load_train(source, size, seed, train_count), load_held_out(source, size, seed, held_out_count),
                split_of(int64_t(find_pictures(source).size())).held_out.empty()};
    const Dataset data = load_dataset(source, size, seed);
    return {spread_images(data.train, train_count), first_images(data.held_out, held_out_count), data.none_held_out};
}

std::string describe(const Dataset& data) {
    if (!data.none_held_out)
        return text("data: ", data.train.count, " training images, ", data.held_out.count, " held out");
    return text("data: ", data.train.count, " training images; none are held out (of a .npy or a folder with ",
                least_to_hold_out, " or more, a tenth is): pictures and distances are of training images");
}

std::string default_data(int64_t size) {
    if (size != cifar_side)
        fail("--data: give a folder of pictures, such as CelebA's img_align_celeba, or a .npy file of uint8 images, ",
             "(N, 218, 178, 3) or (N, 64, 64, 3)");
    const char* folder = std::getenv("CIFAR10_DIR");
    return folder && *folder ? folder : "data/cifar-10-batches-bin";
}

}  // namespace dualmcmc
