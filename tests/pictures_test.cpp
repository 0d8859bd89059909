// Folders of pictures: which files are taken, how they are decoded, cropped and resized, and what is said of the rest.
#include <omp.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>

#include "data/dataset.h"
#include "data/pictures.h"
#include "data/resize.h"
#include "file_helpers.h"
#include "formats/crc32.h"
#include "formats/npy.h"
#include "formats/picture.h"
#include "formats/png.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wunused-function"
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop

namespace dualmcmc {
namespace {

namespace fs = std::filesystem;

using Pixels = std::vector<uint8_t>;

Pixels pattern(int64_t height, int64_t width, int seed = 0) {
    Pixels out(size_t(height * width * 3));
    for (size_t i = 0; i < out.size(); ++i) out[i] = uint8_t(seed * 41 + i * 37 + i / 50 * 11 + i * i % 97);
    return out;
}

std::string big_endian(uint32_t value) {
    return {char(value >> 24), char(value >> 16 & 255), char(value >> 8 & 255), char(value & 255)};
}

std::string chunk(const std::string& type, const std::string& contents) {
    const std::string checked = type + contents;
    return big_endian(uint32_t(contents.size())) + checked + big_endian(crc32(checked.data(), checked.size()));
}

// A PNG of any kind; `rows`: scan lines without filters, each behind a zero byte.
std::string png_file(uint32_t width, uint32_t height, char depth, char colour_type, const std::string& rows,
                     const std::string& before_data = "") {
    std::string copy = rows;
    int length = 0;
    unsigned char* packed =
        stbi_zlib_compress(reinterpret_cast<unsigned char*>(copy.data()), int(copy.size()), &length, 8);
    const std::string data(reinterpret_cast<char*>(packed), size_t(length));
    std::free(packed);
    const std::string header = big_endian(width) + big_endian(height) + depth + colour_type + std::string(3, '\0');
    return "\x89PNG\r\n\x1A\n" + chunk("IHDR", header) + before_data + chunk("IDAT", data) + chunk("IEND", "");
}

std::string jpeg_file(int64_t height, int64_t width, const Pixels& pixels, int channels = 3) {
    std::string out;
    const auto append = [](void* to, void* data, int bytes) {
        static_cast<std::string*>(to)->append(static_cast<char*>(data), size_t(bytes));
    };
    stbi_write_jpg_to_func(append, &out, int(width), int(height), channels, pixels.data(), 100);
    return out;
}

// Each test has an empty folder of its own.
class Pictures : public testing::Test {
protected:
    void SetUp() override {
        folder_ = temporary_path("pictures");
        fs::remove_all(folder_);
        fs::create_directory(folder_);
    }
    void TearDown() override { fs::remove_all(folder_); }

    std::string in(const std::string& name) const { return folder_ + "/" + name; }
    void png(const std::string& name, int64_t height = 32, int64_t width = 32, int seed = 0) const {
        write_png(in(name), pattern(height, width, seed).data(), width, height, false);
    }
    RgbPicture read(const std::string& bytes) const {
        write_bytes(in("one"), bytes);
        return read_picture(in("one"));
    }
    void expect_unreadable(const std::string& bytes, std::initializer_list<std::string> parts) const {
        write_bytes(in("one"), bytes);
        expect_failure([&] { read_picture(in("one")); }, {in("one")});
        expect_failure([&] { read_picture(in("one")); }, parts);
    }
    // The seeds of pattern() of a set's images, of 32 x 32.
    static std::vector<int> seeds(const ImageSet& set) {
        std::vector<int> out;
        for (int64_t i = 0; i < set.count; ++i)
            for (int seed = 0; seed < 40; ++seed)
                if (const Pixels p = pattern(32, 32, seed); std::equal(p.begin(), p.end(), image_at(set, i)))
                    out.push_back(seed);
        return out;
    }

