// Data sets: CIFAR files (forged ones, and the real CIFAR-10 if CIFAR10_DIR is set), .npy files, CelebA's preprocessing
// against PIL and the built-in shapes; and the conversion between images and floats.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <map>
#include <set>

#include "compare.h"
#include "data/dataset.h"
#include "data/shapes.h"
#include "file_helpers.h"
#include "formats/npy.h"

namespace dualmcmc {
namespace {

namespace fs = std::filesystem;

constexpr int64_t record_bytes = 3073, file_bytes = 10000 * record_bytes;

uint8_t forged_byte(int seed, int64_t position) { return static_cast<uint8_t>(seed + position * 7 + position / 100); }

// A folder of files of CIFAR-10's sizes, all zero (sparse) except for the records that forge() writes.
class ForgedCifar : public testing::Test {
protected:
    void SetUp() override {
        folder = temporary_path("cifar");
        fs::create_directory(folder);
        for (const char* name :
             {"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"}) {
            write_bytes(file(name), "");
            fs::resize_file(file(name), file_bytes);
        }
    }
    void TearDown() override { fs::remove_all(folder); }

    std::string file(const std::string& name) const { return folder + "/" + name + ".bin"; }

    void forge(const std::string& name, int64_t record, int seed) const {
        std::fstream stream(file(name), std::ios::in | std::ios::out | std::ios::binary);
        stream.seekp(record * record_bytes);
        stream.put(static_cast<char>(seed % 10));
        for (int64_t i = 0; i < 3072; ++i) stream.put(static_cast<char>(forged_byte(seed, i)));
    }

