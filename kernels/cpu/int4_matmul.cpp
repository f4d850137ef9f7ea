// Rows times a weight of 4-bit codes: see int4_matmul.py.
//
// Weights are packed in columns of 16 outputs, and those in groups of 32 inputs: 64 bytes four times, then 16 scales
// and 16 zeros. The i-th 64 bytes hold inputs 8 i to 8 i + 3 in their low halves and 8 i + 4 to 8 i + 7 in their high
// ones, four inputs of an output side by side: what VPDPBUSD and a tile register read.

#include <omp.h>

#include <algorithm>

#include "byte_rows.h"
#include "products.h"

#if HAS_BYTE_PRODUCTS

namespace {

constexpr int64_t GROUP = 32, COLUMN = 16;  // inputs, outputs
constexpr int64_t RECORD = GROUP * COLUMN / 2 + 4 * COLUMN;
constexpr int64_t AHEAD = 12 * RECORD;
constexpr int64_t FEW = 4;  // rows up to which tiles do not pay
constexpr int64_t AT_ONCE = 4;  // groups
constexpr float MOST = 127.0f * 16.0f, NEXT = 16.0f;

struct Int4Weight {
  const uint8_t* packed;  // [columns, groups, RECORD]
  int64_t outputs, groups;
  int64_t columns() const { return (outputs + COLUMN - 1) / COLUMN; }
  const uint8_t* column(int64_t c) const { return packed + c * groups * RECORD; }
};

// What a group of a row's inputs shares.
struct Shared {
  float scale, total;   // of a step; of all numbers
  int32_t eight_times;  // the sum of steps
  int32_t unused;
};

// The rows of a call, halves: [blocks of 16 rows, groups, 16, 2, 32], shared: [rows, groups]. Where rows are computed
// several at a time, those that are nobody's are zeros.
struct Rows {
  int8_t* halves;
  Shared* shared;
  int64_t count, groups;
  int8_t* at(int64_t row, int64_t group) const {
    return halves + ((row / BLOCK * groups + group) * BLOCK + row % BLOCK) * 2 * GROUP;
  }
};

inline int64_t together(int64_t rows) { return rows > 8 ? 16 : rows > 4 ? 8 : rows; }

template <typename T>
inline Shared split_group(const T* x, int8_t* halves) {
  const __m512 parts[2] = {(__m512)load_wide<T>(x), (__m512)load_wide<T>(x + 16)};
  const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
  const __m512i bits = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(parts[0]), no_sign),
                                        _mm512_and_si512(_mm512_castps_si512(parts[1]), no_sign));
  const uint32_t most_bits = _mm512_reduce_max_epu32(bits);  // as bits, in which NaN is above all numbers
  float most;
  std::memcpy(&most, &most_bits, sizeof most);
  const float scale = (most < SMALLEST ? SMALLEST : most) / MOST;
  __m512i sum = _mm512_setzero_si512();
  for (int i = 0; i < 2; ++i) {
    const __m512i steps = _mm512_cvtps_epi32(_mm512_div_ps(parts[i], _mm512_set1_ps(scale)));
    const __m512i highs = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(steps), _mm512_set1_ps(1 / NEXT)));
    sum = _mm512_add_epi32(sum, steps);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(halves + 16 * i), _mm512_cvtepi32_epi8(highs));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(halves + GROUP + 16 * i),
                     _mm512_cvtepi32_epi8(_mm512_sub_epi32(steps, _mm512_slli_epi32(highs, 4))));
  }
  const int32_t total = _mm512_reduce_add_epi32(sum);
  return {scale, scale * float(total), 8 * total, 0};
}

// x: the row.
template <typename T>
inline void split_row(const T* x, const Rows& rows, int64_t row) {
  for (int64_t g = 0; g < rows.groups; ++g)
    if (row < rows.count) {
      rows.shared[row * rows.groups + g] = split_group<T>(x + g * GROUP, rows.at(row, g));
    } else {
      rows.shared[row * rows.groups + g] = {};
      std::memset(rows.at(row, g), 0, 2 * GROUP);
    }
}

