// Loads data sets: the official binary files of CIFAR-10 and CIFAR-100, a .npy file of images, or the built-in shapes.
// For batches and image grids see images.h.
#pragma once
#include <cstdint>
#include <string>

#include "data/images.h"

namespace dualmcmc {

struct Dataset {
    ImageSet train, held_out;
};

// Loads the data set `source` for an architecture whose images are size x size (32 or 64). `source` is one of
//   shapes         10000 images drawn from `seed` (shapes.h); held out: 2000 more, from a different seed
//   a folder       CIFAR-10's data_batch_1.bin ... data_batch_5.bin and test_batch.bin (held out), there or in the
//                  subfolder cifar-10-batches-bin; or CIFAR-100's train.bin and test.bin (held out), there or in the
//                  subfolder cifar-100-binary; size 32 only
//   a .bin file    a single one of these files, used for both train and held_out
//   a .npy file    uint8, (N, size, size, 3); or, with size 64, (N,218,178,3): CelebA's aligned images, preprocessed as
//                  in the authors' code (prepare_celeba). Held out: the last tenth; of fewer than 1000 images the whole
//                  set serves as both train and held_out
// Fails with one line that names the file, the problem and the remedy.
Dataset load_dataset(const std::string& source, int64_t size, uint64_t seed);

// The default `source`: the folder $CIFAR10_DIR or else data/cifar-10-batches-bin. Fails for size 64, which has none.
std::string default_data(int64_t size);

// One aligned CelebA image, (218,178,3), cropped to the square x 15..163, y 40..188 and resized to out, (64,64,3).
// Bit-identical to PIL's crop((15, 40, 163, 188)).resize((64, 64), BILINEAR), which torchvision's Resize calls.
void prepare_celeba(const uint8_t* image, uint8_t* out);

}  // namespace dualmcmc
