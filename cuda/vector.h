// Vectors as wide as this compilation's SIMD registers, for the CPU's kernels.
#pragma once
#include <type_traits>
#include <utility>

namespace dualmcmc::DEVICE_NAMESPACE {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

#define INLINE __attribute__((always_inline))  // a call would spill the vectors in registers

using Vector = float __attribute__((vector_size(lanes * sizeof(float))));
using UnalignedVector = float __attribute__((vector_size(lanes * sizeof(float)), aligned(sizeof(float))));

inline Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
inline void store(float* p, float value) { *p = value; }

// One float at p, or a Vector from p on.
template <class Values>
INLINE inline Values at(const float* p) {
    if constexpr (std::is_same_v<Values, float>) return *p;
    else return load(p);
}

// Calls body(integral_constant<int, 0 … count - 1>), unrolled at compile time, so that accumulator arrays stay in
// registers.
template <int count, class Body>
INLINE inline void unroll(Body body) {
    [&]<int... i>(std::integer_sequence<int, i...>) INLINE { (body(std::integral_constant<int, i>{}), ...); }
    (std::make_integer_sequence<int, count>{});
}

}  // namespace dualmcmc::DEVICE_NAMESPACE