inline void fetch_ahead(const uint8_t* record) {
  for (int64_t i = 0; i < RECORD; i += 64) _mm_prefetch(record + AHEAD + i, _MM_HINT_T0);
}

// sums[r] += what a group adds to row r. products: whole numbers, of steps times codes.
template <int count>
inline void add_group(const uint8_t* record, const __m512i* products, const Shared* shared, int64_t groups,
                      Vec<float>* sums) {
  const bfloat16* facts = reinterpret_cast<const bfloat16*>(record + GROUP * COLUMN / 2);
  const __m512 scales = (__m512)load_wide<bfloat16>(facts), zeros = (__m512)load_wide<bfloat16>(facts + COLUMN);
#pragma GCC unroll 16
  for (int r = 0; r < count; ++r) {
    const Shared& of = shared[r * groups];
    const __m512 steps = _mm512_cvtepi32_ps(_mm512_sub_epi32(products[r], _mm512_set1_epi32(of.eight_times)));
    __m512 sum = _mm512_fmadd_ps(_mm512_mul_ps(steps, _mm512_set1_ps(of.scale)), scales, (__m512)sums[r]);
    sums[r] = (Vec<float>)_mm512_fmadd_ps(zeros, _mm512_set1_ps(of.total), sum);
  }
}

template <typename T>
inline void finish_row(const Int4Weight& weight, const T* bias, int64_t c, Vec<float> y, T* out) {
  const int64_t at = c * COLUMN, count = weight.outputs - at;
  if (bias) y += (Vec<float>)load_part<T>(bias + at, count);
  if (count >= COLUMN) {
    store_narrow<T>(out + at, y);
  } else {
    T part[COLUMN];
    store_narrow<T>(part, y);
    std::memcpy(out + at, part, count * sizeof(T));
  }
}

inline __m512i four_bytes(const int8_t* from) {
  int32_t bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

template <int count, typename T>
void few_rows(const Int4Weight& weight, const T* bias, int64_t c, const Rows& rows, int64_t row, T* out) {
  const __m512i low_half = _mm512_set1_epi8(15);
  Vec<float> sums[count] = {};
  const uint8_t* record = weight.column(c);
  for (int64_t g = 0; g < weight.groups; ++g, record += RECORD) {
    fetch_ahead(record);
    const int8_t* x = rows.at(row, g);
    __m512i highs[count] = {}, lows[count] = {};
#pragma GCC unroll 4
    for (int64_t i = 0; i < 4; ++i) {
      const __m512i both = _mm512_loadu_si512(record + 64 * i);
      const __m512i first = _mm512_and_si512(both, low_half);
      const __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low_half);
#pragma GCC unroll 4
      for (int r = 0; r < count; ++r) {
        const int8_t* numbers = x + r * 2 * GROUP + 8 * i;
        highs[r] = _mm512_dpbusd_epi32(highs[r], first, four_bytes(numbers));
        lows[r] = _mm512_dpbusd_epi32(lows[r], first, four_bytes(numbers + GROUP));
        highs[r] = _mm512_dpbusd_epi32(highs[r], second, four_bytes(numbers + 4));
        lows[r] = _mm512_dpbusd_epi32(lows[r], second, four_bytes(numbers + GROUP + 4));
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < count; ++r) highs[r] = _mm512_add_epi32(_mm512_slli_epi32(highs[r], 4), lows[r]);
    add_group<count>(record, highs, rows.shared + row * rows.groups + g, rows.groups, sums);
  }
  for (int r = 0; r < count; ++r) finish_row<T>(weight, bias, c, sums[r], out + (row + r) * weight.outputs);
}

template <typename T>
void column_by_few(const Int4Weight& weight, const T* bias, int64_t c, const Rows& rows, T* out) {
  int64_t row = 0;
  for (; row + 4 <= rows.count; row += 4) few_rows<4, T>(weight, bias, c, rows, row, out);
  switch (rows.count - row) {
    case 1: return few_rows<1, T>(weight, bias, c, rows, row, out);
    case 2: return few_rows<2, T>(weight, bias, c, rows, row, out);
    case 3: return few_rows<3, T>(weight, bias, c, rows, row, out);
  }
}

#if HAS_BYTE_TILES
// A group's codes as a tile, 16 times before once.
inline void lay_out_group(const uint8_t* record, __m512i* tile) {
  const __m512i low_half = _mm512_set1_epi8(15), high_half = _mm512_set1_epi8(int8_t(0xf0));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i both = _mm512_loadu_si512(record + 64 * i);
    _mm512_store_si512(tile + 2 * i, _mm512_and_si512(_mm512_slli_epi16(both, 4), high_half));
    _mm512_store_si512(tile + 2 * i + 1, _mm512_and_si512(both, high_half));
    _mm512_store_si512(tile + 8 + 2 * i, _mm512_and_si512(both, low_half));
    _mm512_store_si512(tile + 8 + 2 * i + 1, _mm512_and_si512(_mm512_srli_epi16(both, 4), low_half));
  }
}

