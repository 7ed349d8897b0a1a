// Bytes of a session before they are taken: what admission, skv_budget_query() and skv_budget_plan() all ask. Sizes
// come from the functions that allocate (buffers.h, token_pages.h, lib/kv).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "lib/engine/session.h"
#include "lib/model/forward.h"

namespace skv::engine {

using TierBytes = std::array<int64_t, SKV_TIER_COUNT>;

TierBytes tier_sums(const skv_memory_table& table);

class Predictor {
 public:
  // All are kept by reference.
  Predictor(const model::Config& model, const SessionConfig& session, const model::Forward& forward);

  // Sequences of these lengths with empty queues, decode buffers of the session included.
  skv_memory_table held(std::span<const int64_t> lengths) const;
  // Highest bytes while a sequence goes from length to length + n in one append, the others having the lengths given.
  TierBytes prefill_peak(std::span<const int64_t> others, int64_t length, int64_t n) const;
  // Highest of held(lengths) with full windows and of each prefill on the way there, one sequence after another, each from one append.
  TierBytes peak(std::span<const int64_t> lengths) const;

 private:
  const model::Config& model_;
  const SessionConfig& session_;
  const model::Forward& forward_;
  const kv::Geometry geometry_;
};

}  // namespace skv::engine
