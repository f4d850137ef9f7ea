// Rows of int8 in two halves, as int8_matmul.py tells, laid out as tile registers read them.
#pragma once

#include "tiles.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define HAS_BYTE_PRODUCTS 1
#if HAS_TILES && defined(__AMX_INT8__)
#define HAS_BYTE_TILES 1
#else
#define HAS_BYTE_TILES 0
#endif

namespace {

constexpr int64_t BYTES = 64;       // inputs in a tile
constexpr int64_t BLOCK = 16;       // rows of a tile, and outputs of one
constexpr int64_t TILE_BYTES = BLOCK * BYTES;
constexpr float HALF = 128.0f;      // of a step of the high half, in steps of the low one
constexpr float STEPS = 127.0f;
constexpr float SMALLEST = 1e-30f;  // the largest number of a row of zeros: 0 / 1e-30 is 0

// Where row r's halves are: block of 16 rows, half, 64 inputs, row, input.
inline int8_t* half_of(int8_t* halves, int64_t row, int64_t half, int64_t depth) {
  return halves + ((row / BLOCK * 2 + half) * depth * BLOCK + row % BLOCK) * BYTES;
}

template <typename T>
inline __m512 load_part(const T* from, int64_t count) {  // zeros beyond count
  if (count >= 16) return (__m512)load_wide<T>(from);
  T part[16] = {};
  std::memcpy(part, from, count * sizeof(T));
  return (__m512)load_wide<T>(part);
}

// The row's halves; returns its scale: NaN and infinity make it so.
template <typename T>
inline float split_row(const T* x, int64_t size, int64_t depth, int8_t* high, int8_t* low) {
  const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
  __m512i largest = _mm512_setzero_si512();  // as bits, in which NaN is above all numbers
  for (int64_t k = 0; k < size; k += 16)
    largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(load_part<T>(x + k, size - k)), no_sign));
  const uint32_t bits = _mm512_reduce_max_epu32(largest);
  float most;
  std::memcpy(&most, &bits, sizeof most);
  const float scale = (most < SMALLEST ? SMALLEST : most) / (STEPS * HALF);
  for (int64_t k = 0; k < depth * BYTES; k += 16) {
    __m512i steps = _mm512_setzero_si512(), highs = steps;
    if (k < size) {
      const __m512 exact = _mm512_div_ps(load_part<T>(x + k, size - k), _mm512_set1_ps(scale));
      steps = _mm512_cvtps_epi32(exact);  // to the nearest, ties to even
      highs = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(steps), _mm512_set1_ps(1 / HALF)));
      steps = _mm512_sub_epi32(steps, _mm512_slli_epi32(highs, 7));
    }
    const int64_t at = k / BYTES * TILE_BYTES + k % BYTES;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high + at), _mm512_cvtepi32_epi8(highs));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low + at), _mm512_cvtepi32_epi8(steps));
  }
  return scale;
}

}  // namespace

#else
#define HAS_BYTE_PRODUCTS 0
#endif
