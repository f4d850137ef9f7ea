// What paged_attention.cpp computes, for whoever calls it within threads of their own.
#pragma once

#include "plan.h"
#include "tiles.h"

template <typename T>
struct Layer {
  const T *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;  // from one token to the next
  T *keys, *values, *out;
  double scale, soft_cap;  // soft_cap 0: none
};

#if HAS_TILES
// One thread's part in a layer. First all new keys and values are in the cache, then items are attended to, by
// whoever comes, and when all of them are, rows are merged. Whoever attends has `WholeTiles`.
class AttentionThread {
 public:
  AttentionThread(const Plan& plan, const Layer<bfloat16>& layer);
  ~AttentionThread();
  AttentionThread(const AttentionThread&) = delete;
  void attend(const int32_t* item);
  void merge(int64_t token) const;

 private:
  struct State;
  State* state;
};
#endif
