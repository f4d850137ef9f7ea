// The layers of a decoder, one after the other, by one team of threads: see decoder_layers.py.
//
// A phase is what can be done without hearing of the other threads; a thread takes what is left of it, and at its
// end all wait for each other.

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include <omp.h>

#include "attention.h"
#include "rows.h"
#include "tile_matmul.h"

#if HAS_TILES

#include "team.h"

namespace {

struct DecoderLayer {
  const bfloat16 *input_norm, *mlp_norm;  // [hidden]
  const TileWeight *qkv, *output, *gate_up, *down;
  bfloat16 *keys, *values;  // [P, page_size, kv_heads, head_dim]
  const Plan* plan;
  double scale, soft_cap;
  int64_t turns;  // which of the step's cos and sin; -1: none
};

struct DecoderStep {
  bfloat16* x;  // [rows, hidden], then what the layers make of it
  bfloat16 *normed, *qkv, *attended, *gated;  // [rows up to a whole tile, ...]
  const bfloat16* const* cos;  // [kinds of turns]: [rows, turning]
  const bfloat16* const* sin;
  const int64_t *copied, *copy_slots;  // [copies]: rows whose keys and values go to one more slot each
  int64_t copies, rows, layers, hidden, intermediate, heads, kv_heads, head_dim, turning, threads, is_gelu;
  double eps, norm_offset;
  double attention_seconds;  // told: of the first thread
};

enum Phase { INPUT_NORM, QKV, NEW_KV, ATTEND, MERGE, OUTPUT, MLP_NORM, GATE_UP, DOWN, PHASES };

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

class LayerRun {
 public:
  LayerRun(const DecoderStep& step, const DecoderLayer& layer, Shares* phases, Barrier& barrier)
      : step(step), layer(layer), phases(phases), barrier(barrier), row_size(step.kv_heads * step.head_dim) {}

  void run(double& attention_seconds) const {
    norm(INPUT_NORM, layer.input_norm);
    multiply(QKV, *layer.qkv, step.normed, [&](int64_t row, int64_t first, Vec<float> a, Vec<float> b) {
      store_both(*layer.qkv, step.qkv + row * layer.qkv->outputs, first, a, b);
    });
    const double began = now();
    attend();
    attention_seconds += now() - began;
    add(OUTPUT, *layer.output, step.attended);
    norm(MLP_NORM, layer.mlp_norm);
    multiply(GATE_UP, *layer.gate_up, step.normed, [&](int64_t row, int64_t first, Vec<float> a, Vec<float> b) {
      const Vec<float> gated = activate<float>(rounded(a), step.is_gelu) * rounded(b);
      store_block(step.gated + row * step.intermediate + first, gated, step.intermediate - first);
    });
    add(DOWN, *layer.down, step.gated);
  }

 private:
  template <typename Do>
  void each(Phase phase, int64_t count, const Do& work) const {
    phases[phase].each(count, work);
    barrier.wait();
  }

  void norm(Phase phase, const bfloat16* weight) const {
    each(phase, step.rows, [&](int64_t r) {
      norm_row<bfloat16>(step.x + r * step.hidden, nullptr, weight, nullptr, step.normed + r * step.hidden, step.hidden,
                         step.eps, step.norm_offset);
    });
  }

  template <typename Finish>
  void multiply(Phase phase, const TileWeight& weight, const bfloat16* x, const Finish& finish) const {
    each(phase, weight.columns(), [&](int64_t c) { each_row(weight, c, x, weight.inputs, step.rows, finish); });
  }

