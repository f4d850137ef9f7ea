// Attention over one chunk of positions and one KV head in tile registers (AMX), up to two tiles of rows at a time.
//
// Keys and values of the chunk are laid out once, for all rows that attend there. Tiles that no row of the two sees
// are left out: what they would add is 0. Knows nothing of items, pages or heads; see paged_attention.cpp.
#pragma once

#include <algorithm>
#include <vector>

#include "tiles.h"

#if HAS_TILES

namespace {

struct Sight {  // the columns of the chunk that a row sees: [from, to)
  int32_t from, to;
};

class ChunkInTiles {
 public:
  static constexpr int64_t ROWS = 2 * TILE;

  // chunk: columns, a multiple of 32; head_dim: a multiple of 32.
  void fit(int64_t chunk, int64_t head_dim) {
    if (this->chunk == chunk && this->head_dim == head_dim) return;
    this->chunk = chunk, this->head_dim = head_dim;
    keys.resize(chunk * head_dim / 32);
    values.resize(chunk * head_dim / 32);
    scores.resize(ROWS * chunk / 16);
    weights.resize(ROWS * chunk / 32);
    sums.resize(ROWS * head_dim / 16);
  }

  // Lays out the keys and values of `count` positions, at `slots` of the caches.
  void load(const bfloat16* key_cache, const bfloat16* value_cache, const int64_t* slots, int64_t count) {
    for (int64_t j = 0; j < count; j += 16) turn_keys(key_cache, slots + j, count - j, keys[j * head_dim / 32].pairs());
    for (int64_t j = 0; j < rounded_up(count, 32); j += 2) pair_values(value_cache, slots, j, count);
  }

  // Attention of R tiles of rows; q: [16 R, head_dim]; `rows` of them are wanted, of which each sees what `sights` says.
  // Scores are multiplied by `scale`, capped (0: not), and are powers of two. Then row i's sums, peak and total are
  // there; the order of its numbers is interleave's.
  template <int R>
  void attend(const bfloat16* q, const Sight* sights, int64_t rows, float scale, float cap) {
    int64_t from = chunk, to = 0;
    for (int64_t i = 0; i < rows; ++i)
      if (sights[i].from < sights[i].to)
        from = std::min<int64_t>(from, sights[i].from), to = std::max<int64_t>(to, sights[i].to);
    from = from / 32 * 32, to = rounded_up(to, 32);
    score<R>(q, from, to);
    for (int64_t i = 0; i < rows; ++i) weigh(i, sights[i], from, to, scale, cap);
    gather<R>(from, to);
  }

  float* sums_of(int64_t row) { return sums[row * head_dim / 16].numbers; }
  float peaks[ROWS], totals[ROWS];

 private:
  struct alignas(64) Line {
    float numbers[16];
    __m512i* pairs() { return reinterpret_cast<__m512i*>(numbers); }
    bfloat16* narrow() { return reinterpret_cast<bfloat16*>(numbers); }
  };

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

  template <int R>
  void score(const bfloat16* q, int64_t from, int64_t to) {
    const int64_t tile = head_dim / 2;  // lines of 16 positions
    for (int64_t j = from; j < to; j += 32)
      multiply_tiles<R, 2>(q, head_dim, keys[j / 16 * tile].pairs(), tile / TILE, 1, head_dim / 32,
                           scores[0].numbers + j, chunk);
  }

  // Scores of one row become weights, 0 where it does not see.
  void weigh(int64_t row, Sight sight, int64_t from, int64_t to, float scale, float cap) {
    float* p = scores[row * chunk / 16].numbers;
    bfloat16* narrow = weights[row * chunk / 32].narrow();
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    const bool sees = sight.from < sight.to;
    const int64_t first = sees ? sight.from / 16 : 1, last = sees ? (sight.to - 1) / 16 : 0;
    __m512 peak = lowest;
    const auto scaled = [&](int64_t v) {
      const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(p + v * 16), _mm512_set1_ps(scale));
      return cap == 0 ? x : capped(x, cap);
    };
    const auto keep = [&](int64_t v, __m512 x) {
      _mm512_storeu_ps(p + v * 16, x);
      peak = _mm512_max_ps(x, peak);  // not NaN
    };
    const auto edge = [&](int64_t v) {
      const int64_t begin = v * 16;
      keep(v, _mm512_mask_mov_ps(lowest, lanes_below(sight.to - begin) & ~lanes_below(sight.from - begin), scaled(v)));
    };
    if (sees) {
      edge(first);
      for (int64_t v = first + 1; v < last; ++v) keep(v, scaled(v));
      if (last > first) edge(last);
    }
    const float highest = _mm512_reduce_max_ps(peak);
    peak = _mm512_set1_ps(highest);
    __m512 total = _mm512_setzero_ps();
    const auto weight = [&](int64_t v) {
      if (v < first || v > last) return _mm512_setzero_ps();
      const __m512 x = (__m512)power_of_two((Vec<float>)_mm512_sub_ps(_mm512_loadu_ps(p + v * 16), peak));
      total = _mm512_add_ps(total, x);
      return x;
    };
    for (int64_t v = from / 16; v < to / 16; v += 2) {
      const __m512 left = weight(v), right = weight(v + 1);
      _mm512_storeu_si512(narrow + v * 16, (__m512i)_mm512_cvtne2ps_pbh(right, left));
    }
    peaks[row] = highest;
    totals[row] = _mm512_reduce_add_ps(total);
  }

  static __mmask16 lanes_below(int64_t count) {
    return __mmask16((1u << std::clamp<int64_t>(count, 0, 16)) - 1);
  }

  // cap tanh(x / cap), to within cap / 2^23.
  static __m512 capped(__m512 x, float cap) {
    const __m512 one = _mm512_set1_ps(1.0f), twice = _mm512_mul_ps(x, _mm512_set1_ps(float(2 * M_LOG2E / cap)));
    const __m512 bounded = _mm512_min_ps(_mm512_set1_ps(64.0f), twice);  // NaN stays
    const __m512 power = (__m512)power_of_two((Vec<float>)bounded);
    const __m512 part = _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(power, one));
    return _mm512_mul_ps(_mm512_sub_ps(one, part), _mm512_set1_ps(cap * float(M_LOG2E)));
  }

  template <int R>
  void gather(int64_t from, int64_t to) {
    const int64_t columns = head_dim / 32, block = columns * 2 * TILE;
    for (int64_t column = 0; column < columns; ++column)
      multiply_tiles<R, 2>(weights[0].narrow() + from, chunk, values[from / 32 * block + column * 2 * TILE].pairs(), 1,
                           columns * 2, (to - from) / 32, sums[0].numbers + column * 32, head_dim);
  }

  int64_t chunk = 0, head_dim = 0;
  std::vector<Line> keys, values, scores, weights, sums;
};

}  // namespace

#endif
