// Brings images of any size to the size of an architecture.
#pragma once
#include <cstdint>

namespace dualmcmc {

inline constexpr int64_t celeba_height = 218, celeba_width = 178, celeba_size = 64;

// One aligned CelebA image, (218,178,3), cropped to the square x 15..163, y 40..188 and resized to out, (64,64,3).
// Bit-identical to PIL's crop((15, 40, 163, 188)).resize((64, 64), BILINEAR), which torchvision's Resize calls.
void prepare_celeba(const uint8_t* image, uint8_t* out);

// The square in the centre of an image, (height, width, 3), resized to out, (size, size, 3). An output pixel is the
// mean over its area of the image, pixels that it covers in part counting in part: computed exactly, then rounded once.
// So an image of that size stays as it is, and an enlarged one has sharp pixels.
void crop_and_average(const uint8_t* image, int64_t height, int64_t width, int64_t size, uint8_t* out);

}  // namespace dualmcmc
