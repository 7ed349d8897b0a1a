// The parts of a session and how they hang together.
#pragma once

#include "lib/engine/decode_step.h"
#include "lib/engine/predict.h"
#include "lib/engine/prefill_queue.h"

namespace skv::engine {

// An account is charged by its session's first buffer, so its limits stand before.
struct SessionAccount : MemoryAccount {
  SessionAccount(MemoryAccount& parent, const SessionConfig& config) : MemoryAccount(&parent, "session") {
    for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) set_limit(tier, config.limit_bytes[tier]);
  }
};

struct Session::Impl {
  Impl(Runtime& runtime, const model::Model& model, const SessionConfig& config,
       const std::atomic<bool>& interrupted);
  ~Impl();

  // Decode rows, then prefill within the allowance. Throws for the whole call; result is written then too.
  void step(std::span<skv_row> rows, const StepAllowance& allowance, skv_step_result* result);
  // Throws Error(SKV_E_INTERRUPTED) if someone asked for it.
  void check_interrupt() const;
  // Throws Error(SKV_E_BUDGET) if a prompt of n tokens on this sequence cannot fit beside what is there and queued.
  void admit(const SequenceState& sequence, int64_t n) const;
  void close(SequenceState& sequence) noexcept;
  int64_t queued_tokens() const;
  void write_result(int32_t rows_ok, const PrefillQueue::Counts& counts, skv_step_result* result) const;
  // Token-layers still to do over all queues.
  int64_t queued_work() const;

  SessionConfig config;
  MemoryAccount& runtime_account;
  SessionAccount account;
  std::unique_ptr<device::Queue> device_queue;
  std::shared_ptr<const model::Resident> resident;
  std::unique_ptr<model::Forward> forward;
  kv::Store store;
  Core core;
  Predictor predictor;
  SequenceTable table;
  PrefillQueue queue;
  DecodeStep decode;
};

}  // namespace skv::engine
