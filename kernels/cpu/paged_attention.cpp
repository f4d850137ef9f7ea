// Attention of a step's new tokens over paged keys and values: see paged_attention.py for the formula and the plan.
//
//   item      a chunk of positions, and everyone who attends there over the same pages; or, of a long prompt, a block
//             of tokens and all chunks that they see
//     score   block by block of the chunk's tokens: q · k for every row of the item
//     weigh   p = 2 ^ (score - maximum), row by row
//     gather  block by block again: values are widened once, output += p * value
//   merge     the chunks of each row, in order; a prompt's item does so as it goes, and needs no scratch
//
// A row is one query head of one token. What it computes depends on its own positions alone: chunks lie at fixed
// positions, and sums run in a fixed order whoever else is in the item. Threads take items; each row of the scratch
// is written by one item.

#include <algorithm>
#include <vector>

#include <omp.h>

#include "attention.h"
#include "chunk_in_tiles.h"

namespace {

#if defined(__AVX512F__)
constexpr int SLICE = 4;  // vectors of one row of output that are in registers at once
#else
constexpr int SLICE = 2;
#endif
constexpr int ROWS = 4;  // rows of output in registers at once

template <typename T>
struct Buffers {  // one thread's, kept from call to call
  using A = typename Work<T>::type;
  std::vector<int64_t> tokens, slots;
  std::vector<T> pairs;
  std::vector<A> queries, scores, block, fresh, sums, peaks, totals;
#if HAS_TILES
  ChunkInTiles chunk;
  std::vector<Sight> sights;
#endif
};

template <typename T>
class Attention {
 public:
  using A = typename Work<T>::type;
  static constexpr int W = Vector<A>::width;

  Attention(const Plan& plan, const Layer<T>& layer, Buffers<T>& mine)
      : plan(plan),
        layer(layer),
        tokens(mine.tokens),
        slots(mine.slots),
        mine(mine),
        padded(rounded_up(plan.head_dim, W)),
        vectors(padded / W),
        fold(plan.heads / plan.kv_heads),
        row_size(plan.kv_heads * plan.head_dim),
        part_size(padded + W),
        in_pairs(multiplies_pairs<T> && plan.head_dim % 32 == 0),
        in_tiles(in_pairs && plan.tiles),
        scale(A(layer.soft_cap == 0 ? layer.scale * M_LOG2E : layer.scale)),
        cap(A(layer.soft_cap)) {}

  // Copies this thread's share of the new tokens' keys and values into the cache.
  void write(int64_t thread, int64_t threads) const {
    for (int64_t t = thread; t < plan.tokens; t += threads) {
      std::memcpy(layer.keys + plan.slots[t] * row_size, layer.k + t * layer.k_stride, row_size * sizeof(T));
      std::memcpy(layer.values + plan.slots[t] * row_size, layer.v + t * layer.v_stride, row_size * sizeof(T));
    }
  }

  void attend(const int32_t* item) {
    collect(item[3], item[4]);
    is_whole = plan.parts[tokens[0]] < 0;
    if (is_whole) begin_rows();
    const int32_t* pages = plan.page_table + int64_t(item[2]) * plan.pages;
    for (begin = item[0]; begin < item[1]; begin += plan.chunk)
      attend_chunk(pages, std::min(item[1] - begin, plan.chunk));
    if (!is_whole) return;
    for (size_t i = 0; i < tokens.size(); ++i)
      for (int64_t head = 0; head < plan.heads; ++head) {
        const int64_t r = line(i, head);
        finish(mine.sums.data() + r * padded, mine.totals[r], out_of(tokens[i], head));
      }
  }

  void merge(int64_t t) const {
    const int64_t chunks = plan.positions[t] / plan.chunk - plan.first[t] / plan.chunk + 1;
    const int64_t step = plan.heads * part_size;
    for (int64_t head = 0; head < plan.heads; ++head) {
      A* parts = static_cast<A*>(plan.scratch) + plan.parts[t] * step + head * part_size;
      for (int64_t c = 1; c < chunks; ++c) {
        const A* next = parts + c * step;
        fold_in(parts, parts + padded, parts + padded + 1, next, next + padded);
      }
      finish(parts, parts[padded + 1], out_of(t, head));
    }
  }

