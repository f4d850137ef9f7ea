// Rows times a weight, both of bfloat16, in tile registers: see bfloat16_matmul.py.
//
// Weights are packed in columns of 32 outputs, and those in tiles of 32 inputs of 16 outputs, pairs of inputs of an
// output side by side. Columns are shared out among threads; each is read from memory once, whatever the number of
// rows, which pass by without driving it out of the first cache.

#include <omp.h>

#include "products.h"

#if HAS_TILES

namespace {

constexpr int64_t INPUTS = 2 * TILE, COLUMN = 2 * TILE;
constexpr int64_t TILE_NUMBERS = TILE * INPUTS;
constexpr int64_t AHEAD = 4 * 2 * TILE_NUMBERS;

struct Weight {
  const bfloat16* tiles;  // [columns, depth, 2, 16 pairs, 16, 2]
  int64_t outputs, inputs, depth;
  int64_t columns() const { return (outputs + COLUMN - 1) / COLUMN; }
  const bfloat16* column(int64_t c) const { return tiles + c * depth * 2 * TILE_NUMBERS; }
};

// rows: [blocks of 16, depth, 16, 32], zeros beyond a row's end.
inline void lay_out(const bfloat16* x, int64_t size, int64_t depth, int64_t row, bfloat16* rows) {
  bfloat16* to = rows + (row / TILE * depth * TILE + row % TILE) * INPUTS;
  for (int64_t k = 0; k < size; k += INPUTS, to += TILE_NUMBERS) {
    const int64_t count = size - k < INPUTS ? size - k : INPUTS;
    std::memcpy(to, x + k, count * sizeof(bfloat16));
    std::memset(to + count, 0, (INPUTS - count) * sizeof(bfloat16));
  }
}

inline void finish_row(const Weight& weight, const bfloat16* bias, int64_t first, const float* sums, bfloat16* out) {
  for (int64_t b = 0; b < 2; ++b) {
    const int64_t at = first + b * TILE, count = weight.outputs - at;
    if (count <= 0) return;
    Vec<float> y = load<float>(sums + b * TILE);
    if (count >= TILE) {
      if (bias) y += load_wide<bfloat16>(bias + at);
      store_narrow<bfloat16>(out + at, y);
      continue;
    }
    bfloat16 part[TILE] = {};
    if (bias) std::memcpy(part, bias + at, count * sizeof(bfloat16)), y += load_wide<bfloat16>(part);
    store_narrow<bfloat16>(part, y);
    std::memcpy(out + at, part, count * sizeof(bfloat16));
  }
}

inline void fetch_ahead(const bfloat16* tiles) {
  for (int64_t i = 0; i < 2 * TILE_NUMBERS; i += 32) _mm_prefetch(tiles + AHEAD + i, _MM_HINT_T0);
}

// One block of rows.
inline void multiply_block(const bfloat16* rows, const bfloat16* tiles, int64_t depth, bool fetches, float* sums) {
  _tile_zero(0);
  _tile_zero(1);
  for (int64_t d = 0; d < depth; ++d, tiles += 2 * TILE_NUMBERS, rows += TILE_NUMBERS) {
    if (fetches) fetch_ahead(tiles);
    _tile_stream_loadd(4, rows, 64);
    _tile_loadd(6, tiles, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, tiles + TILE_NUMBERS, 64);
    _tile_dpbf16ps(1, 4, 7);
  }
  _tile_stored(0, sums, 4 * COLUMN);
  _tile_stored(1, sums + TILE, 4 * COLUMN);
}

// Two blocks of rows.
inline void multiply_blocks(const bfloat16* rows, const bfloat16* tiles, int64_t depth, bool fetches, float* sums) {
  const bfloat16* more = rows + depth * TILE_NUMBERS;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t d = 0; d < depth; ++d, tiles += 2 * TILE_NUMBERS, rows += TILE_NUMBERS, more += TILE_NUMBERS) {
    if (fetches) fetch_ahead(tiles);
    _tile_stream_loadd(4, rows, 64);
    _tile_loadd(6, tiles, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, tiles + TILE_NUMBERS, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_stream_loadd(5, more, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, 4 * COLUMN);
  _tile_stored(1, sums + TILE, 4 * COLUMN);
  _tile_stored(2, sums + TILE * COLUMN, 4 * COLUMN);
  _tile_stored(3, sums + TILE * COLUMN + TILE, 4 * COLUMN);
}

inline void multiply_column(const Weight& weight, const bfloat16* bias, int64_t c, const bfloat16* rows, int64_t count,
                            bfloat16* out) {
  alignas(64) float sums[2 * TILE * COLUMN];
  for (int64_t row = 0; row < count; row += 2 * TILE) {
    asm volatile("" ::: "memory");  // what the tiles are loaded from is written by now
    const bfloat16* block = rows + row * weight.depth * INPUTS;
    if (count - row > TILE)
      multiply_blocks(block, weight.column(c), weight.depth, row == 0, sums);
    else
      multiply_block(block, weight.column(c), weight.depth, row == 0, sums);
    asm volatile("" ::: "memory");
    for (int64_t r = 0; r < 2 * TILE && row + r < count; ++r)
      finish_row(weight, bias, c * COLUMN, sums + r * COLUMN, out + (row + r) * weight.outputs);
  }
}

}  // namespace

extern "C" void bfloat16_matmul(const bfloat16* x, const bfloat16* tiles, const bfloat16* bias, bfloat16* rows,
                                bfloat16* out, int64_t count, int64_t outputs, int64_t inputs, int64_t threads) {
  const Weight weight{tiles, outputs, inputs, (inputs + INPUTS - 1) / INPUTS};
  const int64_t columns = weight.columns();
  tiles_are_allowed();
  const bool alone = count <= TILE;  // one thread has laid them out before others have come
  for (int64_t r = 0; alone && r < count; ++r) lay_out(x + r * inputs, inputs, weight.depth, r, rows);
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
  {
    if (!alone) {
#pragma omp for schedule(static)
      for (int64_t r = 0; r < count; ++r) lay_out(x + r * inputs, inputs, weight.depth, r, rows);
    }
    const RowTiles used(true, count < TILE ? count : TILE);
#pragma omp for schedule(static) nowait
    for (int64_t c = 0; c < columns; ++c) multiply_column(weight, bias, c, rows, count, out);
  }
}

namespace {

Weight weight_of(const Product& weight) {
  return {static_cast<const bfloat16*>(weight.packed), weight.outputs, weight.inputs,
          (weight.inputs + INPUTS - 1) / INPUTS};
}

}  // namespace

int64_t bfloat16_columns(const Product& weight) { return weight_of(weight).columns(); }
int64_t bfloat16_laid(int64_t count) { return count; }
void bfloat16_lay_out(const Product& weight, const bfloat16* x, int64_t row, const LaidRows& rows) {
  if (row < rows.count) lay_out(x, weight.inputs, weight_of(weight).depth, row, static_cast<bfloat16*>(rows.rows));
}
void bfloat16_column(const Product& weight, int64_t column, const LaidRows& rows, bfloat16* out) {
  multiply_column(weight_of(weight), weight.bias, column, static_cast<bfloat16*>(rows.rows), rows.count, out);
}

#else

extern "C" void bfloat16_matmul(const bfloat16*, const bfloat16*, const bfloat16*, bfloat16*, bfloat16*, int64_t,
                                int64_t, int64_t, int64_t) {}

#endif
