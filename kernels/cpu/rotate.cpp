// Rotary positions, in place: see rotate.py.

#include <omp.h>

#include "rows.h"

namespace {

constexpr int64_t SMALL = 1 << 14;  // numbers that one thread is done with before others have come

template <typename T>
void rotate(T* x, int64_t stride, const T* cos, const T* sin, int64_t tokens, int64_t heads, int64_t head_dim,
            int64_t turning, int64_t threads) {
  if (tokens * heads * turning < SMALL) threads = 1;
#pragma omp parallel for num_threads(int(threads)) if (threads > 1)
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t head = 0; head < heads; ++head)
      rotate_head<T>(x + t * stride + head * head_dim, cos + t * turning, sin + t * turning, turning / 2);
}

}  // namespace

#define ROTATE(NAME, T)                                                                                      \
  extern "C" void rotate_##NAME(T* x, int64_t stride, const T* cos, const T* sin, int64_t tokens,            \
                                int64_t heads, int64_t head_dim, int64_t turning, int64_t threads) {         \
    rotate<T>(x, stride, cos, sin, tokens, heads, head_dim, turning, threads);                               \
  }

ROTATE(float64, double)
ROTATE(float32, float)
ROTATE(float16, float16)
ROTATE(bfloat16, bfloat16)