 private:
  void attend_chunk(const int32_t* pages, int64_t count) {
    find_slots(pages, count);
#if HAS_TILES
    if constexpr (multiplies_pairs<T>)
      if (in_tiles) return attend_in_tiles(count);
#endif
    mine.scores.resize(plan.kv_heads * lines * plan.chunk);
    mine.block.resize(W * padded + W);
    if (is_whole) mine.fresh.resize(tokens.size() * plan.heads * part_size);
    for (int64_t at = 0; at < count; at += W) score(at, std::min<int64_t>(W, count - at));
    for (size_t i = 0; i < tokens.size(); ++i)
      for (int64_t head = 0; head < plan.heads; ++head) weigh(i, head, count);
    for (int64_t at = 0; at < count; at += W) gather(at, std::min<int64_t>(W, count - at));
    if (!is_whole) return;
    for (size_t i = 0; i < tokens.size(); ++i)
      for (int64_t head = 0; head < plan.heads; ++head) {
        if (!sees(tokens[i])) continue;
        const int64_t r = line(i, head);
        const A* from = gathered(i, head);
        fold_in(mine.sums.data() + r * padded, mine.peaks.data() + r, mine.totals.data() + r, from, from + padded);
      }
  }

  void find_slots(const int32_t* pages, int64_t count) {
    slots.resize(count);
    int64_t page = begin / plan.page_size, offset = begin % plan.page_size;
    for (int64_t j = 0; j < count; ++j) {
      slots[j] = (pages[page] * plan.page_size + offset) * row_size;
      if (++offset == plan.page_size) offset = 0, ++page;
    }
  }

  // The item's tokens, and their queries by KV head: [kv_heads, tokens, fold, head_dim], widened and padded unless
  // they are multiplied as they are.
  void collect(int32_t from, int32_t to) {
    tokens.clear();
    for (int32_t m = from; m < to; ++m)
      for (int32_t t = plan.members[2 * m]; t < plan.members[2 * m + 1]; ++t) tokens.push_back(t);
    lines = rounded_up(int64_t(tokens.size()) * fold, in_tiles ? 16 : 1);
    if (in_pairs)
      mine.pairs.resize(plan.kv_heads * lines * plan.head_dim);
    else
      mine.queries.resize(plan.kv_heads * lines * padded);
    for (size_t i = 0; i < tokens.size(); ++i)
      for (int64_t head = 0; head < plan.heads; ++head) {
        const T* q = layer.q + tokens[i] * layer.q_stride + head * plan.head_dim;
        if (in_pairs)
          std::memcpy(mine.pairs.data() + line(i, head) * plan.head_dim, q, plan.head_dim * sizeof(T));
        else
          widen_row(q, mine.queries.data() + line(i, head) * padded);
      }
  }

  int64_t line(int64_t i, int64_t head) const {
    return head / fold * lines + i * fold + head % fold;
  }

  T* out_of(int64_t t, int64_t head) const { return layer.out + (t * plan.heads + head) * plan.head_dim; }

  // Where a row's sums, peak and total of the chunk at hand are added up: its part of the scratch, or for a moment.
  A* gathered(int64_t i, int64_t head) const {
    if (is_whole) return mine.fresh.data() + (i * plan.heads + head) * part_size;
    const int64_t t = tokens[i];
    const int64_t index = plan.parts[t] + begin / plan.chunk - plan.first[t] / plan.chunk;
    return static_cast<A*>(plan.scratch) + (index * plan.heads + head) * part_size;
  }

  void begin_rows() const {
    const int64_t rows = plan.kv_heads * lines;
    mine.sums.assign(rows * padded, A(0));
    mine.peaks.assign(rows, A(-INFINITY));
    mine.totals.assign(rows, A(0));
  }

  // Whether a token sees anything of the chunk at hand.
  bool sees(int64_t t) const { return plan.first[t] < begin + plan.chunk && plan.positions[t] >= begin; }

