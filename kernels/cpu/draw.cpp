// Drawing tokens from rows of logits: see draw.py, which states the rule and tells what is left to its twin.
//
//   logits   | 128 tokens | 128 tokens | ...     one pass: the highest of each block
//   p        |    sum     |    sum     | ...     one pass: exp in double, nothing is stored but the sums
//   draw            the block in which u falls, then the token in it
//
// Sums are added in another order than the twin's and exp is another one, so everything that is compared with a sum is
// compared with a margin; what lies within it is undecided. A row's result depends on nothing but that row.

#include <omp.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "exponential.h"

namespace {

constexpr int64_t BLOCK = 128;  // tokens; a multiple of every vector's width and of a mask's words
constexpr double FURTHEST = -60;  // blocks of which no p reaches exp of this have no part in any sum's first 16 digits
constexpr double LOWEST = -std::numeric_limits<double>::infinity();

enum Status : int64_t { DRAWN, NOT_A_NUMBER, INFINITE, NOTHING_ALLOWED, NOTHING_LIKELY, UNDECIDED };

struct Draw {  // draw.py has the same
  const void* logits;
  const int32_t* mask;  // null: all tokens
  const int64_t* barred;
  int64_t barred_count;
  double temperature, top_p, min_p;
  int64_t top_k;
  double u;
};

struct Candidate {
  double logit, p;
  int64_t token;
};

struct Scratch {  // of one thread
  std::vector<double> peaks, sums;  // of blocks
  std::vector<int32_t> mask;
  std::vector<Candidate> candidates;
};

inline bool has_bit(const int32_t* mask, int64_t token) { return uint32_t(mask[token / 32]) >> (token % 32) & 1; }

// All bits of lane i where the bit of token `first + i` is set.
template <typename A>
inline Lanes<A> allowed(const int32_t* mask, int64_t first) {
  constexpr int W = Vector<A>::width;
  Lanes<A> bit;
  for (int i = 0; i < W; ++i) bit[i] = 1 << i;
  const auto bits = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>(uint32_t(mask[first / 32]) >> (first % 32));
  return (bit & bits) != 0;
}

// One row and what is allowed of it.
template <typename T>
struct Row {
  using A = typename Work<T>::type;
  const T* x;
  int64_t size;
  const int32_t* mask;  // null: all

  bool allows(int64_t token) const { return !mask || has_bit(mask, token); }

  // The tokens from `first` on, minus infinity where there are none.
  Vec<A> logits(int64_t first) const {
    constexpr int W = Vector<A>::width;
    if (first + W <= size) return load_wide<T>(x + first);
    Vec<A> some = all(-std::numeric_limits<A>::infinity());
    for (int64_t i = first; i < size; ++i) some[i - first] = widen(x[i]);
    return some;
  }

