// Any file as .npy: as images one by one, and as a data set.
#include <vector>

#include "data/dataset.h"
#include "formats/npy.h"
#include "fuzz.h"

using namespace dualmcmc;

FUZZ_HARNESS {
    const std::string path = fuzz::file_of("a.npy", data, size);
    fuzz::expect_value_or_line([&] {
        NpyImages images(path);
        std::vector<uint8_t> image(static_cast<size_t>(images.height * images.width * 3));
        for (int64_t i = 0; i < images.count; ++i) images.read_next(image.data());
    });
    for (const int64_t side : {32, 64}) fuzz::expect_value_or_line([&] { load_dataset(path, side, 1); });
    return 0;
}
