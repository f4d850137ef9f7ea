// bfloat16 two by two: how numbers are laid out where the processor multiplies pairs (AVX-512 BF16, AMX).
//
// A pair is two neighbours, 32 bits. Widened numbers are kept out of their order where that is cheaper, and put back
// when they become bfloat16 again.
#pragma once

#include "vectors.h"

#if defined(__AVX512BF16__)
#define HAS_PAIRS 1

namespace {

// Four pairs from `at` on, of 16 rows: turned[i] has pair i of every row.
inline void turn_pairs(const bfloat16* const* rows, int64_t at, __m512i* turned) {
  const auto four = [&](int row) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[row] + at)); };
  __m512i x[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm512_castsi128_si512(four(i));
    x[i] = _mm512_inserti32x4(x[i], four(4 + i), 1);
    x[i] = _mm512_inserti32x4(x[i], four(8 + i), 2);
    x[i] = _mm512_inserti32x4(x[i], four(12 + i), 3);
  }
  const __m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpackhi_epi32(x[0], x[1]);
  const __m512i c = _mm512_unpacklo_epi32(x[2], x[3]), d = _mm512_unpackhi_epi32(x[2], x[3]);
  turned[0] = _mm512_unpacklo_epi64(a, c), turned[1] = _mm512_unpackhi_epi64(a, c);
  turned[2] = _mm512_unpacklo_epi64(b, d), turned[3] = _mm512_unpackhi_epi64(b, d);
}

// 32 numbers widened: those of even places, then those of odd ones.
inline void split_pairs(const bfloat16* from, Vec<float>* to) {
  const __m512i x = _mm512_loadu_si512(from);
  to[0] = (Vec<float>)_mm512_slli_epi32(x, 16);
  to[1] = (Vec<float>)_mm512_and_si512(x, _mm512_set1_epi32(int32_t(0xffff0000)));
}

inline void join_split_pairs(bfloat16* to, Vec<float> even, Vec<float> odd) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)even));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)odd));
  _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

// 32 numbers of two rows, interleaved: (x[i], y[i]), the first four of every eight, then the last four.
inline void interleave(const bfloat16* x, const bfloat16* y, __m512i& first, __m512i& last) {
  const __m512i a = _mm512_loadu_si512(x), b = y ? _mm512_loadu_si512(y) : _mm512_setzero_si512();
  first = _mm512_unpacklo_epi16(a, b), last = _mm512_unpackhi_epi16(a, b);
}

inline void join_interleaved(bfloat16* to, Vec<float> first, Vec<float> last) {
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh((__m512)first)),
                                          (__m256i)_mm512_cvtneps_pbh((__m512)last), 1);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, both));
}

}  // namespace

#else
#define HAS_PAIRS 0
#endif