  // The columns of the chunk at hand that a token sees.
  void see(int64_t t, int64_t count, int64_t& from, int64_t& to) const {
    from = std::max<int64_t>(0, plan.first[t] - begin);
    to = std::min<int64_t>(count, plan.positions[t] + 1 - begin);
  }

  // One chunk more: see Fold. One body, not inlined, so that the compiler's fused products are the same for whole items
  // and in merging. latest: the new peak and total.
  __attribute__((noinline)) void fold_in(A* sums, A* peak, A* total, const A* fresh, const A* latest) const {
#if HAS_TILES
    if constexpr (multiplies_pairs<T>)
      if (in_tiles) return Fold(1, peak, total, latest, latest + 1).add(0, sums, fresh, padded);
#endif
    const bool falls = *peak > latest[0];
    const A less = power_of_two(all(falls ? latest[0] - *peak : *peak - latest[0]))[0];
    const A x = falls ? A(1) : less, y = falls ? less : A(1);
    *peak = falls ? *peak : latest[0];
    *total = *total * x + latest[1] * y;
    for (int64_t at = 0; at < padded; at += W) store<A>(sums + at, load<A>(sums + at) * x + load<A>(fresh + at) * y);
  }

  void widen_row(const T* from, A* to) const {  // head_dim numbers, then zeros; in pairs: see split_pairs
    const int64_t whole = plan.head_dim / W;
    if constexpr (multiplies_pairs<T>) {
      if (in_pairs) {
        for (int64_t d = 0; d < plan.head_dim; d += 2 * W) {
          Vec<A> halves[2];
          split_pairs(from + d, halves);
          store<A>(to + d, halves[0]), store<A>(to + d + W, halves[1]);
        }
        return;
      }
    }
    for (int64_t i = 0; i < whole; ++i) store<A>(to + i * W, load_wide<T>(from + i * W));
    for (int64_t d = whole * W; d < padded; ++d) to[d] = d < plan.head_dim ? A(widen(from[d])) : A(0);
  }

  A* aligned_block() const {  // begins where a cache line does
    A* block = mine.block.data();
    return block + (W - reinterpret_cast<uintptr_t>(block) / sizeof(A) % W) % W;
  }

  // One KV head of the block's tokens, widened: [W, padded], zeros past the last token.
  const A* widen_block(const T* cache, int64_t at, int64_t count, int64_t kv_head) const {
    A* wide = aligned_block();
    for (int64_t j = 0; j < count; ++j) widen_row(cache + slots[at + j] + kv_head * plan.head_dim, wide + j * padded);
    std::fill(wide + count * padded, wide + W * padded, A(0));
    return wide;
  }

  // q · k of the block's tokens for every row of the item.
  void score(int64_t at, int64_t count) const {
    for (int64_t kv_head = 0; kv_head < plan.kv_heads; ++kv_head) {
      A* to = mine.scores.data() + kv_head * lines * plan.chunk + at;
      if constexpr (multiplies_pairs<T>) {
        if (in_pairs) {
          score_pairs(at, count, kv_head, to);
          continue;
        }
      }
      const A* keys = widen_block(layer.keys, at, count, kv_head);
      for (int64_t r = 0; r < lines; ++r)
        store<A>(to + r * plan.chunk, products(mine.queries.data() + (kv_head * lines + r) * padded, keys));
    }
  }

  // q · k of W keys [W, padded].
  Vec<A> products(const A* q, const A* keys) const {
    Vec<A> sums[W] = {};
    for (int64_t i = 0; i < vectors; ++i) {
      const Vec<A> x = load<A>(q + i * W);
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) sums[j] += x * load<A>(keys + j * padded + i * W);
    }
    return sums_of_each<A>(sums);
  }

#if HAS_PAIRS
  // The same of pairs of 16-bit numbers. The block's keys are turned, so that a lane is a token and no sums over
  // lanes are needed; products of even and of odd pairs are summed apart, which keeps the adders busy.
  void score_pairs(int64_t at, int64_t count, int64_t kv_head, float* to) const {
    const int64_t pairs = plan.head_dim / 2;
    const bfloat16* keys[16];
    for (int64_t j = 0; j < 16; ++j)
      keys[j] = layer.keys + slots[at + std::min(j, count - 1)] + kv_head * plan.head_dim;
    __m512i* turned = reinterpret_cast<__m512i*>(aligned_block());
    for (int64_t i = 0; i < pairs; i += 4) turn_pairs(keys, i * 2, turned + i);
    const int32_t* q = reinterpret_cast<const int32_t*>(mine.pairs.data()) + kv_head * lines * pairs;
    int64_t r = 0;
    for (; r + ROWS <= lines; r += ROWS) products_of_pairs<ROWS>(q + r * pairs, turned, to + r * plan.chunk);
    if (lines - r == 3) products_of_pairs<3>(q + r * pairs, turned, to + r * plan.chunk);
    if (lines - r == 2) products_of_pairs<2>(q + r * pairs, turned, to + r * plan.chunk);
    if (lines - r == 1) products_of_pairs<1>(q + r * pairs, turned, to + r * plan.chunk);
  }

