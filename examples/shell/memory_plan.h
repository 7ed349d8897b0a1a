// Memory before it is taken: one limit over all tiers, made of the library's limits per tier.
#pragma once

#include <cstdint>

#include "shadowkv/shadowkv.h"

namespace shell {

// Throws SKV_E_BUDGET if one sequence of n_tokens would need more than total at its peak; else sets the session's
// limits by tier so that their sum is total.
void limit_memory(skv_model* model, uint64_t total, int64_t n_tokens, skv_session_params* params);

// Rank of the low-rank keys that these parameters lead to; 0 if keys are not factored.
int32_t rank_in_force(skv_model* model, const skv_session_params& params);

}  // namespace shell
