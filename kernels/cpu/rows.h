// What is done to one row of a layer: norms, turns, gates. See rms_norm.py, rotate.py, gate.py.
#pragma once

#include "vectors.h"

namespace {

template <typename T>
inline void norm_row(const T* x, const T* part, const T* weight, T* total, T* out, int64_t size, double eps,
                     double offset) {
  using A = typename Work<T>::type;
  constexpr int W = Vector<A>::width;
  const int64_t whole = size / W * W;
  const T* row = x;
  Vec<A> squares = {};
  A rest = 0;
  if (part) {
    for (int64_t d = 0; d < whole; d += W) store_narrow<T>(total + d, load_wide<T>(x + d) + load_wide<T>(part + d));
    for (int64_t d = whole; d < size; ++d) narrow(widen(x[d]) + widen(part[d]), total[d]);
    row = total;
  }
  for (int64_t d = 0; d < whole; d += W) squares += load_wide<T>(row + d) * load_wide<T>(row + d);
  for (int64_t d = whole; d < size; ++d) rest += widen(row[d]) * widen(row[d]);
  const A scale = A(1) / std::sqrt((sum<A>(squares) + rest) / A(size) + A(eps));
  for (int64_t d = 0; d < whole; d += W)
    store_narrow<T>(out + d, load_wide<T>(row + d) * scale * (load_wide<T>(weight + d) + A(offset)));
  for (int64_t d = whole; d < size; ++d) narrow(widen(row[d]) * scale * (widen(weight[d]) + A(offset)), out[d]);
}

// x[i], x[i + half] of one head; cos and sin are those of the token.
template <typename T>
inline void rotate_head(T* x, const T* cos, const T* sin, int64_t half) {
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

template <typename A>
inline Vec<A> sigmoid(Vec<A> x) {  // by exp of what is not above 0: never infinite
  const Vec<A> less = exponential(x < A(0) ? x : -x);
  return (x < A(0) ? less : all(A(1))) / (A(1) + less);
}

// x * sigmoid(x), or, as 0.5 * (1 + tanh(y)) = sigmoid(2 y), GELU's approximation by tanh
template <typename A>
inline Vec<A> activate(Vec<A> x, bool is_gelu) {
  if (!is_gelu) return x * sigmoid<A>(x);
  const A twice = A(2 * 0.79788456080286535588);  // sqrt(2 / pi)
  return x * sigmoid<A>(twice * (x + A(0.044715) * x * x * x));
}

template <typename T>
inline void gate_row(const T* gate, T* out, int64_t size, bool is_gelu) {
  using A = typename Work<T>::type;
  constexpr int W = Vector<A>::width;
  const T* up = gate + size;
  int64_t d = 0;
  for (; d + W <= size; d += W)
    store_narrow<T>(out + d, activate<A>(load_wide<T>(gate + d), is_gelu) * load_wide<T>(up + d));
  for (; d < size; ++d) {
    const Vec<A> one = activate<A>(all(A(widen(gate[d]))), is_gelu) * A(widen(up[d]));
    narrow(A(one[0]), out[d]);
  }
}

}  // namespace