    std::string folder_;
};

// ---- which files --------------------------------------------------------------------------------

TEST_F(Pictures, AreFoundInSubfoldersAndSortedByPath) {
    fs::create_directories(in("b/deep"));
    fs::create_directories(in(".hidden"));
    png("c.PNG", 32, 32, 5);
    png("a.png", 32, 32, 1);
    png("b/deep/x.jpeg", 32, 32, 2);  // the contents decide, not the name
    png("b/y.Png", 32, 32, 3);
    png("b.jpg", 32, 32, 0);
    png(".hidden/z.png");
    png(".z.png");
    write_bytes(in("list.txt"), "labels");
    write_bytes(in("b/list.csv"), "labels");
    fs::create_directory_symlink("..", in("b/deep/loop"));
    fs::create_directory_symlink("deep", in("b/again"));
    for (const std::string& source : {folder_, folder_ + "/"}) {
        const Dataset data = load_dataset(source, 32, 1);
        // By bytes: a.png, b.jpg, b/again/x.jpeg (a link, found first), b/y.Png, c.PNG.
        EXPECT_EQ(seeds(data.train), (std::vector<int>{1, 0, 2, 3, 5}));
        EXPECT_EQ(data.train.name, folder_);
    }
}

TEST_F(Pictures, DoNotDependOnTheNumberOfThreads) {
    for (int i = 0; i < 20; ++i) png(std::to_string(i) + ".png", 40 + i, 60 - i, i);
    const int before = omp_get_max_threads();
    omp_set_num_threads(1);
    const Pixels one = load_dataset(folder_, 32, 1).train.pixels;
    omp_set_num_threads(3);
    const Pixels three = load_dataset(folder_, 32, 1).train.pixels;
    omp_set_num_threads(before);
    EXPECT_EQ(one, three);
    EXPECT_EQ(one.size(), 20u * 3072);
}

TEST_F(Pictures, AreDecodedOnceWhereTheyAreKept) {
    for (int i = 0; i < 5; ++i) png(std::to_string(i) + ".png", 32, 32, i);
    {
        const KeepPictures keep;
        const Pixels first = load_dataset(folder_, 32, 1).train.pixels;
        for (int i = 0; i < 5; ++i) png(std::to_string(i) + ".png", 32, 32, i + 5);
        EXPECT_EQ(load_dataset(folder_, 32, 1).train.pixels, first);
        EXPECT_NE(load_dataset(folder_, 64, 1).train.pixels, first);
    }
    EXPECT_EQ(seeds(load_dataset(folder_, 32, 1).train), (std::vector<int>{5, 6, 7, 8, 9}));
    EXPECT_EQ(seeds(*load_unsplit(folder_, 32, 2)), (std::vector<int>{5, 7}));
    EXPECT_EQ(seeds(load_train(folder_, 32, 1, 3)), (std::vector<int>{5, 6, 8}));
}

TEST_F(Pictures, TheOverviewOfSampleIsLeftOut) {
    fs::create_directory(in("generator"));
    png("generator/000000.png", 32, 32, 4);
    png("samples.png", 64, 64);
    write_bytes(in("samples.txt"), "settings");
    EXPECT_EQ(seeds(load_dataset(folder_, 32, 1).train), std::vector<int>{4});
    fs::remove(in("samples.txt"));
    EXPECT_EQ(load_dataset(folder_, 32, 1).train.count, 2);
}

TEST_F(Pictures, UnreadableFilesAreLeftOutUpToALimit) {
    for (int i = 0; i < 9; ++i) png(std::to_string(i) + ".png", 32, 32, i);
    write_bytes(in("2a.png"), "");
    write_bytes(in("3a.jpg"), "no picture");
    ASSERT_EQ(mkfifo(in("4a.png").c_str(), 0600), 0);
    fs::create_symlink("nowhere", in("5a.png"));
    testing::internal::CaptureStdout();
    const Dataset data = load_dataset(folder_, 32, 1);
    const std::string said = testing::internal::GetCapturedStdout();
    EXPECT_EQ(seeds(data.train), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
    for (const char* part :
         {"2a.png is neither PNG nor JPEG, but empty", "3a.jpg is neither PNG nor JPEG, but a text file",
          "4a.png: it is a FIFO", "5a.png: No such file", ": 9 pictures"})
        EXPECT_NE(said.find(part), std::string::npos) << said;
    // Too many: more than half, or more than ten and more than a tenth.
    for (int i = 0; i < 6; ++i) write_bytes(in("x" + std::to_string(i) + ".png"), "");
    expect_failure([&] { load_dataset(folder_, 32, 1); }, {folder_, "10 of 19 pictures cannot be read", "2a.png"});
    for (int i = 0; i < 40; ++i) png("more" + std::to_string(i) + ".png");
    EXPECT_EQ(load_dataset(folder_, 32, 1).train.count, 49);
    write_bytes(in("y.png"), "");
    expect_failure([&] { load_dataset(folder_, 32, 1); }, {"11 of 60 pictures cannot be read"});
}

TEST_F(Pictures, FoldersWithoutPicturesAreNamed) {
    const auto expect = [&](std::initializer_list<std::string> parts) {
        expect_failure([&] { load_dataset(folder_, 32, 1); }, {"no PNG or JPEG picture", folder_});
        expect_failure([&] { load_dataset(folder_, 32, 1); }, parts);
    };
    expect({"nor any other file", "data/cifar10.sh"});
    write_bytes(in("a.txt"), "some text");
    expect({"only 1 other files, such as " + in("a.txt"), "give a folder with pictures"});
    const Pixels image(3072);
    write_npy(in("images.npy"), {1, 32, 32, 3}, image.data());
    expect({in("images.npy") + " is a .npy", "--data " + in("images.npy")});
    fs::remove(in("images.npy"));
    write_bytes(in("b.webp"), std::string("RIFF\0\0\0\0WEBPVP8 ", 16));
    expect({in("b.webp") + " is a WebP picture", "convert"});
    fs::remove(in("b.webp"));
    fs::create_directory(in("cifar-10-batches-py"));
    write_bytes(in("cifar-10-batches-py/data_batch_1"),
                "\x80\x02}q\x01(U\x0b"
                "batch_labelq\x02U\x15training batch 1");
    expect({"the Python version of CIFAR-10", "bash data/cifar10.sh"});
    fs::remove_all(in("cifar-10-batches-py"));
    fs::create_directory(in("cifar-100-python"));
    write_bytes(in("cifar-100-python/train"),
                "\x80\x02}q\x01(U\x09"
                "filenamesq\x02]q\x03(U\x15"
                "bos_taurus_s_000507.png");
    expect({"the Python version of CIFAR-100", "cifar-100-binary.tar.gz"});
    fs::remove_all(in("cifar-100-python"));
    write_bytes(in("b.zip"), "PK\3\4" + std::string(22, '\0') + std::string("\x05\0\0\0a.png", 9));
    expect({"is a zip archive", "unzip " + in("b.zip")});
}

// ---- decoding -----------------------------------------------------------------------------------

TEST_F(Pictures, EveryKindOfPngBecomesRgb) {
    const auto expect = [&](const std::string& bytes, const Pixels& expected) {
        const RgbPicture picture = read(bytes);
        EXPECT_EQ(picture.height, 1);
        EXPECT_EQ(picture.width, 2);
        EXPECT_EQ(picture.pixels, expected);
    };
    const std::string zero(1, '\0');
    expect(png_file(2, 1, 8, 0, zero + "\x10\xF0"), {16, 16, 16, 240, 240, 240});
    expect(png_file(2, 1, 1, 0, zero + "\x40"), {0, 0, 0, 255, 255, 255});
    expect(png_file(2, 1, 16, 0, zero + "\x12\x34\xFF\xFF"), {18, 18, 18, 255, 255, 255});
    expect(png_file(2, 1, 16, 2, zero + "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0A\x0B\x0C"), {1, 3, 5, 7, 9, 11});
    expect(png_file(2, 1, 8, 2, zero + "\x01\x02\x03\x04\x05\x06"), {1, 2, 3, 4, 5, 6});
    const std::string palette = chunk("PLTE", "\x0A\x0B\x0C\x14\x15\x16");
    expect(png_file(2, 1, 8, 3, zero + "\1" + zero, palette), {20, 21, 22, 10, 11, 12});
    // Transparent is white, half transparent half white.
    expect(png_file(2, 1, 8, 4, zero + "\x10" + zero + "\x10\x80"), {255, 255, 255, 135, 135, 135});
    expect(png_file(2, 1, 8, 6, zero + "\x01\x02\x03" + zero + "\x01\x02\x03\xFF"), {255, 255, 255, 1, 2, 3});
    expect(png_file(2, 1, 8, 3, zero + "\1" + zero, palette + chunk("tRNS", zero)), {20, 21, 22, 255, 255, 255});
}

TEST_F(Pictures, GreyJpegsHaveThreeEqualChannels) {
    const RgbPicture picture = read(jpeg_file(20, 30, Pixels(600, 77), 1));
    EXPECT_EQ(picture.height, 20);
    EXPECT_EQ(picture.width, 30);
    EXPECT_EQ(picture.pixels, Pixels(1800, 77));
}

// Blocks of 16 x 16, each of one grey level: row by row 10, 60, 110, 160, 210, 250 in three rows of two.
std::vector<int> block_levels(const RgbPicture& picture) {
    std::vector<int> out;
    for (int64_t y = 8; y < picture.height; y += 16)
        for (int64_t x = 8; x < picture.width; x += 16)
            out.push_back(int(std::lround(picture.pixels[size_t((y * picture.width + x) * 3)] / 50.0)));
    return out;
}

TEST_F(Pictures, TheOrientationOfAJpegIsApplied) {
    Pixels pixels(48 * 32 * 3);
    for (size_t i = 0; i < pixels.size(); ++i) {
        const size_t y = i / 96, x = i / 3 % 32;
        pixels[i] = uint8_t(50 * (y / 16 * 2 + x / 16));
    }
    const std::string plain = jpeg_file(48, 32, pixels);
    EXPECT_EQ(block_levels(read(plain)), (std::vector<int>{0, 1, 2, 3, 4, 5}));
    const std::vector<int> upright[] = {{0, 1, 2, 3, 4, 5}, {1, 0, 3, 2, 5, 4}, {5, 4, 3, 2, 1, 0}, {4, 5, 2, 3, 0, 1},
                                        {0, 2, 4, 1, 3, 5}, {4, 2, 0, 5, 3, 1}, {5, 3, 1, 4, 2, 0}, {1, 3, 5, 0, 2, 4}};
    for (int orientation = 1; orientation <= 8; ++orientation)
        for (const bool little : {false, true}) {
            const char tag = char(orientation);
            std::string exif("Exif\0\0", 6);
            exif +=
                little
                    ? std::string("II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0", 18) + tag + std::string(3, '\0')
                    : std::string("MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0", 19) + tag + std::string(2, '\0');
            const std::string segment = "\xFF\xE1" + std::string(1, '\0') + char(exif.size() + 2) + exif;
            const RgbPicture picture = read(plain.substr(0, 2) + segment + plain.substr(2));
            EXPECT_EQ(picture.width, orientation < 5 ? 32 : 48);
            EXPECT_EQ(block_levels(picture), upright[orientation - 1]) << orientation << (little ? " little" : " big");
        }
}

TEST_F(Pictures, DamagedFilesAreNotTaken) {
    const std::string jpeg = jpeg_file(40, 40, pattern(40, 40));
    png("whole.png");
    const std::string whole = read_bytes(in("whole.png"));
    for (const double part : {0.3, 0.6, 0.99}) {
        expect_unreadable(jpeg.substr(0, size_t(part * double(jpeg.size()))), {"cut off"});
        expect_unreadable(whole.substr(0, size_t(part * double(whole.size()))), {"cut off"});
    }
    std::string tables = jpeg;
    tables[jpeg.find("\xFF\xC4") + 5] = '\xFF', tables[jpeg.find("\xFF\xC4") + 6] = '\xFF';
    expect_unreadable(tables, {"damaged", "Huffman"});
    std::string changed = whole;
    changed[whole.size() / 2] ^= 4;
    expect_unreadable(changed, {"damaged", "checksum"});
    expect_unreadable(png_file(12000, 12000, 8, 2, std::string(50, '\0')), {"12000x12000", "134217728"});
    expect_unreadable(png_file(11000, 11000, 8, 2, std::string(50, '\0')), {"11000x11000", "do not fit into its"});
    expect_unreadable(png_file(40, 40, 8, 2, std::string(50, '\0')), {"cannot be decoded"});
    expect_unreadable("<!DOCTYPE html><html><body>404", {"web page", "download"});
    expect_unreadable("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n",
                      {"Git LFS", "git lfs pull"});
    expect_unreadable("GIF89a...", {"GIF picture", "convert"});
    expect_unreadable(std::string(500, '\0'), {"only zero bytes"});
    expect_unreadable("", {"empty"});
    EXPECT_NO_THROW(read(jpeg + "trailing bytes \xFF\xDA of a camera"));
}

// ---- crop and resize ----------------------------------------------------------------------------

// The definition: the mean over each output pixel's area.
TEST_F(Pictures, CropAndAverageIsTheMeanOverAreas) {
    const std::pair<int64_t, int64_t> sizes[] = {{70, 50}, {33, 47}, {64, 64}, {31, 40}, {9, 9}, {1, 1}, {200, 32}};
    for (const auto& [height, width] : sizes) {
        const int64_t size = 32, side = std::min(height, width), top = (height - side) / 2, left = (width - side) / 2;
        const Pixels image = pattern(height, width);
        Pixels out(size_t(size * size * 3));
        crop_and_average(image.data(), height, width, size, out.data());
        const double scale = double(side) / double(size);
        const auto overlap = [&](int64_t i, int64_t j) {
            return std::max(0.0,
                            std::min(double(i + 1) * scale, double(j + 1)) - std::max(double(i) * scale, double(j)));
        };
        for (int64_t i = 0; i < size * size * 3; ++i) {
            double sum = 0;
            for (int64_t y = 0; y < side; ++y)
                for (int64_t x = 0; x < side; ++x)
                    sum += overlap(i / 3 / size, y) * overlap(i / 3 % size, x) *
                           image[size_t(((top + y) * width + left + x) * 3 + i % 3)];
            ASSERT_NEAR(out[size_t(i)], sum / scale / scale, 0.5 + 1e-9) << height << "x" << width << " " << i;
        }
    }
}

TEST_F(Pictures, OfTheRightSizeStayAsTheyAre) {
    png("a.png", 64, 64, 3);
    EXPECT_EQ(load_dataset(folder_, 64, 1).train.pixels, pattern(64, 64, 3));
}

TEST_F(Pictures, CelebaHasTheAuthorsCrop) {
    png("000001.png", 218, 178, 6);
    png("000002.png", 178, 218, 7);
    const Dataset data = load_dataset(folder_, 64, 1), small = load_dataset(folder_, 32, 1);
    Pixels expected(64 * 64 * 3);
    prepare_celeba(pattern(218, 178, 6).data(), expected.data());
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), image_at(data.train, 0)));
    crop_and_average(pattern(178, 218, 7).data(), 178, 218, 64, expected.data());
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), image_at(data.train, 1)));
    crop_and_average(pattern(218, 178, 6).data(), 218, 178, 32, expected.data());
    EXPECT_TRUE(std::equal(expected.begin(), expected.begin() + 3072, image_at(small.train, 0)));
}