    std::string folder;
};

// Expects image `index` to be the one forge() wrote and its neighbours to be black.
void expect_forged(const ImageSet& set, int64_t index, int seed) {
    const uint8_t* image = image_at(set, index);
    for (int64_t y = 0; y < 32; ++y)
        for (int64_t x = 0; x < 32; ++x)
            for (int64_t c = 0; c < 3; ++c)
                ASSERT_EQ(image[(y * 32 + x) * 3 + c], forged_byte(seed, c * 1024 + y * 32 + x)) << y << " " << x;
    for (int64_t other : {index - 1, index + 1}) {
        if (other < 0 || other >= set.count) continue;
        const uint8_t* black = image_at(set, other);
        ASSERT_TRUE(std::all_of(black, black + 3072, [](uint8_t v) { return v == 0; })) << other;
    }
}

TEST_F(ForgedCifar, EveryImageHasItsPosition) {
    forge("data_batch_1", 0, 3);
    forge("data_batch_2", 17, 41);
    forge("data_batch_5", 9999, 52);
    forge("test_batch", 1, 69);
    for (const std::string& source : {folder, folder + "/", folder + "//"}) {
        const Dataset data = load_dataset(source, 32, 1);
        ASSERT_EQ(data.train.count, 50000);
        ASSERT_EQ(data.held_out.count, 10000);
        ASSERT_EQ(data.train.size, 32);
        ASSERT_EQ(data.train.pixels.size(), 50000u * 3072);
        expect_forged(data.train, 0, 3);
        expect_forged(data.train, 10017, 41);
        expect_forged(data.train, 49999, 52);
        expect_forged(data.held_out, 1, 69);
    }
}

TEST_F(ForgedCifar, FindsTheArchivesSubfolder) {
    const std::string above = temporary_path("above");
    fs::create_directory(above);
    forge("test_batch", 9999, 8);
    fs::rename(folder, above + "/cifar-10-batches-bin");
    const Dataset data = load_dataset(above + "/", 32, 1);
    EXPECT_EQ(data.train.count, 50000);
    expect_forged(data.held_out, 9999, 8);
    fs::remove_all(above);
}

TEST_F(ForgedCifar, BadFiles) {
    const auto expect = [&](const std::string& name, const std::string& problem) {
        expect_failure([&] { load_dataset(folder, 32, 1); }, {file(name), problem, "data/cifar10.sh"});
    };
    fs::resize_file(file("data_batch_3"), file_bytes - 1);
    expect("data_batch_3", "is truncated: 30729999 bytes, expected 30730000");
    fs::resize_file(file("data_batch_3"), 0);
    expect("data_batch_3", "is truncated: 0 bytes");
    write_bytes(file("data_batch_3"), "\x1F\x8B\x08 compressed");
    expect_failure([&] { load_dataset(folder, 32, 1); }, {file("data_batch_3"), "is truncated", "a gzip archive"});
    write_bytes(file("data_batch_3"), "version https://git-lfs.github.com/spec/v1\n");
    expect_failure([&] { load_dataset(folder, 32, 1); }, {file("data_batch_3"), "git lfs pull"});
    write_bytes(file("data_batch_3"), "");
    fs::resize_file(file("data_batch_3"), file_bytes + 5);
    expect("data_batch_3", "is too long: 30730005 bytes");
    fs::remove(file("data_batch_3"));
    expect("data_batch_3", "is missing");
    fs::create_directory(file("data_batch_3"));
    expect("data_batch_3", "is missing");
    fs::remove(file("data_batch_3"));
    write_bytes(file("data_batch_3"), "");
    fs::resize_file(file("data_batch_3"), file_bytes);
    std::fstream(file("test_batch"), std::ios::in | std::ios::out | std::ios::binary).seekp(2 * record_bytes).put(10);
    expect("test_batch", "is corrupt: record 2 has label 10");
    expect_failure([&] { load_dataset(folder, 64, 1); }, {folder, "32x32", "64x64", "--architecture"});
}

TEST(Cifar, NoDataAtAll) {
    const std::string empty = temporary_path("empty_folder");
    fs::create_directory(empty);
    expect_failure([&] { load_dataset(empty, 32, 1); }, {empty, "no PNG or JPEG picture", "data/cifar10.sh"});
    fs::remove(empty);
    expect_failure([&] { load_dataset(empty, 32, 1); }, {empty, "no file or folder", "data/cifar10.sh", "shapes"});
    expect_failure([&] { load_dataset("", 32, 1); }, {"no file or folder"});
}

// CIFAR-100: two label bytes per record, one file of 50000 images and one of 10000.
TEST(Cifar100, EveryImageHasItsPosition) {
    const std::string above = temporary_path("cifar100"), folder = above + "/cifar-100-binary";
    fs::create_directories(folder);
    const auto make = [&](const std::string& name, int64_t records, int64_t record, int seed) {
        write_bytes(folder + "/" + name, "");
        fs::resize_file(folder + "/" + name, uintmax_t(records * 3074));
        std::fstream stream(folder + "/" + name, std::ios::in | std::ios::out | std::ios::binary);
        stream.seekp(record * 3074);
        stream.put(19).put(99);
        for (int64_t i = 0; i < 3072; ++i) stream.put(static_cast<char>(forged_byte(seed, i)));
    };
    make("train.bin", 50000, 49999, 21);
    make("test.bin", 10000, 3, 34);
    for (const std::string& source : {folder, above}) {
        const Dataset data = load_dataset(source, 32, 1);
        ASSERT_EQ(data.train.count, 50000);
        ASSERT_EQ(data.held_out.count, 10000);
        EXPECT_EQ(data.held_out.name, "CIFAR-100 test");
        expect_forged(data.train, 49999, 21);
        expect_forged(data.held_out, 3, 34);
    }
    const Dataset alone = load_dataset(folder + "/test.bin", 32, 1);
    EXPECT_EQ(alone.train.count, 10000);
    expect_forged(alone.train, 3, 34);
    const auto damage = [&](int64_t offset, char value) {
        std::fstream(folder + "/test.bin", std::ios::in | std::ios::out | std::ios::binary).seekp(offset).put(value);
    };
    damage(5 * 3074, 20);
    expect_failure([&] { load_dataset(folder, 32, 1); },
                   {"CIFAR-100 file " + folder + "/test.bin", "record 5 has label 20"});
    damage(5 * 3074, 0);
    damage(7 * 3074 + 1, 100);
    expect_failure([&] { load_dataset(folder + "/test.bin", 32, 1); },
                   {folder + "/test.bin", "record 7 has label 100"});
    fs::resize_file(folder + "/test.bin", 3074 * 10000 - 1);
    expect_failure([&] { load_dataset(folder, 32, 1); },
                   {folder + "/test.bin", "truncated", "30740000", "cifar-100-binary.tar.gz"});
    expect_failure([&] { load_dataset(folder + "/test.bin", 32, 1); },
                   {folder + "/test.bin", "30739999 bytes", "30740000"});
    fs::remove(folder + "/test.bin");
    expect_failure([&] { load_dataset(above, 32, 1); }, {folder + "/test.bin", "is missing"});
    expect_failure([&] { load_dataset(folder, 64, 1); }, {folder, "32x32", "64x64"});
    fs::remove_all(above);
}

TEST_F(ForgedCifar, OneFileAlone) {
    forge("data_batch_4", 6, 15);
    const Dataset data = load_dataset(file("data_batch_4"), 32, 1);
    EXPECT_EQ(data.train.count, 10000);
    EXPECT_EQ(data.train.name, "CIFAR-10 data_batch_4.bin");
    expect_forged(data.train, 6, 15);
}

// Published facts about the real data: the channel means to four digits, and the first pixels of two well-known images.
TEST(Cifar, RealFiles) {
    const char* folder = std::getenv("CIFAR10_DIR");
    if (!folder) GTEST_SKIP() << "CIFAR10_DIR is not set: the real files are not available";
    const Dataset data = load_dataset(folder, 32, 1);
    ASSERT_EQ(data.train.count, 50000);
    ASSERT_EQ(data.held_out.count, 10000);
    const double expected[3] = {0.4914, 0.4822, 0.4465};
    for (size_t c = 0; c < 3; ++c) {
        double sum = 0;
        for (size_t i = c; i < data.train.pixels.size(); i += 3) sum += data.train.pixels[i];
        EXPECT_NEAR(sum / (50000.0 * 1024 * 255), expected[c], 5e-5) << c;
    }
    const std::vector<uint8_t> frog(image_at(data.train, 0), image_at(data.train, 0) + 3);
    const std::vector<uint8_t> cat(image_at(data.held_out, 0), image_at(data.held_out, 0) + 3);
    EXPECT_EQ(frog, (std::vector<uint8_t>{59, 62, 63}));
    EXPECT_EQ(cat, (std::vector<uint8_t>{158, 112, 49}));
}

// --- .npy

std::vector<uint8_t> pattern(int64_t bytes) {
    std::vector<uint8_t> values(static_cast<size_t>(bytes));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint8_t>(i * 31 + i / 1000);
    return values;
}

// A set sorted by class, ten classes: each image is its index in red and green.
TEST(NpyData, ARandomTenthIsHeldOut) {
    const std::string path = temporary_path("thousand.npy");
    std::vector<uint8_t> all(1005 * 3072);
    for (size_t i = 0; i < all.size(); ++i) all[i] = uint8_t(i % 3 == 0 ? i / 3072 / 256 : i / 3072 % 256);
    write_npy(path, {1005, 32, 32, 3}, all.data());
    const Dataset data = load_dataset(path, 32, 1), again = load_dataset(path, 32, 2);
    ASSERT_EQ(data.train.count, 905);
    ASSERT_EQ(data.held_out.count, 100);
    EXPECT_FALSE(data.none_held_out);
    EXPECT_EQ(data.held_out.pixels, again.held_out.pixels) << "it does not depend on the seed";
    const auto number = [](const ImageSet& set, int64_t i) { return image_at(set, i)[0] * 256 + image_at(set, i)[1]; };
    std::set<int> seen;
    std::map<int, int> classes;
    for (int64_t i = 0; i < 100; ++i) {
        seen.insert(number(data.held_out, i));
        if (i < 50) ++classes[number(data.held_out, i) / 101];  // also of its first half, which evaluations take
    }
    EXPECT_EQ(classes.size(), 10u);
    for (int64_t i = 0; i < 905; ++i) {
        EXPECT_TRUE(seen.insert(number(data.train, i)).second) << i;
        ASSERT_GT(number(data.train, i), i > 0 ? number(data.train, i - 1) : -1) << "in their order";
    }
    EXPECT_EQ(seen.size(), 1005u);
    EXPECT_EQ(load_unsplit(path, 32)->pixels, all);
    EXPECT_EQ(load_held_out(path, 32, 1, every_image).pixels, data.held_out.pixels);
    EXPECT_EQ(describe(data), "data: 905 training images, 100 held out");
    fs::remove(path);
}

TEST(NpyData, FewImagesServeAsBothSplits) {
    const std::string path = temporary_path("few.npy");
    const std::vector<uint8_t> all = pattern(5 * 64 * 64 * 3);
    write_npy(path, {5, 64, 64, 3}, all.data());
    const Dataset data = load_dataset(path, 64, 1);
    EXPECT_EQ(data.train.count, 5);
    EXPECT_EQ(data.held_out.count, 5);
    EXPECT_EQ(data.train.pixels, all);
    // The same images in another order.
    std::multiset<std::vector<uint8_t>> train, held_out;
    for (int64_t i = 0; i < 5; ++i) {
        train.insert({image_at(data.train, i), image_at(data.train, i) + 64 * 64 * 3});
        held_out.insert({image_at(data.held_out, i), image_at(data.held_out, i) + 64 * 64 * 3});
    }
    EXPECT_EQ(train, held_out);
    EXPECT_NE(data.held_out.pixels, all);
    EXPECT_TRUE(data.none_held_out);
    EXPECT_NE(describe(data).find("none are held out"), std::string::npos);
    EXPECT_NE(data.held_out.name.find("none held out"), std::string::npos);
    fs::remove(path);
}

TEST(NpyData, WrongImageSizes) {
    const std::string path = temporary_path("sides.npy");
    const std::vector<uint8_t> zeros(2 * 218 * 178 * 3);
    const auto expect = [&](int64_t height, int64_t width, int64_t size, std::initializer_list<std::string> parts) {
        write_npy(path, {2, height, width, 3}, zeros.data());
        expect_failure([&] { load_dataset(path, size, 1); }, parts);
    };
    expect(48, 48, 32, {path, "48x48", "32x32", "--architecture"});
    expect(32, 64, 32, {path, "32x64", "32x32"});
    expect(64, 32, 64, {path, "64x32", "64x64", "218x178"});
    expect(178, 218, 64, {path, "178x218", "64x64"});
    expect(218, 178, 32, {path, "218x178", "32x32"});
    expect(28, 28, 32, {path, "28x28", "np.pad"});
    write_bytes(path, "no images here");
    expect_failure([&] { load_dataset(path, 32, 1); }, {path, "not a .npy file"});
    fs::remove(path);
}

// --- CelebA

std::vector<uint8_t> celeba_image() {
    std::vector<uint8_t> image(218 * 178 * 3);
    for (int y = 0; y < 218; ++y)
        for (int x = 0; x < 178; ++x)
            for (int c = 0; c < 3; ++c)
                image[(y * 178 + x) * 3 + c] = static_cast<uint8_t>(y * 37 + x * 91 + c * 53 + x * y % 17 * 11);
    return image;
}

// Expected values from PIL 9.4:
//   y, x, c = np.ogrid[0:218, 0:178, 0:3]
//   image = Image.fromarray(((y * 37 + x * 91 + c * 53 + x * y % 17 * 11) % 256).astype(np.uint8))
//   out = np.asarray(image.crop((15, 40, 163, 188)).resize((64, 64), Image.BILINEAR)).astype(np.uint64)
//   out[0, 0], ..., (out.ravel() * np.arange(1, 1 + out.size)).sum()
TEST(Celeba, EqualsPilBitForBit) {
    const std::vector<uint8_t> image = celeba_image();
    std::vector<uint8_t> out(64 * 64 * 3);
    prepare_celeba(image.data(), out.data());
    const std::pair<std::pair<int, int>, std::vector<uint8_t>> expected[] = {{{0, 0}, {117, 88, 141}},
                                                                             {{0, 63}, {107, 118, 131}},
                                                                             {{17, 40}, {141, 122, 140}},
                                                                             {{63, 0}, {129, 159, 114}},
                                                                             {{63, 63}, {117, 111, 119}}};
    for (const auto& [position, colour] : expected) {
        const uint8_t* at = out.data() + (position.first * 64 + position.second) * 3;
        EXPECT_EQ(std::vector<uint8_t>(at, at + 3), colour) << position.first << ", " << position.second;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * (i + 1);
    EXPECT_EQ(sum, 9621522577u);
}

// The definition: a mean over the crop, weighted by max(0, 1 - |distance| / 2.3125) along both axes.
TEST(Celeba, EqualsTheFormulaUpToRounding) {
    const std::vector<uint8_t> image = celeba_image();
    std::vector<uint8_t> out(64 * 64 * 3);
    prepare_celeba(image.data(), out.data());
    const double scale = 148.0 / 64.0;
    const auto weight = [&](int from, int to) {
        return std::max(0.0, 1 - std::abs(from + 0.5 - (to + 0.5) * scale) / scale);
    };
    for (int y = 0; y < 64; ++y)
        for (int x = 0; x < 64; ++x)
            for (int c = 0; c < 3; ++c) {
                double sum = 0, weights = 0;
                for (int j = std::max(0, y * 2 - 3); j < std::min(148, y * 3 + 6); ++j)
                    for (int i = std::max(0, x * 2 - 3); i < std::min(148, x * 3 + 6); ++i) {
                        const double w = weight(j, y) * weight(i, x);
                        sum += w * image[((40 + j) * 178 + 15 + i) * 3 + c];
                        weights += w;
                    }
                // Two roundings to 8 bits, each by at most one half, with up to six weights that are multiples of
                // 2^-22.
                ASSERT_NEAR(out[(y * 64 + x) * 3 + c], sum / weights, 1 + 2 * 6 * 255 * 0x1p-23)
                    << y << " " << x << " " << c;
            }
}

TEST(Celeba, LoadsFromNpy) {
    const std::string path = temporary_path("celeba.npy");
    std::vector<uint8_t> image = celeba_image(), images = image;
    images.insert(images.begin(), image.size(), 200);  // a grey image, then the pattern
    write_npy(path, {2, 218, 178, 3}, images.data());
    const Dataset data = load_dataset(path, 64, 1);
    ASSERT_EQ(data.train.count, 2);
    ASSERT_EQ(data.train.size, 64);
    std::vector<uint8_t> expected(64 * 64 * 3, 200), second(64 * 64 * 3);
    prepare_celeba(image.data(), second.data());
    expected.insert(expected.end(), second.begin(), second.end());
    EXPECT_EQ(data.train.pixels, expected);
    fs::remove(path);
}

// --- shapes

TEST(Shapes, DependOnSeedAndIndexOnly) {
    const Dataset a = load_dataset("shapes", 32, 7), same = load_dataset("shapes", 32, 7);
    const Dataset other = load_dataset("shapes", 32, 8);
    EXPECT_EQ(a.train.count, 10000);
    EXPECT_EQ(a.held_out.count, 2000);
    EXPECT_EQ(a.train.pixels.size(), 10000u * 3072);
    EXPECT_EQ(a.train.pixels, same.train.pixels);
    EXPECT_EQ(a.held_out.pixels, same.held_out.pixels);
    EXPECT_NE(a.train.pixels, other.train.pixels);
    EXPECT_NE(a.held_out.pixels, other.held_out.pixels);
    std::vector<uint8_t> alone(3072);
    draw_shape(5, 123, 32, alone.data());
    std::vector<uint8_t> again(3072);
    draw_shape(5, 122, 32, again.data());
    EXPECT_NE(alone, again);
    draw_shape(5, 123, 32, again.data());
    EXPECT_EQ(alone, again);
}

TEST(Shapes, NoImageAppearsTwice) {
    const Dataset data = load_dataset("shapes", 32, 1);
    std::set<std::string> seen;
    for (const ImageSet* set : {&data.train, &data.held_out})
        for (int64_t i = 0; i < set->count; ++i) seen.emplace(image_at(*set, i), image_at(*set, i) + 3072);
    EXPECT_EQ(seen.size(), 12000u);
}

// As described in shapes.h: a large saturated shape on a grey background, in six about equally frequent colours.
TEST(Shapes, LookLikeShapes) {
    const auto saturation = [](const uint8_t* pixel) {
        const auto [least, most] = std::minmax_element(pixel, pixel + 3);
        return *most - *least;
    };
    std::map<int, int> hues;
    for (const int64_t size : {32, 64}) {
        std::vector<uint8_t> image(size * size * 3);
        for (int64_t i = 0; i < 600; ++i) {
            draw_shape(3, i, size, image.data());
            int64_t coloured = 0;
            std::vector<double> mean(3);
            for (int64_t p = 0; p < size * size; ++p) {
                if (saturation(&image[p * 3]) < 60) continue;
                ++coloured;
                for (int c = 0; c < 3; ++c) mean[c] += image[p * 3 + c];
            }
            const double share = static_cast<double>(coloured) / static_cast<double>(size * size);
            EXPECT_GT(share, 0.08) << i;
            EXPECT_LT(share, 0.45) << i;
            for (int64_t corner : {int64_t{0}, size - 1, size * (size - 1), size * size - 1})
                EXPECT_LT(saturation(&image[corner * 3]), 30) << i;
            int hue = 0;  // one bit per bright channel, which tells the six colours apart
            const double top = *std::max_element(mean.begin(), mean.end());
            for (int c = 0; c < 3; ++c) hue = hue * 2 + (mean[c] > 0.65 * top);
            ++hues[hue];
        }
    }
    EXPECT_EQ(hues.size(), 6u);
    // Each of 600 scenes counts twice: a standard deviation of 2 sqrt(600 · 1/6 · 5/6) = 18.3. Three and a half are
    // exceeded by one of six hues with one seed in 360.
    for (const auto& [hue, count] : hues) EXPECT_NEAR(count, 200, 3.5 * 18.3) << hue;
}

// Another resolution shows the same scene: the mean of 2x2 pixels at 64x64 is close to the pixel at 32x32.
TEST(Shapes, SameSceneAtEverySize) {
    std::vector<uint8_t> small(32 * 32 * 3), large(64 * 64 * 3);
    for (int64_t i = 0; i < 20; ++i) {
        draw_shape(3, i, 32, small.data());
        draw_shape(3, i, 64, large.data());
        double difference = 0;
        for (int y = 0; y < 32; ++y)
            for (int x = 0; x < 32; ++x)
                for (int c = 0; c < 3; ++c) {
                    int sum = 0;
                    for (int k = 0; k < 4; ++k) sum += large[((y * 2 + k / 2) * 64 + x * 2 + k % 2) * 3 + c];
                    difference += std::abs(sum / 4.0 - small[(y * 32 + x) * 3 + c]);
                }
        EXPECT_LT(difference / 3072, 1.5) << i;
    }
}

// --- images and floats

ImageSet ramp_images(int64_t count, int64_t size) { return {count, size, pattern(count * size * size * 3), "ramp"}; }

// From [0, 255] to [-1, 1].
rounding::Running to_range(uint8_t level) { return rounding::Running(2.0 * level) / 255 - 1; }

TEST(Batch, GathersScalesAndFlips) {
    const ImageSet set = ramp_images(6, 5);
    const std::vector<int64_t> indices = {4, 0, 4, 5};
    const std::vector<bool> flip = {false, true, true, false};
    std::vector<real> plain(4 * 75), mirrored(4 * 75);
    std::vector<rounding::Running> expected, expected_mirrored;
    gather_batch(set, indices, {}, plain.data());
    gather_batch(set, indices, flip, mirrored.data());
    for (size_t b = 0; b < 4; ++b)
        for (int64_t y = 0; y < 5; ++y)
            for (int64_t x = 0; x < 5; ++x)
                for (int64_t c = 0; c < 3; ++c) {
                    const auto value = [&](int64_t column) {
                        return to_range(set.pixels[((indices[b] * 5 + y) * 5 + column) * 3 + c]);
                    };
                    expected.push_back(value(x));
                    expected_mirrored.push_back(value(flip[b] ? 4 - x : x));
                }
    test::expect_close(plain, expected, "plain");
    test::expect_close(mirrored, expected_mirrored, "mirrored");
}

TEST(Batch, EndsOfTheRangeAreExact) {
    const ImageSet set{1, 1, {0, 255, 51}, ""};
    real out[3];
    gather_batch(set, {0}, {}, out);
    EXPECT_EQ(out[0], -1.0f);
    EXPECT_EQ(out[1], 1.0f);
    test::expect_close({out[2]}, {to_range(51)}, "51");
}

TEST(Batch, SpreadImagesCoverTheSet) {
    const ImageSet set = ramp_images(10, 3);
    EXPECT_EQ(spread_images(set, 10).pixels, set.pixels);
    EXPECT_EQ(spread_images(set, 99).pixels, set.pixels);
    const ImageSet some = spread_images(set, 4);
    ASSERT_EQ(some.count, 4);
    for (int64_t i = 0; i < 4; ++i)
        EXPECT_TRUE(std::equal(image_at(some, i), image_at(some, i) + 27, image_at(set, i * 10 / 4))) << i;
}

TEST(Batch, ContractViolationsThrow) {
    const ImageSet set = ramp_images(2, 2);
    std::vector<real> out(24);
    EXPECT_THROW(gather_batch(set, {2}, {}, out.data()), std::runtime_error);
    EXPECT_THROW(gather_batch(set, {-1}, {}, out.data()), std::runtime_error);
    EXPECT_THROW(gather_batch(set, {0, 1}, {true}, out.data()), std::runtime_error);
}

TEST(Batch, FromFloatsInvertsEveryLevel) {
    ImageSet set{1, 16, std::vector<uint8_t>(768), ""};
    for (size_t i = 0; i < 768; ++i) set.pixels[i] = static_cast<uint8_t>(i);
    std::vector<real> values(768);
    gather_batch(set, {0}, {}, values.data());
    EXPECT_EQ(from_floats(values.data(), 1, 16).pixels, set.pixels);
    for (real& v : values) v += 0.003f;  // less than half a level, 1/255 = 0.0039
    EXPECT_EQ(from_floats(values.data(), 1, 16).pixels, set.pixels);
}

TEST(Batch, FromFloatsClamps) {
    const real inf = std::numeric_limits<real>::infinity();
    const real x[12] = {-1.5f, 1.5f, -inf, inf, std::nanf(""), 0.0f, -1.0f, 1.0f, 1e30f, -1e30f, 0.5f, -0.999f};
    const ImageSet set = from_floats(x, 1, 2);
    EXPECT_EQ(set.pixels, (std::vector<uint8_t>{0, 255, 0, 255, 0, 128, 0, 255, 255, 0, 191, 0}));
    EXPECT_EQ(set.count, 1);
    EXPECT_EQ(set.size, 2);
}

}  // namespace
}  // namespace dualmcmc