  template <int R>
  void products_of_pairs(const int32_t* q, const __m512i* turned, float* to) const {
    const int64_t pairs = plan.head_dim / 2;
    __m512 even[R], odd[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) even[r] = odd[r] = _mm512_setzero_ps();
    for (int64_t i = 0; i < pairs; i += 2)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m512i x = _mm512_set1_epi32(q[r * pairs + i]), y = _mm512_set1_epi32(q[r * pairs + i + 1]);
        even[r] = _mm512_dpbf16_ps(even[r], (__m512bh)turned[i], (__m512bh)x);
        odd[r] = _mm512_dpbf16_ps(odd[r], (__m512bh)turned[i + 1], (__m512bh)y);
      }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) _mm512_storeu_ps(to + r * plan.chunk, _mm512_add_ps(even[r], odd[r]));
  }

#endif

#if HAS_TILES
  void attend_in_tiles(int64_t count) {
    ChunkInTiles& chunk = mine.chunk;
    chunk.fit(plan.chunk, plan.head_dim);
    const int64_t rows = int64_t(tokens.size()) * fold;
    mine.sights.resize(rows);
    for (int64_t i = 0; i < rows; ++i) {
      int64_t from, to;
      see(tokens[i / fold], count, from, to);
      mine.sights[i] = {int32_t(from), int32_t(to)};
    }
    for (int64_t kv_head = 0; kv_head < plan.kv_heads; ++kv_head) {
      const int64_t offset = kv_head * plan.head_dim;
      chunk.load(layer.keys + offset, layer.values + offset, slots.data(), count);
      const T* q = mine.pairs.data() + kv_head * lines * plan.head_dim;
      for (int64_t r = 0; r < rows; r += TILE) {
        const int64_t here = std::min(TILE, rows - r);
        const Attended found = chunk.attend(q + r * plan.head_dim, mine.sights.data() + r, here, scale, cap);
        is_whole ? fold_group(kv_head * lines + r, found, r, here) : keep_group(kv_head, found, r, here);
      }
    }
  }
#endif

#if HAS_TILES
  // Rows r.. of a KV head become their parts.
  void keep_group(int64_t kv_head, const Attended& found, int64_t r, int64_t rows) const {
    for (int64_t i = 0; i < rows; ++i) {
      A* part = gathered((r + i) / fold, kv_head * fold + (r + i) % fold);
      std::memcpy(part, found.sums + i * padded, padded * sizeof(A));
      part[padded] = found.peaks[i], part[padded + 1] = found.totals[i];
    }
  }

  // Rows r.. of the item are folded into what is kept from `line` on.
  void fold_group(int64_t line, const Attended& found, int64_t r, int64_t rows) const {
    uint32_t mask = 0;
    for (int64_t i = 0; i < rows; ++i) mask |= uint32_t(mine.sights[r + i].from < mine.sights[r + i].to) << i;
    const Fold folded(__mmask16(mask), mine.peaks.data() + line, mine.totals.data() + line, found.peaks, found.totals);
    for (int64_t i = 0; i < rows; ++i)
      if (mask >> i & 1) folded.add(i, mine.sums.data() + (line + i) * padded, found.sums + i * padded, padded);
  }
