// Uniform numbers as a pure function of (seed, position): see draw.py.

#include <cstdint>

namespace {

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011), key = seed, counter = (position, 0, 0, 0).
double uniform(uint64_t seed, uint64_t position) {
  uint32_t c0 = uint32_t(position), c1 = 0, c2 = 0, c3 = 0, k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t(c0) * 0xD2511F53u, right = uint64_t(c2) * 0xCD9E8D57u;
    c0 = uint32_t(right >> 32) ^ c1 ^ k0, c1 = uint32_t(right);
    c2 = uint32_t(left >> 32) ^ c3 ^ k1, c3 = uint32_t(left);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return double(((uint64_t(c0) << 32) | c1) >> 11) * 0x1p-53;
}

}  // namespace

extern "C" void uniforms(const uint64_t* seeds, const int64_t* positions, double* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = uniform(seeds[i], uint64_t(positions[i]));
}
