// The gate of an MLP: see gate.py.

#include <omp.h>

#include "vectors.h"

namespace {

constexpr int64_t SMALL = 1 << 14;  // numbers that one thread is done with before others have come

template <typename A>
Vec<A> sigmoid(Vec<A> x) {  // by exp of what is not above 0: never infinite
  const Vec<A> less = exponential(x < A(0) ? x : -x);
  return (x < A(0) ? less : all(A(1))) / (A(1) + less);
}

// x * sigmoid(x), or, as 0.5 * (1 + tanh(y)) = sigmoid(2 y), GELU's approximation by tanh
template <typename A>
Vec<A> activate(Vec<A> x, bool is_gelu) {
  if (!is_gelu) return x * sigmoid<A>(x);
  const A twice = A(2 * 0.79788456080286535588);  // sqrt(2 / pi)
  return x * sigmoid<A>(twice * (x + A(0.044715) * x * x * x));
}

template <typename T>
void gate_row(const T* gate, T* out, int64_t size, bool is_gelu) {
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

template <typename T>
void gate_rows(const T* gate_up, T* out, int64_t rows, int64_t size, bool is_gelu, int64_t threads) {
  if (rows * size < SMALL) threads = 1;
#pragma omp parallel for num_threads(int(threads)) if (threads > 1)
  for (int64_t r = 0; r < rows; ++r) gate_row<T>(gate_up + r * 2 * size, out + r * size, size, is_gelu);
}

}  // namespace

#define GATE(NAME, T)                                                                                       \
  extern "C" void gate_##NAME(const T* gate_up, T* out, int64_t rows, int64_t size, int64_t is_gelu,        \
                              int64_t threads) {                                                            \
    gate_rows<T>(gate_up, out, rows, size, is_gelu != 0, threads);                                          \
  }

GATE(float64, double)
GATE(float32, float)
GATE(float16, float16)
GATE(bfloat16, bfloat16)
