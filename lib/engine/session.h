// A session: sequences of one model stepping together. The C ABI's session functions are thin calls of these; what
// they promise is written in include/shadowkv/session.h. One thread at a time, on a dispatcher; interrupt() from
// anywhere.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "kernels/sample/sample.h"
#include "lib/engine/runtime.h"
#include "lib/kv/policy.h"
#include "lib/model/model.h"
#include "shadowkv/budget.h"
#include "shadowkv/session.h"

namespace skv::engine {

// skv_session_params checked and resolved for a model.
struct SessionConfig {
  int32_t device = 0;
  int32_t threads = 1;  // of a call: workspaces are sized for them
  int32_t max_sequences = 64;
  int32_t max_rows = 64;
  int32_t prefill_block = 512;
  kv::Policy policy;
  uint64_t limit_bytes[SKV_TIER_COUNT] = {};
  std::array<int64_t, kTierCount> queue_bytes = {};  // what the device's queue takes
};
kv::Geometry geometry_of(const model::Config& config);
// Throws Error(SKV_E_INVALID / SKV_E_UNSUPPORTED / SKV_E_NO_DEVICE).
SessionConfig resolve_session(const skv_session_params& params, const skv_kv_params& kv, const Runtime& runtime,
                              const model::Config& config);

struct StepAllowance {
  uint64_t max_prefill_tokens = UINT64_MAX;
  uint64_t max_prefill_ns = UINT64_MAX;
};

class Session {
 public:
  Session(std::shared_ptr<Runtime> runtime, std::shared_ptr<const model::Model> model, const SessionConfig& config);
  ~Session();

  skv_seq open(int64_t max_tokens);
  void close(skv_seq seq);
  void append(skv_seq seq, std::span<const int32_t> tokens);
  void cancel(skv_seq seq);
  int64_t length(skv_seq seq) const;
  int64_t queued(skv_seq seq) const;
  void truncate(skv_seq seq, int64_t length);
  void set_sampler(skv_seq seq, const kernels::SampleParams& params);
  int32_t sample(skv_seq seq);
  void copy_logits(skv_seq seq, float* out, int64_t capacity) const;  // throws STATE if none are kept, SPACE
  skv_status prefill_status(skv_seq seq, skv_error* detail) const;

  // The constructor, truncate, step and prefill hand their work to a dispatcher themselves: made on the host's
  // thread, an interrupt that comes while the call waits for a dispatcher counts, and progress runs on that thread.
  // Interrupts before the call are forgotten. rows as the ABI gives them (already copied to this version's layout);
  // statuses are written into them.
  void step(std::span<skv_row> rows, const StepAllowance& allowance, skv_step_result* result);
  // progress(done, total) in token-layers; return false to cancel.
  void prefill(const std::function<bool(int64_t, int64_t)>& progress);

  void interrupt() noexcept { interrupted_.store(true, std::memory_order_relaxed); }
  void kv_stats(skv_seq seq, skv_kv_stats* out) const;
  void usage(skv_session_usage* out) const;

  const model::Model& model() const { return *model_; }

 private:
  struct Impl;
  std::shared_ptr<Runtime> runtime_;
  std::shared_ptr<const model::Model> model_;
  std::atomic<bool> interrupted_{false};
  std::unique_ptr<Impl> impl_;
};

// Budget: what such a session would hold and need at its peak (include/shadowkv/budget.h).
void budget_query(const model::Model& model, const SessionConfig& config, std::span<const int64_t> lengths,
                  skv_budget* out);
void budget_plan(const model::Model& model, const SessionConfig& config, skv_budget_plan_io* io);

}  // namespace skv::engine