#endif

  // Scores of one row become p; what it does not see, 0. Keeps the maximum and the sum of p.
  void weigh(int64_t i, int64_t head, int64_t count) const {
    const int64_t end = rounded_up(count, W);
    int64_t from, to;
    see(tokens[i], count, from, to);
    from = std::min(from, count), to = std::max(from, to);
    A* p = mine.scores.data() + line(i, head) * plan.chunk;
    A* const kept = gathered(i, head) + padded;
    const A lowest = -INFINITY;
    for (int64_t j = 0; j < end; j += W) store<A>(p + j, load<A>(p + j) * scale);
    if (cap != A(0))
      for (int64_t j = from; j < to; ++j) p[j] = A(M_LOG2E) * cap * std::tanh(p[j] / cap);
    std::fill(p, p + from, lowest);
    std::fill(p + to, p + end, lowest);
    Vec<A> peaks = all(lowest);
    for (int64_t j = 0; j < end; j += W) peaks = larger<A>(load<A>(p + j), peaks);
    const A peak = maximum<A>(peaks);
    Vec<A> total = {};
    for (int64_t j = 0; j < end; j += W) {
      const Vec<A> weights = power_of_two(load<A>(p + j) - peak);
      store<A>(p + j, weights);
      total += weights;
    }
    kept[0] = peak;
    kept[1] = sum<A>(total);
  }

  // Adds the block's values to the output of every row of the item; the first block begins at zero.
  void gather(int64_t at, int64_t count) const {
    for (int64_t kv_head = 0; kv_head < plan.kv_heads; ++kv_head) {
      const bool widens_as_it_goes = multiplies_pairs<T> && in_pairs && lines <= ROWS;
      const A* values = widens_as_it_goes ? nullptr : widen_block(layer.values, at, count, kv_head);
      for (int64_t r = 0; r < lines; r += ROWS) {
        A* outs[ROWS];
        const int64_t here = std::min<int64_t>(ROWS, lines - r);
        for (int64_t i = 0; i < here; ++i) outs[i] = gathered((r + i) / fold, kv_head * fold + (r + i) % fold);
        const A* p = mine.scores.data() + (kv_head * lines + r) * plan.chunk + at;
        const Block block{values, layer.values + kv_head * plan.head_dim, slots.data() + at, count, at == 0};
        if (here == 4) add<4>(outs, p, block);
        if (here == 3) add<3>(outs, p, block);
        if (here == 2) add<2>(outs, p, block);
        if (here == 1) add<1>(outs, p, block);
      }
    }
  }

  struct Block {
    const A* wide;  // [W, padded]; null: widened as they are read, from `cache` at each of `slots`
    const T* cache;
    const int64_t* slots;
    int64_t count;
    bool is_first;
  };

  template <int R>
  void add(A* const* outs, const A* p, const Block& block) const {
    int64_t i = 0;
#if HAS_PAIRS
    if constexpr (multiplies_pairs<T>) {
      if (block.wide == nullptr) {
        for (; i + 4 <= vectors; i += 4) add_pairs<R, 2>(outs, p, block, i * W);
        for (; i < vectors; i += 2) add_pairs<R, 1>(outs, p, block, i * W);
        return;
      }
    }
#endif
    for (; i + SLICE <= vectors; i += SLICE) add_slice<R, SLICE>(outs, p, block, i * W);
    for (; i < vectors; ++i) add_slice<R, 1>(outs, p, block, i * W);
  }

  template <int R, int S>
  void add_slice(A* const* outs, const A* p, const Block& block, int64_t at) const {
    Vec<A> sums[R][S];
    begin_sums<R, S>(sums, outs, at, block.is_first);
    for (int j = 0; j < W; ++j)
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) {
        const Vec<A> value = load<A>(block.wide + j * padded + at + s * W);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sums[r][s] += p[r * plan.chunk + j] * value;
      }
    keep_sums<R, S>(sums, outs, at);
  }

