// exp in double for vectors, of numbers not above 0, and loads that widen to double.
#pragma once

#include "vectors.h"

namespace {

typedef int64_t Longs __attribute__((vector_size(VECTOR_BYTES)));

template <typename A>
using Lanes = std::conditional_t<sizeof(A) == 8, Longs, Integers>;  // what comparing vectors of A gives

// A vector of T's at `from`, widened to double.
template <typename T>
inline Vec<double> load_double(const T* from) {
  constexpr int W = Vector<double>::width;
  if constexpr (std::is_same_v<T, double>) {
    return load<double>(from);
  } else if constexpr (std::is_same_v<T, float>) {
    typedef float Half __attribute__((vector_size(VECTOR_BYTES / 2)));
    Half half;
    std::memcpy(&half, from, sizeof half);
    return __builtin_convertvector(half, Vec<double>);
#if defined(__AVX512F__)
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    const __m128i narrow_bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow_bits), 16);
    return (Vec<double>)_mm512_cvtps_pd(_mm256_castsi256_ps(bits));
#endif
  } else {
    Vec<double> x;
    for (int i = 0; i < W; ++i) x[i] = widen(from[i]);
    return x;
  }
}

// exp of each, for x <= 0: within 1e-14 of it, 0 below -700. Cody and Waite's reduction, Taylor's polynomial.
inline Vec<double> exponential_below(Vec<double> x) {
  const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to whole numbers, kept in the last bits
  const Vec<double> shifted = x * 1.44269504088896340736 + magic;
  const Vec<double> whole = shifted - magic;
  const Vec<double> r = (x - whole * 0.693145751953125) - whole * 1.42860682030941723212e-6;
  const Vec<double> square = r * r, fourth = square * square;
  const Vec<double> low = (1.0 + r) + square * (1.0 / 2 + r * (1.0 / 6));
  const Vec<double> middle = (1.0 / 24 + r * (1.0 / 120)) + square * (1.0 / 720 + r * (1.0 / 5040));
  const Vec<double> high = (1.0 / 40320 + r * (1.0 / 362880)) + square * (1.0 / 3628800 + r * (1.0 / 39916800));
  const Vec<double> y = low + fourth * (middle + fourth * high);
  Longs bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 1023) << 52;
  Vec<double> scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return x < -700.0 ? Vec<double>{} : y * scale;
}

}  // namespace
