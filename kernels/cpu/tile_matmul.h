// Products with a weight of bfloat16 in tile registers: see tile_matmul.py.
//
// A weight is packed in columns of two blocks of 16 outputs, and those in tiles of 32 inputs: 16 pairs of them, a row
// of 16 outputs each. A column's sums run over the inputs in order, whatever the other rows are. Whoever multiplies
// has `WholeTiles`.
#pragma once

#include "tiles.h"

#if HAS_TILES

namespace {

constexpr int64_t BLOCK_OUTPUTS = TILE;           // of one tile
constexpr int64_t TILE_INPUTS = 2 * TILE;         // of one tile
constexpr int64_t TILE_NUMBERS = TILE * 2 * TILE;  // in one tile
constexpr int64_t ROWS_AT_ONCE = 2 * TILE;
constexpr int64_t TILES_AHEAD = 8;  // what is fetched while others are multiplied

struct TileWeight {
  const bfloat16* tiles;  // [columns, inputs / 32, 2 blocks, 16 pairs, 16 outputs, 2]
  const bfloat16* bias;   // [outputs]; null: none
  int64_t outputs, inputs;
  int64_t gap;  // from an output of the first block of a column to that of the second: 16, or half of all outputs

  bool is_halved() const { return gap != BLOCK_OUTPUTS; }
  int64_t per_column() const { return is_halved() ? BLOCK_OUTPUTS : 2 * BLOCK_OUTPUTS; }
  int64_t columns() const { return ((is_halved() ? gap : outputs) + per_column() - 1) / per_column(); }
};

using Sums = float[ROWS_AT_ONCE][2 * BLOCK_OUTPUTS];

inline void fetch_tiles(const bfloat16* tiles) {
  for (int64_t i = 0; i < 2 * TILE_NUMBERS; i += 32) _mm_prefetch(tiles + i, _MM_HINT_T0);
}

// sums = x w of one column and up to 32 rows. x: [rows, x_stride], readable up to whole tiles of rows, whose
// sums mean nothing.
inline void multiply_column(const TileWeight& weight, int64_t column, const bfloat16* x, int64_t x_stride, int64_t rows,
                            bool is_first, Sums& sums) {
  const int64_t depth = weight.inputs / TILE_INPUTS, stride = x_stride * sizeof(bfloat16);
  const bfloat16* tiles = weight.tiles + column * depth * 2 * TILE_NUMBERS;
  const bfloat16* below = x + TILE * x_stride;
  asm volatile("" ::: "memory");  // what the tiles are loaded from is written by now
  _tile_zero(0);
  _tile_zero(1);
  if (rows <= TILE) {
    for (int64_t d = 0; d < depth; ++d, x += TILE_INPUTS, tiles += 2 * TILE_NUMBERS) {
      fetch_tiles(tiles + TILES_AHEAD * TILE_NUMBERS);
      _tile_stream_loadd(4, x, stride);
      _tile_loadd(6, tiles, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, tiles + TILE_NUMBERS, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
  } else {
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t d = 0; d < depth; ++d, x += TILE_INPUTS, below += TILE_INPUTS, tiles += 2 * TILE_NUMBERS) {
      if (is_first) fetch_tiles(tiles + TILES_AHEAD * TILE_NUMBERS);
      _tile_stream_loadd(4, x, stride);
      _tile_loadd(6, tiles, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, tiles + TILE_NUMBERS, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_stream_loadd(5, below, stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(2, sums[TILE], sizeof sums[0]);
    _tile_stored(3, sums[TILE] + BLOCK_OUTPUTS, sizeof sums[0]);
  }
  _tile_stored(0, sums[0], sizeof sums[0]);
  _tile_stored(1, sums[0] + BLOCK_OUTPUTS, sizeof sums[0]);
  asm volatile("" ::: "memory");
}

// A column of the product, 32 rows at a time. finish(row, first, sums): the two blocks of that row's sums, of outputs
// first.. and first + gap.., the bias added.
template <typename Finish>
inline void each_row(const TileWeight& weight, int64_t column, const bfloat16* x, int64_t x_stride, int64_t rows,
                     const Finish& finish) {
  alignas(64) Sums sums;
  const int64_t first = column * weight.per_column();
  Vec<float> bias[2] = {};
  if (weight.bias)
    for (int b = 0; b < 2; ++b)
      for (int64_t i = 0; i < BLOCK_OUTPUTS && first + b * weight.gap + i < weight.outputs; ++i)
        bias[b][i] = widen(weight.bias[first + b * weight.gap + i]);
  for (int64_t row = 0; row < rows; row += ROWS_AT_ONCE) {
    multiply_column(weight, column, x + row * x_stride, x_stride, rows - row, row == 0, sums);
    for (int64_t r = 0; r < ROWS_AT_ONCE && row + r < rows; ++r)
      finish(row + r, first, load<float>(sums[r]) + bias[0], load<float>(sums[r] + BLOCK_OUTPUTS) + bias[1]);
  }
}

// Up to 16 of `count` numbers.
inline void store_block(bfloat16* to, Vec<float> x, int64_t count) {
  if (count >= BLOCK_OUTPUTS) return store_narrow<bfloat16>(to, x);
  bfloat16 part[BLOCK_OUTPUTS];
  store_narrow<bfloat16>(part, x);
  if (count > 0) std::memcpy(to, part, count * sizeof(bfloat16));
}

inline Vec<float> rounded(Vec<float> x) {  // as a bfloat16 keeps it
  bfloat16 narrow[BLOCK_OUTPUTS];
  store_narrow<bfloat16>(narrow, x);
  return load_wide<bfloat16>(narrow);
}

}  // namespace
#endif
