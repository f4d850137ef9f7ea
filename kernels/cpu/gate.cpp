// The gate of an MLP: see gate.py.

#include <omp.h>

#include "rows.h"

namespace {

constexpr int64_t SMALL = 1 << 14;  // numbers that one thread is done with before others have come

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
