// How keys and values are to be kept, as the user gives it: a policy, and what is to differ from its preset.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "shadowkv/shadowkv.h"

namespace shell {

struct CacheSettings {
  skv_policy policy = SKV_POLICY_SHADOWKV;
  // Empty: as the policy's preset has it.
  std::optional<skv_dtype> dtype;
  std::optional<skv_key_store> keys;
  std::optional<skv_codec> key_codec;
  std::optional<skv_codec> value_codec;
  std::optional<skv_digest> digest;
  std::optional<skv_codec> digest_codec;
  std::optional<skv_unselected> unselected;
  std::optional<int32_t> budget_tokens;   // a fixed budget
  std::optional<double> budget_fraction;  // or a share of the context, taken literally
  std::optional<double> max_missed_mass;
  std::optional<int32_t> rank;
  std::optional<int32_t> chunk;
  std::optional<int32_t> window;
  std::optional<std::vector<int32_t>> dense_layers;
};

// The preset with the settings on top. Points into settings.
skv_kv_params kv_params(const CacheSettings& settings);

}  // namespace shell
