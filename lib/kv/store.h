// The KV manager of a session: all sequences' keys and values, in tiers. Knows no model: it is given post-RoPE keys,
// values and queries layer by layer, and gives back attention outputs.
//
// Rows of q are [q_heads * head_dim], of k and v [kv_heads * head_dim], f32, contiguous. One thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "kernels/common/rope_view.h"
#include "lib/base/memory.h"
#include "lib/device/device.h"
#include "lib/kv/policy.h"
#include "shadowkv/kv.h"

namespace skv::kv {

class Sequence;  // sequence.h: one sequence's tables

// Time spent, by stage, since the store was made.
struct StageTimes {
  int64_t prefill_attention_ns = 0;
  int64_t compress_ns = 0;
  int64_t select_ns = 0;
  int64_t fetch_ns = 0;
  int64_t decode_attention_ns = 0;
};

// Bytes by tier and purpose.
using MemoryTable = skv_memory_table;

// One sequence's part of a decode batch: n tokens whose q, k, v rows begin at row first.
struct DecodeRow {
  Sequence* sequence = nullptr;
  int64_t first = 0;
  int32_t n = 0;
};

// What one KV head attends to in one decode step, for tests and measurements: tokens [exact_from, position], the outlier
// and the selected chunks (both ascending or in order of arrival; spans end with the call), sinks of policy streaming.
struct Selection {
  const Sequence* sequence = nullptr;
  int32_t layer = 0;
  int32_t head = 0;
  int64_t position = 0;
  int64_t exact_from = 0;
  std::span<const int32_t> chunks;
  std::span<const int32_t> outliers;
  int32_t n_fetched = 0;  // of chunks, those that were in no slot
  // Under the accuracy guard: the share of each query head's mass left out, by estimate, and whether more was wanted.
  std::span<const float> estimated_miss;
  bool capped = false;
};
using SelectionProbe = std::function<void(const Selection&)>;

class Store {
 public:
  Store(const Geometry& geometry, const Policy& policy, const kernels::RopeView& rope, const kernels::Ops& ops,
        MemoryAccount& account);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  const Policy& policy() const;
  const Geometry& geometry() const;

  Sequence* open();
  void close(Sequence* sequence) noexcept;
  int64_t length(const Sequence* sequence) const;

  // Prompt of n tokens on top of what is there, layer-major: for each layer in order, for each block in order append then
  // attend, then finish_layer; then commit. The sequence's length changes at commit only; abort at any point leaves it as
  // it was. Throwing calls (Error SKV_E_BUDGET / SKV_E_NOMEM) must be followed by abort_prefill.
  void begin_prefill(Sequence* sequence, int64_t n);
  // Tokens [start, start + n) of the prompt.
  void prefill_append(Sequence* sequence, int32_t layer, int64_t start, int64_t n, const float* k, const float* v);
  void prefill_attend(Sequence* sequence, int32_t layer, int64_t start, int64_t n, const float* q, float* out);
  void prefill_finish_layer(Sequence* sequence, int32_t layer);
  void prefill_commit(Sequence* sequence) noexcept;
  void prefill_abort(Sequence* sequence) noexcept;

  // Decode: reserve each row (takes the memory for its tokens and for the flush they may cause; throws for that row
  // alone, which then changed nothing), then for each layer append and attend, then commit or drop each row.
  // n <= 64 tokens per row.
  void decode_reserve(Sequence* sequence, int32_t n);
  void decode_append(int32_t layer, std::span<const DecodeRow> rows, const float* k, const float* v);
  void decode_attend(int32_t layer, std::span<const DecodeRow> rows, const float* q, float* out);
  // Length += n, flush if due. Never fails: what it needs was reserved.
  void decode_commit(Sequence* sequence, int32_t n) noexcept;
  // Instead of commit: what the row reserved is given back.
  void decode_drop(Sequence* sequence) noexcept;

  // Cut back to length tokens (<= present). Throws BUDGET / NOMEM with the sequence unchanged.
  void truncate(Sequence* sequence, int64_t length);

  void stats(const Sequence* sequence, skv_kv_stats* out) const;
  const StageTimes& times() const;
  // For tests: forget every slot's content (it is a pure cache, so nothing may change).
  void clear_slots(Sequence* sequence) noexcept;
  // Weights of key channels of one head, [head_dim]; null where there are none.
  const float* channel_weights(const Sequence* sequence, int32_t layer, int32_t head) const;
  // Called for every KV head of every decoded token; empty = none.
  void set_probe(SelectionProbe probe);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Bytes that sequences of these lengths hold in a store (decode workspaces included), by the rules that size the
// allocations. lengths: after their prefill, or grown by decode (the same by design, within a page).
MemoryTable held_bytes(const Geometry& geometry, const Policy& policy, std::span<const int64_t> lengths);
// Bytes at the highest point of a one-append prefill of a new sequence to length n, beyond held_bytes of all sequences
// with this one at length n among them: one layer's exact pages, the prefill's scratch, and what the longest of the others
// had made the store's scratch grow to.
MemoryTable prefill_peak_bytes(const Geometry& geometry, const Policy& policy, int64_t n, int64_t longest_other);
// Bytes beyond held_bytes(lengths) once every sequence has decoded a full window: exact pages up to the next flush.
MemoryTable window_growth_bytes(const Geometry& geometry, const Policy& policy, std::span<const int64_t> lengths);

}  // namespace skv::kv
