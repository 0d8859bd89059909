// Folders of pictures: see pictures.h.
#include "data/pictures.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <new>
#include <set>
#include <utility>

#include "check.h"
#include "data/resize.h"
#include "formats/files.h"
#include "formats/foreign.h"
#include "formats/picture.h"
#include "formats/progress_line.h"

namespace dualmcmc {
namespace {

namespace fs = std::filesystem;

constexpr int64_t named_files = 10;    // that cannot be read, a line each
constexpr size_t examined_files = 20;  // of a folder without pictures, for the message

// ---- the files ----------------------------------------------------------------------------------

struct Found {
    std::vector<std::string> pictures, others;
    std::set<std::pair<dev_t, ino_t>> folders;  // visited
};

void note(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

void search(const fs::path& folder, Found& found) {
    struct stat status {};
    if (stat(folder.c_str(), &status) != 0 || !found.folders.emplace(status.st_dev, status.st_ino).second) return;
    std::error_code error;
    std::vector<fs::path> entries;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
        entries.push_back(entry->path());
    if (error) note(text(folder.string(), " is left out: ", error.message()));
    std::sort(entries.begin(), entries.end());  // decides which of two links to a folder is followed
    const bool of_sample = fs::exists(folder / "samples.txt", error);
    for (const fs::path& entry : entries) {
        const std::string name = entry.filename().string();
        if (name.starts_with(".") || (of_sample && name == "samples.png")) continue;
        if (fs::is_directory(entry, error)) search(entry, found);
        else (has_picture_name(name) ? found.pictures : found.others).push_back(entry.string());
    }
}

// What a folder without pictures holds instead, with the remedy.
[[noreturn]] void refuse_without_pictures(const std::string& folder, std::vector<std::string> others) {
    std::sort(others.begin(), others.end());
    const std::string none = text("there is no PNG or JPEG picture in ", folder, " or its sub-folders");
    for (size_t i = 0; i < std::min(others.size(), examined_files); ++i) {
        std::string what;
        try {
            const std::string head = InputFile(others[i]).head();
            what = head.starts_with("\x93NUMPY") ? text("a .npy; give it: --data ", shell_word(others[i]))
                                                 : foreign_format(others[i], head, Wanted::data);
        } catch (const std::exception& error) {  // not fetched, or unreadable
            fail(none, "; ", error.what());
        }
        const std::string name = fs::path(others[i]).filename().string();
        if (name.starts_with("data_batch_") && name.ends_with(".bin"))
            what = text("a file of CIFAR-10; give its folder: --data ",
                        shell_word(fs::path(others[i]).parent_path().string()));
        if (!what.empty() && what != "a text file") fail(none, "; ", others[i], " is ", what);
    }
    fail(none,
         others.empty() ? ", nor any other file" : text(", only ", others.size(), " other files, such as ", others[0]),
         "; give a folder with pictures, or with CIFAR-10's binary files (`bash data/cifar10.sh` fetches them)");
}

// ---- the pictures -------------------------------------------------------------------------------

enum class Fit { as_it_is, celeba, cropped, enlarged };

Fit read_one(const std::string& path, int64_t size, uint8_t* out) {
    const RgbPicture picture = read_picture(path);
    if (size == celeba_size && picture.height == celeba_height && picture.width == celeba_width) {
        prepare_celeba(picture.pixels.data(), out);
        return Fit::celeba;
    }
    crop_and_average(picture.pixels.data(), picture.height, picture.width, size, out);
    const int64_t side = std::min(picture.height, picture.width);
    if (side < size) return Fit::enlarged;
    return picture.height == size && picture.width == size ? Fit::as_it_is : Fit::cropped;
}

std::string summary(const std::string& name, int64_t count, const int64_t (&fits)[4], int64_t size) {
    const auto share = [&](Fit fit, const std::string& what) {
        const int64_t n = fits[size_t(fit)];
        return n == 0 ? "" : text(", ", n == count ? "all" : std::to_string(n), " ", what);
    };
    return text(name, ": ", count, count == 1 ? " picture" : " pictures",
                share(Fit::celeba, "of CelebA's 178x218, cropped as in the authors' code"),
                share(Fit::cropped, text("cropped and reduced to ", size, "x", size)),
                share(Fit::enlarged, text("enlarged to ", size, "x", size)));
}

// Files that cannot be read: names the first, and fails if there are too many.
void check_unreadable(const std::string& folder, const std::vector<std::string>& reasons, int64_t files) {
    const int64_t bad = int64_t(reasons.size());
    if (bad == 0) return;
    if (bad == files || 2 * bad > files || (bad > named_files && 10 * bad > files))
        fail(folder, ": ", bad, " of ", files, " pictures cannot be read, which is too many; the first: ", reasons[0]);
    for (int64_t i = 0; i < std::min(bad, named_files); ++i) note("left out: " + reasons[size_t(i)]);
    if (bad > named_files) note(text("left out: ", bad - named_files, " more, for such reasons"));
}

// What KeepPictures keeps.
struct Kept {
    std::vector<std::string> files;
    int64_t size;
    PictureSet set;
};
bool keeping = false;
std::vector<Kept> kept;

PictureSet decode(const std::string& folder, const std::vector<std::string>& files, int64_t size) {
    const int64_t count = int64_t(files.size()), values = size * size * 3;
    fs::path name = fs::path(folder).lexically_normal();
    if (!name.has_filename()) name = name.parent_path();  // a slash at the end
    PictureSet out{empty_images(name.string(), count, size), {}};
    uint8_t* const pixels = out.images.pixels.data();
    std::vector<std::string> errors(files.size());
    std::vector<Fit> fit(files.size());
    CountProgress progress("reading pictures: ", "pictures", 0, count);
    int64_t done = 0;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < count; ++i) {
        try {
            fit[size_t(i)] = read_one(files[size_t(i)], size, pixels + i * values);
        } catch (const std::bad_alloc&) {
            errors[size_t(i)] = files[size_t(i)] + " needs more memory than there is";
        } catch (const std::exception& error) {
            errors[size_t(i)] = error.what();
        }
#pragma omp critical
        progress.show(++done);
    }
    progress.end();

    std::vector<std::string> reasons;
    int64_t fits[4] = {};
    uint8_t* to = pixels;  // of the next picture that could be read
    for (int64_t i = 0; i < count; ++i) {
        if (!errors[size_t(i)].empty()) {
            reasons.push_back(errors[size_t(i)]);
            continue;
        }
        if (to != pixels + i * values) std::copy_n(pixels + i * values, values, to);
        to += values;
        out.indices.push_back(i);
        ++fits[size_t(fit[size_t(i)])];
    }
    check_unreadable(folder, reasons, count);
    out.images.count = int64_t(out.indices.size());
    out.images.pixels.resize(size_t(out.images.count * values));
    note(summary(out.images.name, out.images.count, fits, size));
    return out;
}

}  // namespace

KeepPictures::KeepPictures() { keeping = true; }
KeepPictures::~KeepPictures() { keeping = false, kept.clear(); }

std::vector<std::string> find_pictures(const std::string& folder) {
    Found found;
    search(folder, found);
    if (found.pictures.empty()) refuse_without_pictures(folder, found.others);
    std::sort(found.pictures.begin(), found.pictures.end());
    return found.pictures;
}

PictureSet read_pictures(const std::string& folder, const std::vector<std::string>& files, int64_t size) {
    for (const Kept& known : kept)
        if (known.size == size && known.files == files) return known.set;
    PictureSet out = decode(folder, files, size);
    if (keeping) kept.push_back({files, size, out});
    return out;
}

}  // namespace dualmcmc
