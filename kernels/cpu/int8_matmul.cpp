// Rows times a weight of int8 codes: see int8_matmul.py.
//
// Weights are packed in columns of 32 outputs, and those in tiles of 64 inputs of 16 outputs, four inputs of an output
// side by side: what a tile register and what VPDPBUSD reads. Columns are shared out among threads; each is read from
// memory once, whatever the number of rows, which pass by without driving it out of the first cache.

#include <omp.h>

#include "byte_rows.h"
#include "products.h"

#if HAS_BYTE_PRODUCTS

namespace {

constexpr int64_t COLUMN = 2 * BLOCK;  // outputs
constexpr int64_t FEW = 4;             // rows at a time without tiles
constexpr int64_t AHEAD = 4 * 2 * TILE_BYTES;

struct Int8Weight {
  const int8_t* codes;   // [columns, depth, 2, 16, 16, 4]
  const float* scales;   // [columns * 32]
  const int32_t* sums;   // [columns * 32], 128 times the sum of an output's codes
  int64_t outputs, inputs, depth;
  int64_t columns() const { return (outputs + COLUMN - 1) / COLUMN; }
  const int8_t* column(int64_t c) const { return codes + c * depth * 2 * TILE_BYTES; }
};

// sums: [2 halves][2 blocks of outputs] of one row. Never inlined: both ways of multiplying round alike.
template <typename T>
__attribute__((noinline)) void finish_row(const Int8Weight& weight, const T* bias, int64_t first, float scale,
                                          const __m512i* sums, T* out) {
  for (int64_t b = 0; b < 2; ++b) {
    const int64_t at = first + b * BLOCK, count = weight.outputs - at;
    if (count <= 0) return;
    const Vec<float> high = (Vec<float>)_mm512_cvtepi32_ps(sums[b]), low = (Vec<float>)_mm512_cvtepi32_ps(sums[2 + b]);
    Vec<float> y = (high * HALF + low) * load<float>(weight.scales + at) * scale;
    if (bias) y += (Vec<float>)load_part<T>(bias + at, count);
    if (count >= BLOCK) {
      store_narrow<T>(out + at, y);
    } else {
      T part[BLOCK];
      store_narrow<T>(part, y);
      std::memcpy(out + at, part, count * sizeof(T));
    }
  }
}

inline void fetch_ahead(const int8_t* tile) {
  for (int64_t i = 0; i < 2 * TILE_BYTES; i += 64) _mm_prefetch(tile + AHEAD + i, _MM_HINT_T0);
}

// `count` rows from `row` on, all of one block: bytes without a sign are 128 more, which the sums take away again.
template <int count, typename T>
void few_rows(const Int8Weight& weight, const T* bias, int64_t c, int8_t* halves, const float* row_scales, int64_t row,
              T* out) {
  __m512i sums[count][4];
  const __m512i* excess = reinterpret_cast<const __m512i*>(weight.sums + c * COLUMN);
#pragma GCC unroll 16
  for (int i = 0; i < 4 * count; ++i)
    sums[i / 4][i % 4] = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_loadu_si512(excess + i % 2));
  const int8_t* high = half_of(halves, row, 0, weight.depth);
  const int8_t* low = half_of(halves, row, 1, weight.depth);
  const int8_t* tiles = weight.column(c);
  const __m512i sign = _mm512_set1_epi8(int8_t(0x80));
  for (int64_t d = 0; d < weight.depth; ++d, tiles += 2 * TILE_BYTES, high += TILE_BYTES, low += TILE_BYTES) {
    fetch_ahead(tiles);
    for (int64_t four = 0; four < BYTES; four += 4) {
      const __m512i first = _mm512_loadu_si512(tiles + four * BLOCK);
      const __m512i second = _mm512_loadu_si512(tiles + TILE_BYTES + four * BLOCK);
#pragma GCC unroll 4
      for (int r = 0; r < count; ++r) {
        int32_t bytes[2];
        std::memcpy(bytes, high + r * BYTES + four, 4), std::memcpy(bytes + 1, low + r * BYTES + four, 4);
        const __m512i highs = _mm512_xor_si512(_mm512_set1_epi32(bytes[0]), sign);
        const __m512i lows = _mm512_xor_si512(_mm512_set1_epi32(bytes[1]), sign);
        sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], highs, first);
        sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], highs, second);
        sums[r][2] = _mm512_dpbusd_epi32(sums[r][2], lows, first);
        sums[r][3] = _mm512_dpbusd_epi32(sums[r][3], lows, second);
      }
    }
  }
  for (int r = 0; r < count; ++r)
    finish_row<T>(weight, bias, c * COLUMN, row_scales[row + r], sums[r], out + (row + r) * weight.outputs);
}

template <typename T>
void column_by_few(const Int8Weight& weight, const T* bias, int64_t c, int8_t* halves, const float* row_scales,
                   int64_t rows, T* out) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) few_rows<4, T>(weight, bias, c, halves, row_scales, row, out);
  switch (rows - row) {
    case 1: return few_rows<1, T>(weight, bias, c, halves, row_scales, row, out);
    case 2: return few_rows<2, T>(weight, bias, c, halves, row_scales, row, out);
    case 3: return few_rows<3, T>(weight, bias, c, halves, row_scales, row, out);
  }
}

