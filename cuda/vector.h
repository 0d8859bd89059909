// Vectors as wide as this compilation's SIMD registers, for the CPU's kernels.
#pragma once
#include <type_traits>
#include <utility>

#include "backend.h"

namespace dualmcmc::DEVICE_NAMESPACE {

#if defined(__AVX512F__)
constexpr int register_bytes = 64;
#elif defined(__AVX2__)
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif
constexpr int lanes = register_bytes / int(sizeof(real));

#define INLINE __attribute__((always_inline))  // a call would spill the vectors in registers

using Vector = real __attribute__((vector_size(lanes * sizeof(real))));
// Clang heeds `aligned` in a typedef, not in an alias declaration.
typedef real UnalignedVector __attribute__((vector_size(lanes * sizeof(real)), aligned(sizeof(real))));
static_assert(alignof(UnalignedVector) == alignof(real));

inline Vector load(const real* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
inline void store(real* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
inline void store(real* p, real value) { *p = value; }

// One real at p, or a Vector from p on.
template <class Values>
INLINE inline Values at(const real* p) {
    if constexpr (std::is_same_v<Values, real>) return *p;
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
