// Attention over one chunk of positions and one KV head in tile registers (AMX), 16 rows at a time.
//
//   score  q · k of 16 rows, in tiles
//   weigh  p = 2 ^ (score - peak), in vectors, rounded to bfloat16
//   add    p * values, in tiles
//
// Keys and values are laid out once, for all rows. Tiles that no row of a group sees are left out: what they would add
// is 0. A group is finished before the next begins: all that it touches is in the first cache then. Tiles of one group
// amid the vectors of another were tried and took longer, for the two kinds of instructions do not overlap. Knows
// nothing of items, pages or heads.
#pragma once

#include <algorithm>
#include <vector>

#include "tiles.h"

#if HAS_TILES

namespace {

struct Sight {  // the columns of the chunk that a row sees: [from, to)
  int32_t from, to;
};

// 16 rows over one chunk, before they are divided by the totals; what is in rows that see nothing means nothing.
struct Attended {
  const float* sums;            // [16, head_dim], numbers in interleave's order
  const float *peaks, *totals;  // [16]
};

// Folds one chunk more into what up to 16 rows have of the chunks before: both are scaled to the larger peak. Fused
// products are written out, so that the bits are the same wherever it is inlined.
class Fold {
 public:
  // Of the rows in `mask`, peaks and totals are those so far, and become those with the new chunk.
  Fold(__mmask16 mask, float* peaks, float* totals, const float* new_peaks, const float* new_totals) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 before = _mm512_maskz_loadu_ps(mask, peaks), peak = _mm512_maskz_loadu_ps(mask, new_peaks);
    const __mmask16 falls = _mm512_cmp_ps_mask(before, peak, _CMP_GT_OQ);
    const __m512 highest = _mm512_mask_mov_ps(peak, falls, before), lowest = _mm512_mask_mov_ps(before, falls, peak);
    const __m512 less = (__m512)power_of_two((Vec<float>)_mm512_sub_ps(lowest, highest));
    const __m512 x = _mm512_mask_mov_ps(less, falls, one), y = _mm512_mask_mov_ps(one, falls, less);
    const __m512 added = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(mask, new_totals));
    _mm512_mask_storeu_ps(peaks, mask, highest);
    _mm512_mask_storeu_ps(totals, mask, _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(mask, totals), added));
    _mm512_storeu_ps(old_share, x), _mm512_storeu_ps(new_share, y);
  }

  void add(int64_t row, float* sums, const float* new_sums, int64_t count) const {
    const __m512 x = _mm512_set1_ps(old_share[row]), y = _mm512_set1_ps(new_share[row]);
    for (int64_t d = 0; d < count; d += 16) {
      const __m512 added = _mm512_mul_ps(y, _mm512_loadu_ps(new_sums + d));
      _mm512_storeu_ps(sums + d, _mm512_fmadd_ps(x, _mm512_loadu_ps(sums + d), added));
    }
  }

 private:
  alignas(64) float old_share[16], new_share[16];
};

class ChunkInTiles {
 public:
  // chunk: columns, a multiple of 32; head_dim: a multiple of 32.
  void fit(int64_t chunk, int64_t head_dim) {
    if (this->chunk == chunk && this->head_dim == head_dim) return;
    this->chunk = chunk, this->head_dim = head_dim;
    keys.resize(chunk * head_dim / 32);
    values.resize(chunk * head_dim / 32);
    scores.resize(TILE * chunk / 16);
    weights.resize(TILE * chunk / 32);
    sums.resize(TILE * head_dim / 16);
  }

  // Lays out the keys and values of `count` positions, at `slots` of the caches.
  void load(const bfloat16* key_cache, const bfloat16* value_cache, const int64_t* slots, int64_t count) {
    for (int64_t j = 0; j < count; j += 16) {
      for (int64_t i = j; i < std::min(j + 16, count); ++i) {
        if (i + 16 < count) prefetch(key_cache + slots[i + 16]);
        prefetch(value_cache + slots[i]);
      }
      turn_keys(key_cache, slots + j, count - j, keys[j * head_dim / 32].pairs());
    }
    for (int64_t j = 0; j < rounded_up(count, 32); j += 2) pair_values(value_cache, slots, j, count);
  }

  // Attention of 16 rows, of which those that have `sights` are wanted. q: [16, head_dim]. Scores are multiplied by
  // `scale`, capped (0: not), and are powers of two. The result is there until the next call.
  Attended attend(const bfloat16* q, const Sight* sights, int64_t rows, float scale, float cap) {
    int64_t from = chunk, to = 0;
    for (int64_t i = 0; i < rows; ++i)
      if (sights[i].from < sights[i].to)
        from = std::min<int64_t>(from, sights[i].from), to = std::max<int64_t>(to, sights[i].to);
    from = from / 32 * 32, to = rounded_up(to, 32);
    score(q, from, to);
    for (int64_t i = 0; i < rows; ++i) find_peak(i, sights[i], from, to, scale, cap);
    for (int64_t i = 0; i < rows; ++i) weigh(i, from, to);
    add(from, to);
    return {sums[0].numbers, peaks, totals};
  }

 private:
  struct alignas(64) Line {
    float numbers[16];
    __m512i* pairs() { return reinterpret_cast<__m512i*>(numbers); }
    bfloat16* narrow() { return reinterpret_cast<bfloat16*>(numbers); }
  };

