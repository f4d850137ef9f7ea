// RMS norm, of a sum where there is one to add: see rms_norm.py.

#include <omp.h>

#include "rows.h"

namespace {

constexpr int64_t SMALL = 1 << 15;  // numbers that one thread is done with before others have come

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
