// Any file as one of CIFAR's. The first byte says whether the rest is a file as it is, or the beginning of one of the
// right size.
#include "data/dataset.h"
#include "fuzz.h"

using namespace dualmcmc;

FUZZ_HARNESS {
    const std::string path = fuzz::file_of("a.bin", data, size);
    const off_t whole = size % 2 ? 30730000 : 30740000;  // CIFAR-10's files, CIFAR-100's test images
    if (size % 64 < 2 && truncate(path.c_str(), whole) != 0) fuzz::finding("cannot lengthen", path);
    fuzz::expect_value_or_line([&] { load_dataset(path, 32, 1); });
    return 0;
}