#if HAS_BYTE_TILES
template <typename T>
void column_by_tiles(const Int8Weight& weight, const T* bias, int64_t c, int8_t* halves, const float* row_scales,
                     int64_t rows, T* out) {
  alignas(64) int32_t sums[BLOCK][4 * BLOCK];
  for (int64_t row = 0; row < rows; row += BLOCK) {
    const int8_t* high = half_of(halves, row, 0, weight.depth);
    const int8_t* low = half_of(halves, row, 1, weight.depth);
    const int8_t* tiles = weight.column(c);
    asm volatile("" ::: "memory");  // what the tiles are loaded from is written by now
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t d = 0; d < weight.depth; ++d, tiles += 2 * TILE_BYTES, high += TILE_BYTES, low += TILE_BYTES) {
      if (row == 0) fetch_ahead(tiles);
      _tile_stream_loadd(4, high, BYTES);
      _tile_loadd(6, tiles, BYTES);
      _tile_dpbssd(0, 4, 6);
      _tile_loadd(7, tiles + TILE_BYTES, BYTES);
      _tile_dpbssd(1, 4, 7);
      _tile_stream_loadd(5, low, BYTES);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, sums[0], sizeof sums[0]);
    _tile_stored(1, sums[0] + BLOCK, sizeof sums[0]);
    _tile_stored(2, sums[0] + 2 * BLOCK, sizeof sums[0]);
    _tile_stored(3, sums[0] + 3 * BLOCK, sizeof sums[0]);
    asm volatile("" ::: "memory");
    for (int64_t r = 0; r < BLOCK && row + r < rows; ++r)
      finish_row<T>(weight, bias, c * COLUMN, row_scales[row + r], reinterpret_cast<const __m512i*>(sums[r]),
                    out + (row + r) * weight.outputs);
  }
}
#else
template <typename T>
void column_by_tiles(const Int8Weight&, const T*, int64_t, int8_t*, const float*, int64_t, T*) {}
#endif

template <typename T>
void multiply(const T* x, const Int8Weight& weight, const T* bias, int8_t* halves, float* row_scales, T* out,
              int64_t rows, int64_t threads, bool tiles) {
  tiles = tiles && HAS_BYTE_TILES && rows > FEW && tiles_are_allowed();
  const int64_t columns = weight.columns();
  const bool alone = rows <= FEW;  // one thread has split them before others have come
  const auto split = [&](int64_t r) {
    row_scales[r] = split_row<T>(x + r * weight.inputs, weight.inputs, weight.depth,
                                 half_of(halves, r, 0, weight.depth), half_of(halves, r, 1, weight.depth));
  };
  for (int64_t r = 0; alone && r < rows; ++r) split(r);
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
  {
    if (!alone) {
#pragma omp for schedule(static)
      for (int64_t r = 0; r < rows; ++r) split(r);
    }
    const RowTiles used(tiles, rows < BLOCK ? rows : BLOCK);
#pragma omp for schedule(static) nowait
    for (int64_t c = 0; c < columns; ++c)
      if (tiles)
        column_by_tiles<T>(weight, bias, c, halves, row_scales, rows, out);
      else
        column_by_few<T>(weight, bias, c, halves, row_scales, rows, out);
  }
}

}  // namespace

#define INT8_MATMUL(NAME, T)                                                                                   \
  extern "C" void int8_matmul_##NAME(const T* x, const int8_t* codes, const float* scales, const int32_t* sums,   \
                                     const T* bias, int8_t* halves, float* row_scales, T* out, int64_t rows,      \
                                     int64_t outputs, int64_t inputs, int64_t threads, int64_t tiles) {           \
    const Int8Weight weight{codes, scales, sums, outputs, inputs, (inputs + BYTES - 1) / BYTES};                  \
    multiply<T>(x, weight, bias, halves, row_scales, out, rows, threads, tiles != 0);                             \
  }

#if HAS_TILES
namespace {

Int8Weight weight_of(const Product& weight) {
  return {static_cast<const int8_t*>(weight.packed), weight.scales, weight.sums, weight.outputs, weight.inputs,
          (weight.inputs + BYTES - 1) / BYTES};
}

}  // namespace

int64_t int8_columns(const Product& weight) { return weight_of(weight).columns(); }
int64_t int8_laid(int64_t count) { return count; }
void int8_lay_out(const Product& weight, const bfloat16* x, int64_t row, const LaidRows& rows) {
  if (row >= rows.count) return;
  const int64_t depth = weight_of(weight).depth;
  int8_t* halves = static_cast<int8_t*>(rows.rows);
  static_cast<float*>(rows.shared)[row] = split_row<bfloat16>(x, weight.inputs, depth, half_of(halves, row, 0, depth),
                                                              half_of(halves, row, 1, depth));
}
void int8_column(const Product& weight, int64_t column, const LaidRows& rows, bfloat16* out) {
  int8_t* halves = static_cast<int8_t*>(rows.rows);
  const float* scales = static_cast<float*>(rows.shared);
  if (HAS_BYTE_TILES && rows.count > FEW)
    column_by_tiles<bfloat16>(weight_of(weight), weight.bias, column, halves, scales, rows.count, out);
  else
    column_by_few<bfloat16>(weight_of(weight), weight.bias, column, halves, scales, rows.count, out);
}
#endif

#else
#define INT8_MATMUL(NAME, T)                                                                                      \
  extern "C" void int8_matmul_##NAME(const T*, const int8_t*, const float*, const int32_t*, const T*, int8_t*,    \
                                     float*, T*, int64_t, int64_t, int64_t, int64_t, int64_t) {}
#endif

INT8_MATMUL(float32, float)
INT8_MATMUL(float16, float16)
INT8_MATMUL(bfloat16, bfloat16)

extern "C" int64_t has_byte_products() { return HAS_BYTE_PRODUCTS; }