// The product of such a tile with a block of rows: [16 rows, 16 outputs].
inline void multiply_group(const int8_t* x, const __m512i* tile, bool is_odd, __m512i* product) {
  asm volatile("" ::: "memory");
  if (is_odd) {  // neighbours do not wait for each other's tiles
    _tile_zero(1);
    _tile_loadd(5, x, 64);
    _tile_loadd(7, tile, 64);
    _tile_dpbsud(1, 5, 7);
    _tile_stored(1, product, 64);
  } else {
    _tile_zero(0);
    _tile_loadd(4, x, 64);
    _tile_loadd(6, tile, 64);
    _tile_dpbsud(0, 4, 6);
    _tile_stored(0, product, 64);
  }
  asm volatile("" ::: "memory");
}

// `count` rows of one block.
template <int count, typename T>
void block_by_tiles(const Int4Weight& weight, const T* bias, int64_t c, const Rows& rows, int64_t row, T* out) {
  alignas(64) __m512i tiles[2 * AT_ONCE][16];
  alignas(64) __m512i products[2 * AT_ONCE][BLOCK];
  Vec<float> sums[count] = {};
  const uint8_t* record = weight.column(c);
  const int64_t groups = weight.groups;
  const Shared* shared = rows.shared + row * groups;
  // What is written is read two turns later: by then it has come where tiles are loaded from.
  for (int64_t first = 0; first < groups + 2 * AT_ONCE; first += AT_ONCE) {
    for (int64_t g = first; g < first + AT_ONCE && g < groups; ++g) {
      if (row == 0) fetch_ahead(record + g * RECORD);
      lay_out_group(record + g * RECORD, tiles[g % (2 * AT_ONCE)]);
    }
    for (int64_t g = std::max<int64_t>(first - AT_ONCE, 0); g < first && g < groups; ++g)
      multiply_group(rows.at(row, g), tiles[g % (2 * AT_ONCE)], g % 2, products[g % (2 * AT_ONCE)]);
    for (int64_t g = std::max<int64_t>(first - 2 * AT_ONCE, 0); g < first - AT_ONCE && g < groups; ++g)
      add_group<count>(record + g * RECORD, products[g % (2 * AT_ONCE)], shared + g, groups, sums);
  }
  for (int64_t r = 0; r < count && row + r < rows.count; ++r)
    finish_row<T>(weight, bias, c, sums[r], out + (row + r) * weight.outputs);
}

