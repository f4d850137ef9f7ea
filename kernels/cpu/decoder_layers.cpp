// The layers of a decoder, one after the other, by one team of threads: see decoder_layers.py.
//
// A phase is what can be done without hearing of the other threads. A thread does its share of it and what is left of
// the others', and at its end all wait for each other.

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include <omp.h>

#include "attention.h"
#include "products.h"
#include "rows.h"

#if HAS_TILES

#include "team.h"

namespace {

struct Form {  // how a team multiplies with a weight of one kind: see products.h
  int64_t (*columns)(const Product&);
  int64_t (*laid)(int64_t);
  void (*lay_out)(const Product&, const bfloat16*, int64_t, const LaidRows&);
  void (*column)(const Product&, int64_t, const LaidRows&, bfloat16*);
};

const Form FORMS[] = {
    {bfloat16_columns, bfloat16_laid, bfloat16_lay_out, bfloat16_column},
    {int8_columns, int8_laid, int8_lay_out, int8_column},
    {int4_columns, int4_laid, int4_lay_out, int4_column},
};

struct Matrix {  // few: for up to `limit` rows; many: for more
  const Product *few, *many;
  int64_t limit;
};

struct DecoderLayer {
  const bfloat16 *input_norm, *mlp_norm;  // [hidden]
  const bfloat16 *query_norm, *key_norm;  // [head_dim]; null: none
  Matrix qkv, output, gate_up, down;
  bfloat16 *keys, *values;  // [P, page_size, kv_heads, head_dim]
  const Plan* plan;
  double scale, soft_cap;
  int64_t turns;  // which of the step's cos and sin; -1: none
};

struct DecoderStep {
  bfloat16 *x, *out;  // [rows, hidden]: what the first layer takes, and the norm of what the last gives
  const bfloat16* final_norm;  // [hidden]
  bfloat16 *normed, *qkv, *attended, *gate_up, *part;  // [rows, ...], room for what is between
  void *laid, *shared;
  const bfloat16* const* cos;  // [kinds of turns]: [rows, turning]
  const bfloat16* const* sin;
  const int64_t *copied, *copy_slots;  // [copies]: rows whose keys and values go to one more slot each
  int64_t copies, rows, layers, hidden, intermediate, heads, kv_heads, head_dim, turning, threads, is_gelu;
  double eps, norm_offset;
  double attention_seconds;  // told: of the first thread
};

enum Phase { PREPARE_QKV, QKV, NEW_KV, ATTEND, MERGE, OUTPUT, PREPARE_MLP, GATE_UP, GATE, DOWN, PHASES };

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// One thread's way through one layer.
class LayerRun {
 public:
  LayerRun(const DecoderStep& step, const DecoderLayer& layer, Taken* taken, Barrier& barrier, int64_t thread)
      : step(step),
        layer(layer),
        taken(taken),
        barrier(barrier),
        thread(thread),
        queries(step.heads * step.head_dim),
        row_size(step.kv_heads * step.head_dim),
        laid{step.laid, step.shared, step.rows} {}

  void run(bool is_first, double& attention_seconds) const {
    prepare(PREPARE_QKV, layer.qkv, [&](int64_t r) { return normed(r, is_first, layer.input_norm); });
    multiply(QKV, layer.qkv, step.qkv);
    const double began = now();
    attend();
    attention_seconds += now() - began;
    multiply(OUTPUT, layer.output, step.part);
    prepare(PREPARE_MLP, layer.gate_up, [&](int64_t r) { return normed(r, false, layer.mlp_norm); });
    multiply(GATE_UP, layer.gate_up, step.gate_up);
    prepare(GATE, layer.down, [&](int64_t r) {
      bfloat16* row = step.gate_up + r * 2 * step.intermediate;
      gate_row<bfloat16>(row, row, step.intermediate, step.is_gelu);
      return row;
    });
    multiply(DOWN, layer.down, step.part);
  }

 private:
  const Product& chosen(const Matrix& matrix) const {
    return step.rows <= matrix.limit ? *matrix.few : *matrix.many;
  }

  template <typename Do>
  void each(Phase phase, int64_t count, const Do& work) const {
    share(count, thread, barrier.threads, taken + phase * barrier.threads, work);
    barrier.wait();
  }

  // row(r): the r-th of the rows that the matrix is about to be multiplied with.
  template <typename Row>
  void prepare(Phase phase, const Matrix& matrix, const Row& row) const {
    const Product& weight = chosen(matrix);
    const Form& form = FORMS[weight.kind];
    each(phase, form.laid(step.rows),
         [&](int64_t r) { form.lay_out(weight, r < step.rows ? row(r) : nullptr, r, laid); });
  }