#if HAS_PAIRS
  template <int R, int S>
  void add_pairs(A* const* outs, const A* p, const Block& block, int64_t at) const {
    Vec<A> sums[R][2 * S];
    begin_sums<R, 2 * S>(sums, outs, at, block.is_first);
    for (int64_t j = 0; j < block.count; ++j)
#pragma GCC unroll 2
      for (int s = 0; s < S; ++s) {
        Vec<A> value[2];
        split_pairs(block.cache + block.slots[j] + at + s * 2 * W, value);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          sums[r][2 * s] += p[r * plan.chunk + j] * value[0];
          sums[r][2 * s + 1] += p[r * plan.chunk + j] * value[1];
        }
      }
    keep_sums<R, 2 * S>(sums, outs, at);
  }
#endif

  template <int R, int S>
  static void begin_sums(Vec<A> (&sums)[R][S], A* const* outs, int64_t at, bool is_first) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) sums[r][s] = is_first ? Vec<A>{} : load<A>(outs[r] + at + s * W);
  }

  template <int R, int S>
  static void keep_sums(const Vec<A> (&sums)[R][S], A* const* outs, int64_t at) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) store<A>(outs[r] + at + s * W, sums[r][s]);
  }

  void finish(const A* sums, A total, T* out) const {
    const auto mean = [&](int64_t at) { return Vec<A>(load<A>(sums + at) / total); };
    int64_t at = 0;
#if HAS_PAIRS
    if constexpr (multiplies_pairs<T>)
      for (; in_pairs && at < plan.head_dim; at += 2 * W)
        (in_tiles ? join_interleaved : join_split_pairs)(out + at, mean(at), mean(at + W));
#endif
    for (; at + W <= plan.head_dim; at += W) store_narrow<T>(out + at, mean(at));
    if (at < plan.head_dim) {
      const Vec<A> last = mean(at);
      for (int64_t d = at; d < plan.head_dim; ++d) narrow(A(last[d - at]), out[d]);
    }
  }

  const Plan& plan;
  const Layer<T>& layer;
  std::vector<int64_t>& tokens;
  std::vector<int64_t>& slots;
  Buffers<T>& mine;
  const int64_t padded, vectors, fold, row_size, part_size;
  const bool in_pairs, in_tiles;
  const A scale, cap;     // to powers of two, unless it is capped
  int64_t lines = 0;      // rows of each KV head in the item at hand, whole tiles of them
  int64_t begin = 0;      // first position of the chunk at hand
  bool is_whole = false;  // the item at hand has all chunks of its tokens: no parts are left to merge
};

template <typename T>
Buffers<T>& kept_buffers() {
  static thread_local Buffers<T> buffers;
  return buffers;
}

template <typename T>
void attend(const Plan& plan, const Layer<T>& layer) {
  const int threads = plan.item_count > 1 ? int(plan.threads) : 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Attention<T> attention(plan, layer, kept_buffers<T>());
#if HAS_TILES
    const WholeTiles tiles(multiplies_pairs<T> && plan.tiles);
#endif
    attention.write(omp_get_thread_num(), omp_get_num_threads());
#pragma omp barrier
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < plan.item_count; ++item) attention.attend(plan.items + item * 5);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < plan.row_count; ++row) attention.merge(plan.rows[row]);
  }
}

}  // namespace

#define ATTENTION(NAME, T) \
  extern "C" void paged_attention_##NAME(const Plan* plan, const Layer<T>* layer) { attend<T>(*plan, *layer); }

ATTENTION(float64, double)
ATTENTION(float32, float)
ATTENTION(float16, float16)
ATTENTION(bfloat16, bfloat16)

#if HAS_TILES
struct AttentionThread::State {
  Attention<bfloat16> attention;
};

AttentionThread::AttentionThread(const Plan& plan, const Layer<bfloat16>& layer)
    : state(new State{Attention<bfloat16>(plan, layer, kept_buffers<bfloat16>())}) {}
AttentionThread::~AttentionThread() { delete state; }
void AttentionThread::attend(const int32_t* item) { state->attention.attend(item); }
void AttentionThread::merge(int64_t row) const { state->attention.merge(row); }
#endif

extern "C" int64_t vector_bytes() { return VECTOR_BYTES; }

extern "C" int64_t has_tiles() {
#if HAS_TILES
  return tiles_are_allowed();
#else
  return 0;
#endif
}