  void add(Phase phase, const TileWeight& weight, const bfloat16* x) const {
    multiply(phase, weight, x, [&](int64_t row, int64_t first, Vec<float> a, Vec<float> b) {
      bfloat16* to = step.x + row * step.hidden + first;
      const int64_t left = step.hidden - first;
      if (left >= 2 * BLOCK_OUTPUTS) {
        store_narrow<bfloat16>(to, load_wide<bfloat16>(to) + rounded(a));
        store_narrow<bfloat16>(to + BLOCK_OUTPUTS, load_wide<bfloat16>(to + BLOCK_OUTPUTS) + rounded(b));
      } else {
        add_part(to, rounded(a), left);
        add_part(to + BLOCK_OUTPUTS, rounded(b), left - BLOCK_OUTPUTS);
      }
    });
  }

  static void add_part(bfloat16* to, Vec<float> x, int64_t count) {
    for (int64_t i = 0; i < std::min(count, BLOCK_OUTPUTS); ++i) narrow(widen(to[i]) + x[i], to[i]);
  }

  static void store_both(const TileWeight& weight, bfloat16* to, int64_t first, Vec<float> a, Vec<float> b) {
    store_block(to + first, a, weight.outputs - first);
    store_block(to + first + BLOCK_OUTPUTS, b, weight.outputs - first - BLOCK_OUTPUTS);
  }

  void attend() const {
    const Plan& plan = *layer.plan;
    const int64_t stride = (step.heads + 2 * step.kv_heads) * step.head_dim, queries = step.heads * step.head_dim;
    each(NEW_KV, step.rows, [&](int64_t t) { keep_token(t, step.qkv + t * stride, queries); });
    if (step.copies) {
      if (omp_get_thread_num() == 0)
        for (int64_t i = 0; i < step.copies; ++i)
          keep_kv(step.copy_slots[i], step.qkv + step.copied[i] * stride + queries);
      barrier.wait();
    }
    const Layer<bfloat16> given{step.qkv, step.qkv + queries, step.qkv + queries + row_size, stride, stride, stride,
                                layer.keys, layer.values, step.attended, layer.scale, layer.soft_cap};
    AttentionThread mine(plan, given);
    each(ATTEND, plan.item_count, [&](int64_t item) { mine.attend(plan.items + item * 5); });
    each(MERGE, plan.row_count, [&](int64_t row) { mine.merge(plan.rows[row]); });
  }

  void keep_token(int64_t t, bfloat16* qkv, int64_t queries) const {
    if (layer.turns >= 0) {
      const bfloat16 *cos = step.cos[layer.turns] + t * step.turning, *sin = step.sin[layer.turns] + t * step.turning;
      for (int64_t head = 0; head < step.heads + step.kv_heads; ++head)
        rotate_head<bfloat16>(qkv + head * step.head_dim, cos, sin, step.turning / 2);
    }
    keep_kv(layer.plan->slots[t], qkv + queries);
  }

  void keep_kv(int64_t slot, const bfloat16* kv) const {
    std::memcpy(layer.keys + slot * row_size, kv, row_size * sizeof(bfloat16));
    std::memcpy(layer.values + slot * row_size, kv + row_size, row_size * sizeof(bfloat16));
  }

  const DecoderStep& step;
  const DecoderLayer& layer;
  Shares* const phases;
  Barrier& barrier;
  const int64_t row_size;
};

void run(DecoderStep& step, const DecoderLayer* layers) {
  const std::unique_ptr<Shares[]> phases(new Shares[step.layers * PHASES]);
  std::optional<Barrier> barrier;
  step.attention_seconds = 0;
#pragma omp parallel num_threads(int(step.threads)) if (step.threads > 1)
  {
#pragma omp single
    barrier.emplace(omp_get_num_threads());
    const WholeTiles tiles(true);
    double attention_seconds = 0;
    for (int64_t i = 0; i < step.layers; ++i)
      LayerRun(step, layers[i], phases.get() + i * PHASES, *barrier).run(attention_seconds);
    if (omp_get_thread_num() == 0) step.attention_seconds = attention_seconds;
  }
}

}  // namespace

extern "C" void decoder_layers(DecoderStep* step, const DecoderLayer* layers) { run(*step, layers); }
#else
extern "C" void decoder_layers(void*, const void*) {}
#endif