  void multiply(Phase phase, const Matrix& matrix, bfloat16* out) const {
    const Product& weight = chosen(matrix);
    const Form& form = FORMS[weight.kind];
    const RowTiles tiles(true, std::min(TILE, form.laid(step.rows)));
    each(phase, form.columns(weight), [&](int64_t c) { form.column(weight, c, laid, out); });
  }

  const bfloat16* normed(int64_t r, bool is_first, const bfloat16* weight) const {
    bfloat16 *x = step.x + r * step.hidden, *out = step.normed + r * step.hidden;
    norm_row<bfloat16>(x, is_first ? nullptr : step.part + r * step.hidden, weight, x, out, step.hidden, step.eps,
                       step.norm_offset);
    return out;
  }

  void attend() const {
    const Plan& plan = *layer.plan;
    const int64_t stride = queries + 2 * row_size;
    each(NEW_KV, step.rows, [&](int64_t t) { keep_token(t, step.qkv + t * stride); });
    if (step.copies) {
      if (thread == 0)
        for (int64_t i = 0; i < step.copies; ++i)
          keep_kv(step.copy_slots[i], step.qkv + step.copied[i] * stride + queries);
      barrier.wait();
    }
    const Layer<bfloat16> given{step.qkv, step.qkv + queries, step.qkv + queries + row_size, stride, stride, stride,
                                layer.keys, layer.values, step.attended, layer.scale, layer.soft_cap};
    AttentionThread mine(plan, given);
    {
      const WholeTiles tiles(true);
      each(ATTEND, plan.item_count, [&](int64_t item) { mine.attend(plan.items + item * 5); });
    }
    prepare(MERGE, layer.output, [&](int64_t t) {
      if (plan.parts[t] >= 0) mine.merge(t);  // else its item has left no parts
      return step.attended + t * queries;
    });
  }

  void keep_token(int64_t t, bfloat16* qkv) const {
    for (int64_t head = 0; head < step.heads + step.kv_heads; ++head) {
      bfloat16* x = qkv + head * step.head_dim;
      const bfloat16* norm = head < step.heads ? layer.query_norm : layer.key_norm;
      if (norm) norm_row<bfloat16>(x, nullptr, norm, nullptr, x, step.head_dim, step.eps, step.norm_offset);
      if (layer.turns >= 0)
        rotate_head<bfloat16>(x, step.cos[layer.turns] + t * step.turning, step.sin[layer.turns] + t * step.turning,
                              step.turning / 2);
    }
    keep_kv(layer.plan->slots[t], qkv + queries);
  }

  void keep_kv(int64_t slot, const bfloat16* kv) const {
    std::memcpy(layer.keys + slot * row_size, kv, row_size * sizeof(bfloat16));
    std::memcpy(layer.values + slot * row_size, kv + row_size, row_size * sizeof(bfloat16));
  }

  const DecoderStep& step;
  const DecoderLayer& layer;
  Taken* const taken;  // [phases, threads]
  Barrier& barrier;
  const int64_t thread, queries, row_size;
  const LaidRows laid;
};

void run(DecoderStep& step, const DecoderLayer* layers) {
  std::vector<Taken> taken;
  std::optional<Barrier> barrier;
  step.attention_seconds = 0;
#pragma omp parallel num_threads(int(step.threads)) if (step.threads > 1)
  {
#pragma omp single
    {
      taken = std::vector<Taken>((step.layers * PHASES + 1) * omp_get_num_threads());
      barrier.emplace(omp_get_num_threads());
    }
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    double attention_seconds = 0;
    for (int64_t i = 0; i < step.layers; ++i)
      LayerRun(step, layers[i], taken.data() + i * PHASES * threads, *barrier, thread).run(i == 0, attention_seconds);
    share(step.rows, thread, threads, taken.data() + step.layers * PHASES * threads, [&](int64_t r) {
      norm_row<bfloat16>(step.x + r * step.hidden, step.part + r * step.hidden, step.final_norm, step.x + r * step.hidden,
                         step.out + r * step.hidden, step.hidden, step.eps, step.norm_offset);
    });
    if (thread == 0) step.attention_seconds = attention_seconds;
  }
}

}  // namespace

extern "C" void decoder_layers(DecoderStep* step, const DecoderLayer* layers) { run(*step, layers); }
#else
extern "C" void decoder_layers(void*, const void*) {}
#endif
