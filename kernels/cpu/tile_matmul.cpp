// Rows times a weight in tiles: see tile_matmul.py.

#include <vector>

#include <omp.h>

#include "tile_matmul.h"

#if HAS_TILES

namespace {

void multiply(const bfloat16* x, const TileWeight& weight, bfloat16* out, int64_t rows, int64_t threads) {
  static thread_local std::vector<bfloat16> whole;  // x, where its last tile of rows is none
  if (rows % TILE) {
    whole.resize(rounded_up(rows, TILE) * weight.inputs);
    std::memcpy(whole.data(), x, rows * weight.inputs * sizeof(bfloat16));
    x = whole.data();
  }
  const int64_t columns = weight.columns();
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
  {
    const WholeTiles tiles(true);
#pragma omp for schedule(dynamic, 1)
    for (int64_t c = 0; c < columns; ++c)
      each_row(weight, c, x, weight.inputs, rows, [&](int64_t row, int64_t first, Vec<float> a, Vec<float> b) {
        bfloat16* to = out + row * weight.outputs;
        store_block(to + first, a, (weight.is_halved() ? weight.gap : weight.outputs) - first);
        store_block(to + first + weight.gap, b, weight.outputs - first - weight.gap);
      });
  }
}

}  // namespace

extern "C" void tile_matmul(const bfloat16* x, const TileWeight* weight, bfloat16* out, int64_t rows, int64_t threads) {
  multiply(x, *weight, out, rows, threads);
}
#else
extern "C" void tile_matmul(const void*, const void*, void*, int64_t, int64_t) {}
#endif
