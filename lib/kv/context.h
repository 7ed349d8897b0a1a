// What the operations of lib/kv share: layout, ops, pools and the session-wide scratch.
#pragma once

#include <chrono>
#include <cstdint>

#include "kernels/common/rope_view.h"
#include "lib/device/device.h"
#include "lib/kv/arena.h"
#include "lib/kv/layout.h"
#include "lib/kv/page_pool.h"
#include "lib/kv/sequence.h"
#include "lib/kv/store.h"

namespace skv::kv {

struct Context {
  Context(const Geometry& g, const Policy& p, const kernels::RopeView& rope_view, const kernels::Ops& ops_table,
          MemoryAccount& memory)
      : layout{g, p},
        rope(rope_view),
        ops(ops_table),
        account(memory),
        exact(ops, memory, SKV_TIER_FAST, SKV_PURPOSE_EXACT_KV, layout.exact_page_bytes()),
        landmarks(ops, memory, SKV_TIER_FAST, SKV_PURPOSE_LANDMARKS, layout.landmark_page_bytes()),
        lowrank(ops, memory, SKV_TIER_FAST, SKV_PURPOSE_LOWRANK, layout.lowrank_page_bytes()),
        table(ops, memory, SKV_TIER_FAST, SKV_PURPOSE_CHUNK_TABLE, layout.table_page_bytes()),
        values(ops, memory, SKV_TIER_SLOW, SKV_PURPOSE_VALUES, layout.value_page_bytes()),
        keys(ops, memory, SKV_TIER_SLOW, SKV_PURPOSE_KEYS, layout.key_page_bytes()),
        value_means(ops, memory, SKV_TIER_FAST, SKV_PURPOSE_LANDMARKS, layout.value_mean_page_bytes()),
        outliers(ops, memory, SKV_TIER_FAST, SKV_PURPOSE_OUTLIERS, layout.outlier_page_bytes()) {}

  const Geometry& geometry() const { return layout.geometry; }
  const Policy& policy() const { return layout.policy; }

  Layout layout;
  kernels::RopeView rope;
  const kernels::Ops& ops;
  MemoryAccount& account;
  PagePool exact, landmarks, lowrank, table, values, keys, value_means, outliers;
  Scratch seal_scratch;    // see seal.h
  Scratch decode_scratch;  // see decode.h
  StageTimes times;
  SelectionProbe probe;  // see Store::set_probe
};

inline kernels::KeyRebuildDesc rebuild_desc(const Context& context) {
  const Policy& policy = context.policy();
  return {policy.dtype, policy.rank, policy.chunk, context.geometry().head_dim, context.rope, policy.key_codec};
}

inline void ensure_scratch(const Context& context, Scratch* scratch, const ScratchBytes& bytes) {
  scratch->ensure(context.account, context.policy().work_tier, bytes);
}

// Adds the time of a scope to a stage.
class StageTimer {
 public:
  explicit StageTimer(int64_t* total) : total_(total), start_(std::chrono::steady_clock::now()) {}
  ~StageTimer() {
    *total_ += std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start_).count();
  }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  int64_t* total_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace skv::kv
