// Threads that go from phase to phase together, and share out what a phase has to do.
#pragma once

#include <atomic>
#include <cstdint>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <immintrin.h>

namespace {

// All wait here for the last one. Whoever has waited for a while sleeps: the core may be what the last one lacks.
class Barrier {
 public:
  const int32_t threads;

  explicit Barrier(int32_t threads) : threads(threads) {}

  void wait() {
    if (threads == 1) return;
    const int32_t here = round.load(std::memory_order_acquire);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived.store(0, std::memory_order_relaxed);
      round.store(here + 1);  // before sleepers are counted: none goes to sleep in between
      if (sleepers.load()) call(FUTEX_WAKE_PRIVATE, threads);
      return;
    }
    for (int spin = 0; spin < SPINS; ++spin) {
      if (round.load(std::memory_order_acquire) != here) return;
      _mm_pause();
    }
    sleepers.fetch_add(1);
    while (round.load() == here) call(FUTEX_WAIT_PRIVATE, here);
    sleepers.fetch_sub(1);
  }

 private:
  static constexpr int SPINS = 4000;  // some 0.2 ms

  void call(int operation, int32_t value) {
    syscall(SYS_futex, reinterpret_cast<int32_t*>(&round), operation, value, nullptr, nullptr, 0);
  }

  alignas(64) std::atomic<int32_t> arrived{0};
  alignas(64) std::atomic<int32_t> round{0};
  std::atomic<int32_t> sleepers{0};
};

// How many of a thread's share of a phase are taken.
struct alignas(64) Taken {
  std::atomic<int64_t> count{0};
};

// Numbers 0 .. count - 1, each given to one thread: those of its own share, in order, then what is left of others'.
// taken: [threads], zeros when the phase begins.
template <typename Do>
inline void share(int64_t count, int64_t thread, int64_t threads, Taken* taken, const Do& work) {
  for (int64_t k = 0; k < threads; ++k) {
    const int64_t whose = (thread + k) % threads, begin = count * whose / threads, end = count * (whose + 1) / threads;
    for (int64_t i; (i = begin + taken[whose].count.fetch_add(1, std::memory_order_relaxed)) < end;) work(i);
  }
}

}  // namespace
