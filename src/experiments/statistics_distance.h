// How far a set of images is from the data, by statistics of single images that need no trained network:
//
//   * the mean of each colour;
//   * for each colour and each spatial frequency from 1 to S/2 cycles an image, the logarithm of the power there:
//     contrast, blur, noise, and a generator's checkerboards;
//   * for each colour, differences of neighbours along x and along y, in the image and in its averages over 2×2 and
//     4×4 pixels: the logarithm of their root mean square over their mean size. It is large where few sharp edges
//     separate plain areas, and small in texture of the same power.
//
// The power is of the image less its mean, under a window sin² along each axis. To it, and to the differences, the
// variance of rounding to 256 levels is added, so that plain images have finite logarithms.
//
// Each statistic has a mean m and a deviation s over the images, and m' and s' over the data. The distance is the mean
// over all statistics of the squared Hellinger distance between normal distributions of these moments,
//
//   1 - sqrt(2 s s' / (s² + s'²)) exp(-(m - m')² / (4 (s² + s'²))),
//
// which is 0 where they agree and 1 where they have nothing in common, by their place or because all images are alike.
// It is not the FID: RESULTS.md compares it with a distance over the features of a trained network, and says what it
// does not see.
#pragma once
#include <vector>

#include "data/images.h"

namespace dualmcmc {

// How many images of the training set stand for the data; load_some chooses the same ones.
inline constexpr int64_t distance_data_images = 2048;

class StatisticsDistance {
public:
    // `data`: at least two images, their side a power of two and at least 16; of more than distance_data_images as
    // many, spread over the set, stand for it. Statistics that do not vary over them are left out.
    explicit StatisticsDistance(const ImageSet& data);
    // The distance of at least two images of the same size; above 0 for images of the same distribution, too, and the
    // more so the fewer they are: only values for equal numbers compare. The number of threads does not matter.
    double operator()(const ImageSet& images) const;

private:
    int64_t size_;
    std::vector<double> mean_, deviation_;
};

// The statistics of one image, (S,S,3), where S is a power of two, at least 16: 3 means, 3 S/2 powers by frequency, 18
// ratios by scale and direction; colours innermost. Exposed for the tests.
std::vector<double> image_statistics(const uint8_t* image, int64_t size);

}  // namespace dualmcmc
