#include "tests/kv/kv_configs.h"

#include "tests/kv/kv_harness.h"

namespace skv::test {
namespace {

// For geometries of 2 layers and 2 KV heads.
constexpr double kWeights[] = {1.0, 2.0, 0.5, 0.0};
constexpr int32_t kDenseLayer[] = {1};

skv_kv_params with_codecs(skv_kv_params p, skv_codec keys, skv_codec values, skv_codec digests) {
  p.key_codec = keys;
  p.value_codec = values;
  p.digest_codec = digests;
  return p;
}

skv_kv_params with_digest(skv_kv_params p, skv_digest digest, skv_unselected unselected = SKV_UNSELECTED_DROPPED) {
  p.digest = digest;
  p.unselected = unselected;
  return p;
}

skv_kv_params with_guard(skv_kv_params p, double max_missed_mass) {
  p.max_missed_mass = max_missed_mass;
  p.max_budget_tokens = 256;
  return p;
}

skv_kv_params weighted(skv_kv_params p) {
  p.budget_weights = kWeights;
  p.n_budget_weights = 4;
  return p;
}

skv_kv_params with_dense_layer(skv_kv_params p) {
  p.dense_layers = kDenseLayer;
  p.n_dense_layers = 1;
  return p;
}

skv_kv_params quest(skv_dtype dtype) {
  skv_kv_params p = small_params(SKV_POLICY_QUEST, SKV_KEYS_EXACT, dtype);
  p.digest = SKV_DIGEST_BOX;
  p.chunk_tokens = 16;
  p.outlier_fraction = 0.0;
  p.window_tokens = 0;
  p.flush_tokens = 16;
  p.dense_below_tokens = 0;
  return p;
}

skv_kv_params streaming(skv_dtype dtype) {
  skv_kv_params p = small_params(SKV_POLICY_STREAMING, SKV_KEYS_EXACT, dtype);
  p.window_tokens = 100;
  return p;
}

}  // namespace

std::vector<KvConfig> kv_configs(skv_dtype dtype) {
  const auto low_rank = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_LOWRANK, dtype);
  const auto exact = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, dtype);
  const auto raw = SKV_CODEC_RAW, int8 = SKV_CODEC_INT8, int4 = SKV_CODEC_INT4;
  const auto estimated = SKV_UNSELECTED_ESTIMATED;
  const auto variance = with_digest(exact, SKV_DIGEST_MEAN_VARIANCE);
  return {
      {"low_rank", low_rank},
      {"exact", exact},
      {"low_rank_int8", with_codecs(low_rank, int8, int8, int8)},
      {"low_rank_int8_values_int4", with_codecs(low_rank, int8, int4, int8)},
      {"exact_int8", with_codecs(exact, int8, int8, int8)},
      {"exact_int4", with_codecs(exact, int4, int4, int8)},
      {"mean_variance", variance},
      {"mean_variance_int8", with_codecs(variance, raw, raw, int8)},
      {"box", with_digest(exact, SKV_DIGEST_BOX)},
      {"keys_2bit", with_digest(exact, SKV_DIGEST_KEYS_2BIT)},
      {"keys_2bit_low_rank", with_codecs(with_digest(low_rank, SKV_DIGEST_KEYS_2BIT), int8, int4, raw)},
      {"estimated", with_digest(exact, SKV_DIGEST_MEAN, estimated)},
      {"estimated_int8", with_codecs(with_digest(low_rank, SKV_DIGEST_MEAN_VARIANCE, estimated), int8, int8, int8)},
      {"estimated_2bit", with_digest(exact, SKV_DIGEST_KEYS_2BIT, estimated)},
      {"guarded", with_guard(variance, 0.1)},
      {"guarded_estimated", with_guard(with_digest(low_rank, SKV_DIGEST_MEAN_VARIANCE, estimated), 0.1)},
      {"weighted", weighted(low_rank)},
      {"weighted_guarded", weighted(with_guard(variance, 0.1))},
      {"dense_layer", with_dense_layer(low_rank)},
      {"published", small_params(SKV_POLICY_PUBLISHED, SKV_KEYS_LOWRANK, dtype)},
      {"quest", quest(dtype)},
      {"streaming", streaming(dtype)},
  };
}

}  // namespace skv::test
