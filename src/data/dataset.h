// Data sets: the official binary files of CIFAR-10 and CIFAR-100, a .npy file of images, or the built-in shapes. Files
// only: batches and pictures are image.h's business.
#pragma once
#include <cstdint>
#include <string>

#include "data/images.h"

namespace dualmcmc {

struct Dataset {
    ImageSet train, held_out;
};

// Reads the data set `source`, for an architecture of image side `size` (32 or 64). `source` is one of
//   shapes         10000 images drawn from `seed` (shapes.h); held out: 2000, drawn from another seed
//   a folder       CIFAR-10's data_batch_1.bin ... data_batch_5.bin and test_batch.bin (held out), in it or in its
//                  subfolder cifar-10-batches-bin; or CIFAR-100's train.bin and test.bin (held out), in it or in its
//                  subfolder cifar-100-binary; size 32 only
//   a .bin file    one of these files alone, as train and held_out both
//   a .npy file    uint8, (N, size, size, 3); or (N,218,178,3) with size 64, CelebA's aligned images, which are
//                  prepared as the release does (prepare_celeba). Held out: the last tenth; with fewer than
//                  1000 images none can be spared, and held_out is the whole set, as train is
// Everything else is one line that names the file, what is wrong and what to do.
Dataset load_dataset(const std::string& source, int64_t size, uint64_t seed);

// The source that is meant where none is given: the folder $CIFAR10_DIR, or else data/cifar-10-batches-bin. Fails for
// size 64, which has none.
std::string default_data(int64_t size);

// One aligned CelebA image, (218,178,3), cropped to the square x 15..163, y 40..188 and resized to out, (64,64,3), bit
// for bit as PIL's crop((15, 40, 163, 188)).resize((64, 64), BILINEAR), which is what torchvision's Resize calls.
void prepare_celeba(const uint8_t* image, uint8_t* out);

}  // namespace dualmcmc