  void score(const bfloat16* q, int64_t from, int64_t to) {
    const int64_t lines = head_dim / 2;  // of 16 positions
    for (int64_t j = from; j < to;) {
      const bool four = to - j >= 64;
      (four ? multiply_tiles<4> : multiply_tiles<2>)(q, head_dim, keys[j / 16 * lines].pairs(), lines / TILE, 1,
                                                     head_dim / 32, scores[0].numbers + j, chunk);
      j += four ? 64 : 32;
    }
  }

  // Scales one row's scores and finds the largest; what the row does not see becomes the lowest number there is.
  void find_peak(int64_t row, Sight sight, int64_t from, int64_t to, float scale, float cap) {
    float* own = scores[row * chunk / 16].numbers;
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 peak = lowest;
    const auto visit = [&](int64_t j, __mmask16 seen) {
      __m512 x = _mm512_mul_ps(_mm512_loadu_ps(own + j), _mm512_set1_ps(scale));
      if (cap != 0) x = capped(x, cap);
      x = _mm512_mask_mov_ps(lowest, seen, x);
      _mm512_storeu_ps(own + j, x);
      peak = _mm512_max_ps(x, peak);  // which is never NaN
    };
    const auto visit_edge = [&](int64_t j) { visit(j, lanes_below(sight.to - j) & ~lanes_below(sight.from - j)); };
    int64_t j = from;
    for (; j < to && j < sight.from; j += 16) visit_edge(j);
    for (; j + 16 <= sight.to; j += 16) visit(j, 0xffff);
    for (; j < to; j += 16) visit_edge(j);
    peaks[row] = _mm512_reduce_max_ps(peak);
  }

  // Scores of one row become weights, 0 where it does not see.
  void weigh(int64_t row, int64_t from, int64_t to) {
    const float* own = scores[row * chunk / 16].numbers;
    bfloat16* narrow = weights[row * chunk / 32].narrow();
    const __m512 peak = _mm512_set1_ps(peaks[row]);
    __m512 total = _mm512_setzero_ps();
    const auto weight = [&](int64_t j) {
      return (__m512)power_of_two((Vec<float>)_mm512_sub_ps(_mm512_loadu_ps(own + j), peak));
    };
    for (int64_t j = from; j < to; j += 32) {
      const __m512 left = weight(j), right = weight(j + 16);
      _mm512_storeu_si512(narrow + j, (__m512i)_mm512_cvtne2ps_pbh(right, left));
      total = _mm512_add_ps(_mm512_add_ps(total, left), right);
    }
    totals[row] = _mm512_reduce_add_ps(total);
  }

  static __mmask16 lanes_below(int64_t count) { return __mmask16((1u << std::clamp<int64_t>(count, 0, 16)) - 1); }

  // cap tanh(x / cap) as powers of two, to within cap / 2^22.
  static __m512 capped(__m512 x, float cap) {
    const __m512 one = _mm512_set1_ps(1.0f), twice = _mm512_mul_ps(x, _mm512_set1_ps(float(2 * M_LOG2E / cap)));
    const __m512 bounded = _mm512_min_ps(_mm512_set1_ps(64.0f), twice);  // NaN stays
    const __m512 power = (__m512)power_of_two((Vec<float>)bounded);
    const __m512 part = _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(power, one));
    return _mm512_mul_ps(_mm512_sub_ps(one, part), _mm512_set1_ps(float(cap * M_LOG2E)));
  }

  void add(int64_t from, int64_t to) {
    const int64_t tiles = head_dim / 16;
    for (int64_t d = 0; d < head_dim;) {
      const bool four = head_dim - d >= 64;
      (four ? multiply_tiles<4> : multiply_tiles<2>)(weights[0].narrow() + from, chunk,
                                                     values[(from / 32 * tiles + d / 16) * TILE].pairs(), 1, tiles,
                                                     (to - from) / 32, sums[0].numbers + d, head_dim);
      d += four ? 64 : 32;
    }
  }

  void prefetch(const bfloat16* row) const {
    for (int64_t d = 0; d < head_dim; d += 32) __builtin_prefetch(row + d);
  }

  // 16 positions, so that a lane is a position: [head_dim / 2 pairs][16].
  void turn_keys(const bfloat16* cache, const int64_t* slots, int64_t count, __m512i* turned) const {
    const bfloat16* rows[16];
    for (int64_t j = 0; j < 16; ++j) rows[j] = cache + slots[std::min(j, count - 1)];
    for (int64_t d = 0; d < head_dim; d += 8) turn_pairs(rows, d, turned + d / 2);
  }

  // Positions j and j + 1, interleaved: [blocks of 32 positions, columns of 32 numbers, 2, 16 pairs].
  void pair_values(const bfloat16* cache, const int64_t* slots, int64_t j, int64_t count) {
    const int64_t columns = head_dim / 32;
    for (int64_t column = 0; column < columns; ++column) {
      __m512i* to = values[(j / 32 * columns + column) * 2 * TILE + j % 32 / 2].pairs();
      const bfloat16* from = cache + column * 32;
      if (j < count)
        interleave(from + slots[j], j + 1 < count ? from + slots[j + 1] : nullptr, to[0], to[TILE]);
      else
        to[0] = to[TILE] = _mm512_setzero_si512();
    }
  }

  int64_t chunk = 0, head_dim = 0;
  alignas(64) float peaks[TILE], totals[TILE];
  std::vector<Line> keys, values, scores, weights, sums;
};

}  // namespace

#endif
