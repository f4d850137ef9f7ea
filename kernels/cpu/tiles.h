// Products of bfloat16 matrices in the tile registers of AMX: 16 rows of 16 pairs each, summed in float.
//
// A sum runs over the pairs in order, whatever the other rows and columns hold.
#pragma once

#include "pairs.h"

#if defined(__AVX512BF16__) && defined(__AMX_BF16__) && defined(__linux__)
#define HAS_TILES 1

#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int64_t TILE = 16;  // rows, and pairs or floats in a row

// Linux lets a process have tile registers once it has asked.
inline bool tiles_are_allowed() {
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool allowed = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
  return allowed;
}

// While it lives, this thread's tiles have rows of 64 bytes: tiles 6 and 7 sixteen, the others so many.
class RowTiles {
 public:
  RowTiles(bool used, int64_t rows) : used(used) {
    if (!used) return;
    struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {};
    } config;
    static_assert(sizeof config == 64);
    for (int tile = 0; tile < 8; ++tile) config.rows[tile] = uint8_t(tile < 6 ? rows : TILE);
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~RowTiles() {
    if (used) _tile_release();
  }
  RowTiles(const RowTiles&) = delete;

 private:
  const bool used;
};

// While it lives, this thread's tiles are whole ones.
class WholeTiles : public RowTiles {
 public:
  explicit WholeTiles(bool used) : RowTiles(used, TILE) {}
};

// to = x y: 16 rows by C tiles of columns (2 or 4), `count` tiles deep. x: rows of `x_stride` numbers. y: tiles
// [16 pairs of rows][16 columns][2]; those of the next columns lie `across` tiles further, those of the next rows
// `down`.
template <int C>
inline void multiply_tiles(const bfloat16* x, int64_t x_stride, const __m512i* y, int64_t across, int64_t down,
                           int64_t count, float* to, int64_t to_stride) {
  asm volatile("" ::: "memory");  // what the tiles are loaded from is written by now
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (C == 4) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t i = 0; i < count; ++i, y += TILE * down, x += 2 * TILE) {
    _tile_loadd(4, x, x_stride * 2);
    _tile_loadd(5, y, 64);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, y + TILE * across, 64);
    _tile_dpbf16ps(1, 4, 6);
    if constexpr (C == 4) {
      _tile_loadd(7, y + 2 * TILE * across, 64);
      _tile_dpbf16ps(2, 4, 7);
      _tile_loadd(5, y + 3 * TILE * across, 64);
      _tile_dpbf16ps(3, 4, 5);
    }
  }
  _tile_stored(0, to, to_stride * 4);
  _tile_stored(1, to + TILE, to_stride * 4);
  if constexpr (C == 4) {
    _tile_stored(2, to + 2 * TILE, to_stride * 4);
    _tile_stored(3, to + 3 * TILE, to_stride * 4);
  }
}

}  // namespace

#else
#define HAS_TILES 0

namespace {

inline bool tiles_are_allowed() { return false; }

struct RowTiles {
  RowTiles(bool, int64_t) {}
};

}  // namespace
#endif
