// Vectors of the machine's width, in the GCC and Clang dialect: loads that widen, stores that round, exp, sums.
//
// 16-bit numbers are computed with in float, float and double in themselves. Nothing here is reordered by the
// compiler (no -ffast-math): NaN and infinity stay what they are.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

struct bfloat16 {
  uint16_t bits;
};

namespace {

using float16 = _Float16;

// Work<T>: what T is computed in, and vectors of that.
template <typename T>
struct Work {
  using type = float;
};
template <>
struct Work<double> {
  using type = double;
};

template <typename A>
struct Vector {
  static constexpr int width = VECTOR_BYTES / sizeof(A);
  typedef A type __attribute__((vector_size(VECTOR_BYTES)));
};
typedef int32_t Integers __attribute__((vector_size(VECTOR_BYTES)));

template <typename A>
using Vec = typename Vector<A>::type;

template <typename A>
inline Vec<A> all(A x) {
  return x - Vec<A>{};  // x - 0: also keeps the sign of -0
}

template <typename A>
inline Vec<A> load(const A* from) {
  Vec<A> x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <typename A>
inline void store(A* to, Vec<A> x) {
  std::memcpy(to, &x, sizeof x);
}

inline float widen(bfloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}
inline float widen(float16 x) { return float(x); }
inline float widen(float x) { return x; }
inline double widen(double x) { return x; }

// To the nearest, ties to even.
inline void narrow(float x, bfloat16& to) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  to.bits = is_nan ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline void narrow(float x, float16& to) { to = float16(x); }
inline void narrow(float x, float& to) { to = x; }
inline void narrow(double x, double& to) { to = x; }

// A vector of T's at `from`, widened.
template <typename T>
inline Vec<typename Work<T>::type> load_wide(const T* from) {
  using A = typename Work<T>::type;
  if constexpr (std::is_same_v<T, A>) {
    return load<A>(from);
  } else if constexpr (std::is_same_v<T, bfloat16>) {
#if defined(__AVX512F__)
    const __m256i narrow_bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return (Vec<float>)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow_bits), 16));
#else
    Vec<float> x;
    for (int i = 0; i < Vector<float>::width; ++i) x[i] = widen(from[i]);
    return x;
#endif
  } else {
    Vec<A> x;
    for (int i = 0; i < Vector<A>::width; ++i) x[i] = widen(from[i]);
    return x;
  }
}

template <typename T>
inline void store_narrow(T* to, Vec<typename Work<T>::type> x) {
  using A = typename Work<T>::type;
  if constexpr (std::is_same_v<T, A>) {
    store<A>(to, x);
  } else {
#if defined(__AVX512BF16__)
    if constexpr (std::is_same_v<T, bfloat16>) {
      const __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
      std::memcpy(to, &rounded, sizeof rounded);
      return;
    }
#endif
    for (int i = 0; i < Vector<A>::width; ++i) narrow(x[i], to[i]);
  }
}

template <typename A>
inline Vec<A> larger(Vec<A> x, Vec<A> y) {
  return x > y ? x : y;
}

template <typename A>
inline A sum(Vec<A> x) {  // by halves
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<A, float>) return _mm512_reduce_add_ps((__m512)x);
#endif
  constexpr int width = Vector<A>::width;
  A part[width];
  std::memcpy(part, &x, sizeof x);
  for (int half = width / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

// Lane j: the sum over the lanes of sums[j].
template <typename A>
inline Vec<A> sums_of_each(Vec<A>* sums) {
  constexpr int width = Vector<A>::width;
#if defined(__clang__)  // has no shuffle by a vector of indices
  for (int j = 0; j < width; ++j) sums[0][j] = sum<A>(sums[j]);
#else
  typedef std::conditional_t<sizeof(A) == 8, int64_t, int32_t> Lanes __attribute__((vector_size(VECTOR_BYTES)));
  Lanes even, odd;
  for (int i = 0; i < width; ++i) even[i] = 2 * i, odd[i] = 2 * i + 1;
#pragma GCC unroll 4
  for (int left = width / 2; left; left /= 2)  // neighbours are added, two vectors becoming one
#pragma GCC unroll 8
    for (int j = 0; j < left; ++j)
      sums[j] = __builtin_shuffle(sums[2 * j], sums[2 * j + 1], even) +
                __builtin_shuffle(sums[2 * j], sums[2 * j + 1], odd);
#endif
  return sums[0];
}

template <typename A>
inline A maximum(Vec<A> x) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<A, float>) return _mm512_reduce_max_ps((__m512)x);
#endif
  A part = x[0];
  for (int i = 1; i < Vector<A>::width; ++i) part = x[i] > part ? x[i] : part;
  return part;
}

// exp of each, for x <= 88: within 2 units in the last place, 0 below the smallest normal number, NaN of NaN.
// Cody and Waite's reduction, Cephes' polynomial.
inline Vec<float> exponential(Vec<float> x) {
  const Vec<float> turns = x * 1.44269504088896341f;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds to whole numbers
  const Vec<float> whole = (turns + magic) - magic;
  const Vec<float> r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vec<float> y = all(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  const Integers exponent = (__builtin_convertvector(whole, Integers) + 127) << 23;
  Vec<float> scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return x < -87.3f ? Vec<float>{} : y * scale;
}

inline Vec<double> exponential(Vec<double> x) {  // exactness counts here, not speed
  Vec<double> y;
  for (int i = 0; i < Vector<double>::width; ++i) y[i] = std::exp(x[i]);
  return y;
}

// 2 to the power of each, for x <= 127: within 2.1 units in the last place, 1 of 0, 0 below the smallest normal number,
// NaN of NaN. A minimax polynomial of what is left of the next whole number.
inline Vec<float> power_of_two(Vec<float> x) {
  const float magic = 12582912.0f;  // as above
  const Vec<float> whole = (x + magic) - magic;
  const Vec<float> r = x - whole;
  Vec<float> y = all(1.3264727e-3f);
  y = y * r + 9.6715130e-3f;
  y = y * r + 5.5507336e-2f;
  y = y * r + 2.4022242e-1f;
  y = y * r + 6.9314700e-1f;
  y = y * r + 1.0f;
#if defined(__AVX512F__)
  const __mmask16 counts = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);  // NaN does
  return (Vec<float>)_mm512_maskz_scalef_ps(counts, (__m512)y, (__m512)whole);
#else
  const Integers exponent = (__builtin_convertvector(whole, Integers) + 127) << 23;
  Vec<float> scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return x < -126.0f ? Vec<float>{} : y * scale;
#endif
}

inline Vec<double> power_of_two(Vec<double> x) {
  Vec<double> y;
  for (int i = 0; i < Vector<double>::width; ++i) y[i] = std::exp2(x[i]);
  return y;
}

// Whether the processor multiplies two 16-bit numbers at once and adds both to a float.
template <typename T>
#if defined(__AVX512BF16__)
constexpr bool multiplies_pairs = std::is_same_v<T, bfloat16>;
#else
constexpr bool multiplies_pairs = false;
#endif

inline int64_t rounded_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

}  // namespace
