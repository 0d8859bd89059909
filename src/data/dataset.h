// Loads data sets: folders of pictures, the official binary files of CIFAR-10 and CIFAR-100, a .npy file of images, or
// the built-in shapes. For batches and image grids see images.h.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "data/images.h"
#include "data/resize.h"

namespace dualmcmc {

struct Dataset {
    ImageSet train, held_out;
    bool none_held_out = false;  // `held_out` are the training images, in the order of their indices' hashes
};

// Loads the data set `source` for an architecture whose images are size x size (32 or 64). `source` is one of
//   shapes         10000 images drawn from `seed` (shapes.h); held out: 2000 more, from a different seed
//   a folder       with CIFAR-10's data_batch_1.bin ... data_batch_5.bin and test_batch.bin (held out), there or in the
//                  subfolder cifar-10-batches-bin; or CIFAR-100's train.bin and test.bin (held out), there or in the
//                  subfolder cifar-100-binary; size 32 only
//   a folder       of PNG or JPEG pictures, sub-folders too (pictures.h)
//   a .npy file    uint8, (N, size, size, 3); or, with size 64, (N,218,178,3): CelebA's aligned images, preprocessed as
//                  in the authors' code (prepare_celeba)
//   a .bin file    a single one of CIFAR's files; none held out
// Of a .npy file and a folder of pictures a tenth is held out, chosen by a hash of the image's index and in the order
// of that hash, so that a set sorted by class does not hold out one class; of fewer than 1000 images none. Fails with
// one line that names the file, the problem and the remedy.
Dataset load_dataset(const std::string& source, int64_t size, uint64_t seed);

inline constexpr int64_t every_image = INT64_MAX;

// At most `count` images of a part of that data set: the first held-out ones, or training images spread over the set.
// Of a folder of pictures only they are decoded.
ImageSet load_held_out(const std::string& source, int64_t size, uint64_t seed, int64_t count);
ImageSet load_train(const std::string& source, int64_t size, uint64_t seed, int64_t count);
// Both parts at once.
Dataset load_some(const std::string& source, int64_t size, uint64_t seed, int64_t train_count, int64_t held_out_count);

// At most `count` images spread over a whole file or folder of pictures, in their order. None for sets with a split of
// their own: `shapes`, and folders with CIFAR-10 or CIFAR-100.
std::optional<ImageSet> load_unsplit(const std::string& source, int64_t size, int64_t count = every_image);

// "45000 training images, 5000 held out", or that none are.
std::string describe(const Dataset& data);

// The default `source`: the folder $CIFAR10_DIR or else data/cifar-10-batches-bin. Fails for size 64, which has none.
std::string default_data(int64_t size);

}  // namespace dualmcmc