  // p of the tokens from `first` on, 0 where there are none or they are not allowed; and their `logits`.
  Vec<double> p(int64_t first, double peak, double per_heat, Vec<double>& logits) const {
    constexpr int W = Vector<double>::width;
    if (first + W <= size) {
      logits = load_double<T>(x + first);
    } else {
      logits = all(LOWEST);
      for (int64_t i = first; i < size; ++i) logits[i - first] = widen(x[i]);
    }
    const Vec<double> p = exponential_below((logits - peak) * per_heat);
    return mask ? allowed<double>(mask, first) ? p : Vec<double>{} : p;
  }
};

struct Highest {
  double of_all, of_allowed;
  bool has_nan;
};

// The highest logits, and that of the allowed ones in every block.
template <typename T>
Highest look_over(const Row<T>& row, std::vector<double>& peaks) {
  using A = typename Work<T>::type;
  constexpr int W = Vector<A>::width;
  const Vec<A> lowest = all(-std::numeric_limits<A>::infinity());
  Vec<A> highest = lowest;
  Lanes<A> nan = {};
  double peak = LOWEST;
  peaks.resize((row.size + BLOCK - 1) / BLOCK);
  for (size_t block = 0; block < peaks.size(); ++block) {
    const int64_t begin = int64_t(block) * BLOCK, end = std::min(begin + BLOCK, row.size);
    Vec<A> best[2] = {lowest, lowest}, raw[2] = {lowest, lowest};
    for (int64_t first = begin, turn = 0; first < end; first += W, turn ^= 1) {
      const Vec<A> logits = row.logits(first);
      nan |= logits != logits;
      raw[turn] = larger<A>(logits, raw[turn]);
      if (row.mask) best[turn] = larger<A>(allowed<A>(row.mask, first) ? logits : lowest, best[turn]);
    }
    const Vec<A> all_of_it = larger<A>(raw[0], raw[1]);
    highest = larger<A>(all_of_it, highest);
    peaks[block] = maximum<A>(row.mask ? larger<A>(best[0], best[1]) : all_of_it);
    peak = std::max(peak, peaks[block]);
  }
  bool has_nan = false;
  for (int i = 0; i < W; ++i) has_nan |= nan[i] != 0;
  return {double(maximum<A>(highest)), peak, has_nan};
}

// The first token allowed that has the highest logit.
template <typename T>
int64_t first_highest(const Row<T>& row, const std::vector<double>& peaks, double peak) {
  int64_t token = (std::find(peaks.begin(), peaks.end(), peak) - peaks.begin()) * BLOCK;
  while (double(widen(row.x[token])) != peak || !row.allows(token)) ++token;
  return token;
}

// How far sums may be from the twin's, as a part of all: it adds as many numbers one after the other.
inline double doubt(int64_t size) { return double(2 * size + 4096) * 0x1p-52; }

// The last of the tokens that remain, from the highest logit down; minus infinity: all of them do.
struct Lowest {
  double logit = LOWEST;
  int64_t token = 0;
};

inline bool any(Longs lanes) {
  int64_t bits = 0;
  for (int i = 0; i < Vector<double>::width; ++i) bits |= lanes[i];
  return bits != 0;
}

// p of the tokens that remain, vector by vector; 0 of others.
template <typename T>
struct Weights {
  const Row<T>& row;
  double peak, per_heat, least;  // p below `least` does not remain
  Lowest lowest;
  bool unsure = false;  // a p was within rounding of `least`

  bool skips(double highest) const { return highest < lowest.logit || (highest - peak) * per_heat <= FURTHEST; }

  Vec<double> operator()(int64_t first) {
    Vec<double> logits;
    Vec<double> p = row.p(first, peak, per_heat, logits);
    if (lowest.logit != LOWEST) {
      Longs tokens;
      for (int i = 0; i < Vector<double>::width; ++i) tokens[i] = first + i;
      p = (logits > lowest.logit) | ((logits == lowest.logit) & (tokens <= lowest.token)) ? p : Vec<double>{};
    }
    if (least > 0) {  // p is exact for the highest logit only
      const Vec<double> away = p - least;
      const Longs near = (away < 1e-12 * least) & (-away < 1e-12 * least) & (logits != peak);
      unsure |= any(near);
      p = p >= least ? p : Vec<double>{};
    }
    return p;
  }
};

// Going up in ids, the first token at which the sum of p, of `total`, exceeds u of it.
struct Inversion {
  double target, margin, before = 0;