template <typename T>
void column_by_tiles(const Int4Weight& weight, const T* bias, int64_t c, const Rows& rows, T* out) {
  for (int64_t row = 0; row < rows.count; row += BLOCK) switch (together(rows.count - row)) {
      case 16: block_by_tiles<16, T>(weight, bias, c, rows, row, out); break;
      case 8: block_by_tiles<8, T>(weight, bias, c, rows, row, out); break;
      case 4: few_rows<4, T>(weight, bias, c, rows, row, out); break;
      case 3: few_rows<3, T>(weight, bias, c, rows, row, out); break;
      case 2: few_rows<2, T>(weight, bias, c, rows, row, out); break;
      case 1: few_rows<1, T>(weight, bias, c, rows, row, out); break;
    }
}
#else
template <typename T>
void column_by_tiles(const Int4Weight&, const T*, int64_t, const Rows&, T*) {}
#endif

inline int64_t laid(int64_t count) {
  const int64_t whole = count / BLOCK * BLOCK;
  return whole == count ? whole : whole + together(count - whole);
}

template <typename T>
void multiply(const T* x, const Int4Weight& weight, const T* bias, const Rows& rows, T* out, int64_t threads,
              bool tiles) {
  tiles = tiles && HAS_BYTE_TILES && rows.count > FEW && tiles_are_allowed();
  const int64_t columns = weight.columns(), laid_out = laid(rows.count);
  const bool alone = rows.count <= FEW;  // one thread has split them before others have come
  const auto split = [&](int64_t r) { split_row<T>(x + r * weight.groups * GROUP, rows, r); };
  for (int64_t r = 0; alone && r < laid_out; ++r) split(r);
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
  {
    if (!alone) {
#pragma omp for schedule(static)
      for (int64_t r = 0; r < laid_out; ++r) split(r);
    }
    const RowTiles used(tiles, laid_out < BLOCK ? laid_out : BLOCK);
#pragma omp for schedule(static) nowait
    for (int64_t c = 0; c < columns; ++c)
      if (tiles)
        column_by_tiles<T>(weight, bias, c, rows, out);
      else
        column_by_few<T>(weight, bias, c, rows, out);
  }
}

}  // namespace

#define INT4_MATMUL(NAME, T)                                                                                      \
  extern "C" void int4_matmul_##NAME(const T* x, const uint8_t* packed, const T* bias, int8_t* halves,            \
                                     void* shared, T* out, int64_t rows, int64_t outputs, int64_t groups,         \
                                     int64_t threads, int64_t tiles) {                                            \
    multiply<T>(x, {packed, outputs, groups}, bias, {halves, static_cast<Shared*>(shared), rows, groups}, out,    \
                threads, tiles != 0);                                                                             \
  }

#if HAS_TILES
namespace {

Int4Weight weight_of(const Product& weight) {
  return {static_cast<const uint8_t*>(weight.packed), weight.outputs, weight.inputs / GROUP};
}

Rows rows_of(const Product& weight, const LaidRows& rows) {
  return {static_cast<int8_t*>(rows.rows), static_cast<Shared*>(rows.shared), rows.count, weight.inputs / GROUP};
}

}  // namespace

int64_t int4_columns(const Product& weight) { return weight_of(weight).columns(); }
int64_t int4_laid(int64_t count) { return laid(count); }
void int4_lay_out(const Product& weight, const bfloat16* x, int64_t row, const LaidRows& rows) {
  split_row<bfloat16>(x, rows_of(weight, rows), row);
}
void int4_column(const Product& weight, int64_t column, const LaidRows& rows, bfloat16* out) {
  if (HAS_BYTE_TILES && rows.count > FEW)
    column_by_tiles<bfloat16>(weight_of(weight), weight.bias, column, rows_of(weight, rows), out);
  else
    column_by_few<bfloat16>(weight_of(weight), weight.bias, column, rows_of(weight, rows), out);
}
#endif

#else
#define INT4_MATMUL(NAME, T)                                                                                      \
  extern "C" void int4_matmul_##NAME(const T*, const uint8_t*, const T*, int8_t*, void*, T*, int64_t, int64_t,    \
                                     int64_t, int64_t, int64_t) {}
#endif

INT4_MATMUL(float32, float)
INT4_MATMUL(float16, float16)
INT4_MATMUL(bfloat16, bfloat16)
