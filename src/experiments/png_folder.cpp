// See png_folder.h.
#include "experiments/png_folder.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>

#include "check.h"
#include "formats/files.h"
#include "formats/png.h"

namespace dualmcmc {

namespace fs = std::filesystem;

namespace {

std::string name_of(int64_t index) {
    char name[32];
    std::snprintf(name, sizeof name, "%06lld.png", static_cast<long long>(index));
    return name;
}

// Whether the file exists and ends as every PNG does, with the type and checksum of its last chunk. (A power cut may
// leave an empty file.)
bool is_complete(const std::string& path) {
    char end[8] = {};
    std::ifstream in(path, std::ios::binary);
    in.seekg(-8, std::ios::end);
    return in.read(end, 8) && std::equal(end, end + 8, "IEND\xae\x42\x60\x82");
}

}  // namespace

PngFolder::PngFolder(const std::string& path, int64_t count) : path_(path), count_(count) {
    make_folder(path);
    for (const auto& entry : fs::directory_iterator(path)) {
        const std::string found = entry.path().filename().string(), whole = final_name(found),
                          name = whole.empty() ? found : whole;
        const std::string number = name.substr(0, name.find_first_not_of("0123456789"));
        const bool ours = !number.empty() && number.size() <= 15 && std::stoll(number) < count;
        if (!ours || name != name_of(std::stoll(number)))
            fail("--out: ", path, " holds ", found, ", which is not one of the ", count,
                 " images 000000.png … and would be counted with them; empty the folder or give another --out");
        if (!whole.empty()) fs::remove(entry.path());  // left by a killed run
    }
    while (complete_ < count_ && is_complete(file(complete_))) ++complete_;
}

std::string PngFolder::file(int64_t index) const { return path_ + "/" + name_of(index); }

void PngFolder::write(int64_t first, const ImageSet& images) const {
    const int64_t wanted = std::min(images.count, count_ - first);
    std::exception_ptr error;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < wanted; ++i) {
        try {
            write_png(file(first + i), image_at(images, i), images.size, images.size, false);
        } catch (...) {
#pragma omp critical
            error = std::current_exception();
        }
    }
    if (error) std::rethrow_exception(error);
}

void PngFolder::check() const {
    const auto files = std::distance(fs::directory_iterator(path_), fs::directory_iterator());
    for (int64_t i = 0; i < count_; ++i)
        if (!is_complete(file(i)))
            fail(file(i), " is missing or incomplete; run the same command again to continue from there");
    if (files != count_)
        fail(path_, " holds ", files, " files, but ", count_, " images were written; empty the folder and start again");
}

}  // namespace dualmcmc