  Inversion(double u, double total, int64_t size) : target(u * total), margin(doubt(size) * total) {}
  bool passes(double sum) const { return before + sum > target; }
  bool is_sure(double p) const { return target - before > margin && before + p - target > margin; }
};

// The sum of p in every block, and of all.
template <typename T>
double weigh(Weights<T>& weights, const std::vector<double>& peaks, std::vector<double>& sums) {
  double total = 0;
  sums.assign(peaks.size(), 0);
  for (size_t block = 0; block < peaks.size(); ++block) {
    if (weights.skips(peaks[block])) continue;
    const int64_t begin = int64_t(block) * BLOCK, end = std::min(begin + BLOCK, weights.row.size);
    Vec<double> sum[2] = {};
    for (int64_t first = begin, turn = 0; first < end; first += Vector<double>::width, turn ^= 1)
      sum[turn] += weights(first);
    total += sums[block] = ::sum<double>(sum[0] + sum[1]);
  }
  return total;
}

template <typename T>
int64_t invert(Weights<T>& weights, const std::vector<double>& sums, double total, double u, Status& status) {
  constexpr int W = Vector<double>::width;
  const int64_t size = weights.row.size;
  Inversion inversion(u, total, size);
  size_t block = 0;
  while (block + 1 < sums.size() && !inversion.passes(sums[block])) inversion.before += sums[block++];
  for (int64_t first = int64_t(block) * BLOCK; first < size; first += W) {
    const Vec<double> p = weights(first);
    for (int i = 0; i < W && first + i < size; ++i) {
      if (inversion.passes(p[i])) {
        status = weights.unsure || !inversion.is_sure(p[i]) ? UNDECIDED : DRAWN;
        return first + i;
      }
      inversion.before += p[i];
    }
  }
  status = UNDECIDED;
  return -1;
}

inline bool is_higher(const Candidate& one, const Candidate& other) {
  return one.logit != other.logit ? one.logit > other.logit : one.token < other.token;
}

// The tokens allowed whose logits are not below `cut`.
template <typename T>
void collect(const Row<T>& row, double cut, Scratch& scratch) {
  auto& [peaks, sums, mask, candidates] = scratch;
  candidates.clear();
  for (size_t block = 0; block < peaks.size(); ++block) {
    if (peaks[block] < cut) continue;
    const int64_t begin = int64_t(block) * BLOCK, end = std::min(begin + BLOCK, row.size);
    for (int64_t token = begin; token < end; ++token)
      if (const double logit = widen(row.x[token]); logit >= cut && row.allows(token))
        candidates.push_back({logit, 0.0, token});
  }
}

// The last of the `count` highest; there are more.
template <typename T>
Lowest lowest_of_most(const Row<T>& row, int64_t count, Scratch& scratch) {
  auto& [peaks, sums, mask, candidates] = scratch;
  double cut = LOWEST;
  if (count <= int64_t(peaks.size())) {  // the highest of as many blocks: at least `count` are not below it
    sums = peaks;
    std::nth_element(sums.begin(), sums.begin() + (count - 1), sums.end(), std::greater<>());
    cut = sums[count - 1];
  }
  collect(row, cut, scratch);
  const auto last = candidates.begin() + (count - 1);
  std::nth_element(candidates.begin(), last, candidates.end(), is_higher);
  return {last->logit, last->token};
}

// The last of the fewest highest whose p sum to `wanted`. As quickselect, by sums instead of counts: what is above the
// range was found to be too little, what is above its end to be enough.
Lowest lowest_of_sum(std::vector<Candidate>& candidates, double wanted, double margin, bool& unsure) {
  auto begin = candidates.begin(), end = candidates.end();
  double above = 0;
  while (end - begin > 32) {
    Candidate* const middle = &begin[(end - begin) / 2];
    const Candidate pivot = std::max(std::min(*begin, *middle, is_higher), std::min(std::max(*begin, *middle, is_higher), end[-1], is_higher), is_higher);
    const auto lower = std::partition(begin, end, [&](const Candidate& one) { return !is_higher(pivot, one); });
    double sum = 0;  // of the pivot and what is higher
    for (auto one = begin; one != lower; ++one) sum += one->p;
    if (above + sum < wanted) above += sum, begin = lower;
    else if (lower == end) break;  // the pivot was the last
    else end = lower;
  }
  std::sort(begin, end, is_higher);
  for (; begin != end; ++begin) {
    if (std::abs(above - wanted) <= margin) break;
    above += begin->p;
    if (std::abs(above - wanted) <= margin) break;
    if (above >= wanted) return {begin->logit, begin->token};
  }
  unsure = true;
  return {};
}

template <typename T>
Lowest nucleus(Weights<T>& weights, double top_p, double total, Scratch& scratch, bool& unsure) {
  const auto& row = weights.row;
  // Of what is below the cut there are not enough to matter: half of what top_p leaves out.
  const double cut = weights.peak + std::log((1 - top_p) * total / (2 * double(row.size))) / weights.per_heat;
  collect(row, std::max(cut, weights.lowest.logit), scratch);
  auto& candidates = scratch.candidates;
  const auto gone = [&](const Candidate& one) {
    return one.logit == weights.lowest.logit && one.token > weights.lowest.token;
  };
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(), gone), candidates.end());
  for (Candidate& one : candidates) one.p = std::exp((one.logit - weights.peak) * weights.per_heat);
  return lowest_of_sum(candidates, top_p * total, doubt(row.size) * total, unsure);
}