// ---- held-out pictures ----------------------------------------------------------------------------

TEST_F(Pictures, ATenthIsHeldOutAndCanBeLoadedAlone) {
    std::vector<Pixels> levels;
    for (int i = 0; i < 1000; ++i) {
        char name[32];
        std::snprintf(name, sizeof name, "%04d.png", i);
        const Pixels pixel{uint8_t(i / 4), uint8_t(i % 4), 0};
        write_png(in(name), pixel.data(), 1, 1, false);
        levels.push_back(pixel);
    }
    write_bytes(in("0007.png"), "");
    testing::internal::CaptureStdout();
    const Dataset data = load_dataset(folder_, 32, 1);
    const ImageSet all = *load_unsplit(folder_, 32), alone = load_held_out(folder_, 32, 1, every_image),
                   few = load_held_out(folder_, 32, 1, 20);
    testing::internal::GetCapturedStdout();
    EXPECT_FALSE(data.none_held_out);
    EXPECT_EQ(all.count, 999);
    EXPECT_EQ(data.train.count + data.held_out.count, 999);
    EXPECT_EQ(alone.pixels, data.held_out.pixels);
    EXPECT_EQ(alone.name, data.held_out.name);
    EXPECT_TRUE(std::equal(few.pixels.begin(), few.pixels.end(), alone.pixels.begin()));
    const auto number = [](const ImageSet& set, int64_t i) { return image_at(set, i)[0] * 4 + image_at(set, i)[1]; };
    std::set<int> seen;
    int first_half = 0;
    for (int64_t i = 0; i < data.held_out.count; ++i) {
        seen.insert(number(data.held_out, i));
        first_half += number(data.held_out, i) < 500;
    }
    EXPECT_NEAR(first_half, 50, 20);
    for (int64_t i = 0; i < data.train.count; ++i) {
        EXPECT_TRUE(seen.insert(number(data.train, i)).second);
        EXPECT_GT(number(data.train, i), i > 0 ? number(data.train, i - 1) : -1);
    }
    EXPECT_EQ(seen.size(), 999u);
}

}  // namespace
}  // namespace dualmcmc
