// Rotary positions, in place: see rotate.py.

#include <omp.h>

#include "vectors.h"

namespace {

constexpr int64_t SMALL = 1 << 14;  // numbers that one thread is done with before others have come

// x[i], x[i + half] of one head; cos and sin are those of the token.
template <typename T>
void rotate_head(T* x, const T* cos, const T* sin, int64_t half) {
  using A = typename Work<T>::type;
  constexpr int W = Vector<A>::width;
  int64_t d = 0;
  for (; d + W <= half; d += W) {
    const Vec<A> first = load_wide<T>(x + d), second = load_wide<T>(x + half + d);
    store_narrow<T>(x + d, first * load_wide<T>(cos + d) - second * load_wide<T>(sin + d));
    store_narrow<T>(x + half + d, second * load_wide<T>(cos + half + d) + first * load_wide<T>(sin + half + d));
  }
  for (; d < half; ++d) {
    const A first = widen(x[d]), second = widen(x[half + d]);
    narrow(A(first * widen(cos[d]) - second * widen(sin[d])), x[d]);
    narrow(A(second * widen(cos[half + d]) + first * widen(sin[half + d])), x[half + d]);
  }
}

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
