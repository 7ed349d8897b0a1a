#include "examples/shell/memory_plan.h"

#include <string>

#include "examples/shell/cache_words.h"
#include "examples/shell/shell_api.h"

namespace shell {

void limit_memory(skv_model* model, uint64_t total, int64_t n_tokens, skv_session_params* params) {
  if (total == SKV_UNLIMITED) return;
  skv_budget budget{};
  budget.struct_size = sizeof budget;
  check([&](skv_error* err) { return skv_budget_query(model, params, &n_tokens, 1, 0, &budget, err); });
  uint64_t peak = 0;
  for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) peak += static_cast<uint64_t>(budget.peak_bytes[tier]);
  if (peak > total) {
    throw Failure(SKV_E_BUDGET, std::to_string(n_tokens) + " tokens need " + std::to_string(peak) +
                                    " bytes at their peak; --memory-limit is " + std::to_string(total));
  }
  const uint64_t slack = (total - peak) / SKV_TIER_COUNT;
  for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) {
    params->limit_bytes[tier] = static_cast<uint64_t>(budget.peak_bytes[tier]) + slack;
  }
}

int32_t rank_in_force(skv_model* model, const skv_session_params& params) {
  if (!is_lowrank(*params.kv)) return 0;
  if (params.kv->rank != SKV_AUTO) return params.kv->rank;
  skv_budget_plan_io plan{};
  plan.struct_size = sizeof plan;
  plan.n_sequences = 1;
  for (uint64_t& limit : plan.limit_bytes) limit = SKV_UNLIMITED;
  check([&](skv_error* err) { return skv_budget_plan(model, &params, &plan, err); });
  return plan.rank;
}

}  // namespace shell