template <typename T>
int64_t draw_at_random(const Row<T>& row, double peak, const Draw& how, Scratch& scratch, Status& status) {
  auto& [peaks, sums, mask, candidates] = scratch;
  Weights<T> weights{row, peak, 1 / how.temperature, 0, {}};
  if (how.top_k > 0) weights.lowest = lowest_of_most(row, how.top_k, scratch);
  if (how.top_p < 1) {
    const double total = weigh(weights, peaks, sums);
    weights.lowest = nucleus(weights, how.top_p, total, scratch, weights.unsure);
  }
  weights.least = how.min_p;
  const double total = weigh(weights, peaks, sums);
  return invert(weights, sums, total, how.u, status);
}

// `mask` less the barred tokens, in `words`; `mask` itself if none would be left.
const int32_t* without(const int32_t* mask, const Draw& how, int64_t size, std::vector<int32_t>& words) {
  const int64_t count = (size + 31) / 32;
  if (mask) words.assign(mask, mask + count);
  else words.assign(count, -1);
  if (size % 32) words.back() &= int32_t((uint32_t(1) << size % 32) - 1);
  for (int64_t i = 0; i < how.barred_count; ++i) words[how.barred[i] / 32] &= ~(uint32_t(1) << how.barred[i] % 32);
  return std::any_of(words.begin(), words.end(), [](int32_t word) { return word; }) ? words.data() : mask;
}

template <typename T>
int64_t count_allowed(const Row<T>& row) {
  int64_t count = 0;
  for (int64_t token = 0; token < row.size; ++token) count += row.allows(token);
  return count;
}

template <typename T>
int64_t draw_row(int64_t size, const Draw& how, Scratch& scratch, Status& status) {
  const int32_t* mask = how.barred_count ? without(how.mask, how, size, scratch.mask) : how.mask;
  const Row<T> row{static_cast<const T*>(how.logits), size, mask};
  const Highest highest = look_over(row, scratch.peaks);
  status = DRAWN;
  if (highest.has_nan) status = NOT_A_NUMBER;
  else if (std::isinf(highest.of_all)) status = INFINITE;
  else if (highest.of_allowed == LOWEST) status = count_allowed(row) ? NOTHING_LIKELY : NOTHING_ALLOWED;
  if (status != DRAWN) return -1;
  const double peak = highest.of_allowed;
  if (how.temperature == 0) return first_highest(row, scratch.peaks, peak);
  if (std::isinf(1 / how.temperature)) {
    status = UNDECIDED;
    return -1;
  }
  Draw rule = how;
  if (rule.top_k > 0 && rule.top_k >= (mask ? count_allowed(row) : size)) rule.top_k = 0;
  return draw_at_random(row, peak, rule, scratch, status);
}

template <typename T>
void draw_rows(const Draw* draws, int64_t rows, int64_t size, int64_t* tokens, int64_t* statuses, int64_t threads) {
  if (rows < threads) threads = rows;
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
  {
    Scratch scratch;
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < rows; ++r) {
      Status status;
      const int64_t token = draw_row<T>(size, draws[r], scratch, status);
      tokens[r] = status == DRAWN ? token : -1;
      statuses[r] = status;
    }
  }
}

}  // namespace

#define DRAW(NAME, T)                                                                                            \
  extern "C" void draw_##NAME(const Draw* draws, int64_t rows, int64_t size, int64_t* tokens, int64_t* statuses, \
                              int64_t threads) {                                                                 \
    draw_rows<T>(draws, rows, size, tokens, statuses, threads);                                                  \
  }

DRAW(float64, double)
DRAW(float32, float)
DRAW(float16, float16)
DRAW(bfloat16, bfloat16)
