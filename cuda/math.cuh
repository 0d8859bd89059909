// Elementary functions without branches or calls, so that loops over them vectorise. The polynomials are those of
// Cephes (Moshier 1992), accurate to a few units in the last place of float32. NaN stays NaN. In double precision they
// are the standard library's.
#pragma once
#include "launch.h"

namespace dualmcmc::DEVICE_NAMESPACE {

// log u for u in (0, 1], within 2 units in the last place: u = 2^e (1 + f) with f in [√½ - 1, √2 - 1), and
// log(1 + f) is a polynomial.
DEVICE inline float log_of_uniform(float u) {
    const int32_t bits = __builtin_bit_cast(int32_t, u), root_half = 0x3F3504F3;
    const int32_t exponent = (bits - root_half) >> 23;
    const float e = float(exponent), f = __builtin_bit_cast(float, bits - exponent * (1 << 23)) - 1, square = f * f;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    p = p * f * square - 2.12194440e-4f * e - 0.5f * square;
    return f + p + 0.693359375f * e;  // e log 2, in two parts
}

// sin 2πu and cos 2πu for u in (0, 1]. Subtracting the nearest quarter turn is exact.
DEVICE inline void sincos_of_turns(float u, float& sine, float& cosine) {
    const int32_t quarter = int32_t(4 * u + 0.5f);
    const float a = (4 * u - float(quarter)) * 1.57079632679489662f, square = a * a;
    const float s = a + a * square * ((-1.9515295891e-4f * square + 8.3321608736e-3f) * square - 1.6666654611e-1f);
    const float c =
        1 - 0.5f * square +
        square * square * ((2.443315711809948e-5f * square - 1.388731625493765e-3f) * square + 4.166664568298827e-2f);
    const bool odd = quarter & 1;
    sine = (odd ? c : s) * (quarter & 2 ? -1.0f : 1.0f);
    cosine = (odd ? s : c) * ((quarter + 1) & 2 ? -1.0f : 1.0f);
}

// e^x, x clamped to ±87, about float32's range: x = n log 2 + r with |r| <= ½ log 2.
DEVICE inline float exp_vectorised(float x) {
    x = x > 87 ? 87 : x < -87 ? -87 : x;
    const float n = floorf(x * 1.44269504088896341f + 0.5f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1) * __builtin_bit_cast(float, (int32_t(n) + 127) * (1 << 23));  // times 2^n
}

// 1 - 2 / (e^2|x| + 1) with the sign of x; below 0.625, where that would cancel, a polynomial.
DEVICE inline float tanh_vectorised(float x) {
    const float magnitude = x < 0 ? -x : x, square = x * x;
    const float far = 1 - 2 / (exp_vectorised(2 * magnitude) + 1);
    const float p = (((-5.70498872745e-3f * square + 2.06390887954e-2f) * square - 5.37397155531e-2f) * square +
                     1.33314422036e-1f) *
                        square -
                    3.33332819422e-1f;
    const float near = x + x * square * p;
    return magnitude < 0.625f ? near : x < 0 ? -far : far;
}

#ifndef GPU
inline double log_of_uniform(double u) { return std::log(u); }
inline void sincos_of_turns(double u, double& sine, double& cosine) {
    constexpr double two_pi = 6.283185307179586477;
    sine = std::sin(two_pi * u);
    cosine = std::cos(two_pi * u);
}
inline double exp_vectorised(double x) { return std::exp(x); }
inline double tanh_vectorised(double x) { return std::tanh(x); }
#endif

DEVICE inline real sigmoid_vectorised(real x) { return 1 / (1 + exp_vectorised(-x)); }

}  // namespace dualmcmc::DEVICE_NAMESPACE
