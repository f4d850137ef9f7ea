// RMS norm, of a sum where there is one to add: see rms_norm.py.

#include <omp.h>

#include "vectors.h"

namespace {

constexpr int64_t SMALL = 1 << 15;  // numbers that one thread is done with before others have come

template <typename T>
void norm_row(const T* x, const T* part, const T* weight, T* total, T* out, int64_t size, double eps, double offset) {
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

template <typename T>
void norm(const T* x, const T* part, const T* weight, T* total, T* out, int64_t rows, int64_t size,
          double eps, double offset, int64_t threads) {
  if (rows * size < SMALL) threads = 1;
#pragma omp parallel for num_threads(int(threads)) if (threads > 1)
  for (int64_t r = 0; r < rows; ++r)
    norm_row<T>(x + r * size, part ? part + r * size : nullptr, weight, total ? total + r * size : nullptr,
                out + r * size, size, eps, offset);
}

}  // namespace

#define NORM(NAME, T)                                                                                               \
  extern "C" void rms_norm_##NAME(const T* x, const T* part, const T* weight, T* total, T* out,   \
                                  int64_t rows, int64_t size, double eps, double offset, int64_t threads) {         \
    norm<T>(x, part, weight, total, out, rows, size, eps, offset, threads);                               \
  }

NORM(float64, double)
NORM(float32, float)
NORM(float16, float16)
NORM(bfloat16, bfloat16)
