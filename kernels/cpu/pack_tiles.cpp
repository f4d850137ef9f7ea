// Weights as tile registers read them: see pack_tiles.py.

#include <omp.h>

#include <cstdint>

namespace {

constexpr int64_t SIDE = 16, COLUMN = 2 * SIDE;

inline void pack_column(const uint32_t* from, uint32_t* to, int64_t outputs, int64_t words, int64_t depth, int64_t c) {
  to += c * depth * COLUMN * SIDE;
  for (int64_t d = 0; d < depth; ++d)
    for (int64_t half = 0; half < 2; ++half, to += SIDE * SIDE)
      for (int64_t o = 0; o < SIDE; ++o) {
        const int64_t output = c * COLUMN + half * SIDE + o;
        for (int64_t w = 0; w < SIDE; ++w) {
          const int64_t word = d * SIDE + w;
          to[w * SIDE + o] = output < outputs && word < words ? from[output * words + word] : 0;
        }
      }
}

}  // namespace

extern "C" void pack_tiles(const uint32_t* from, uint32_t* to, int64_t outputs, int64_t words, int64_t threads) {
  const int64_t columns = (outputs + COLUMN - 1) / COLUMN, depth = (words + SIDE - 1) / SIDE;
  if (columns < 8) threads = 1;
#pragma omp parallel for num_threads(int(threads)) if (threads > 1)
  for (int64_t c = 0; c < columns; ++c) pack_column(from, to, outputs, words, depth, c);
}
