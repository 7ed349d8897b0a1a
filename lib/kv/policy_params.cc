// skv_kv_params to Policy: every field checked once, with its name and range in the message.
#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "lib/base/status.h"
#include "lib/kv/policy.h"

namespace skv::kv {
namespace {

constexpr int32_t kMaxSinks = 64;  // they lie in the first exact page
constexpr double kMaxWeight = 1000.0;

void check_range(const char* field, double value, double lo, double hi) {
  if (!(value >= lo && value <= hi)) fail(SKV_E_INVALID, "kv.%s is %g, allowed: [%g, %g]", field, value, lo, hi);
}

void check_one_of(const char* field, int32_t value, std::initializer_list<int32_t> allowed, const char* names) {
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    fail(SKV_E_UNSUPPORTED, "kv.%s is %d, supported: %s", field, value, names);
  }
}

void check_policy(skv_policy policy) {
  check_one_of("policy", policy,
               {SKV_POLICY_FULL, SKV_POLICY_PUBLISHED, SKV_POLICY_SHADOWKV, SKV_POLICY_QUEST, SKV_POLICY_STREAMING},
               "SKV_POLICY_FULL, _PUBLISHED, _SHADOWKV, _QUEST, _STREAMING");
}

void check_formats(const skv_kv_params& p) {
  const std::initializer_list<int32_t> all = {SKV_CODEC_RAW, SKV_CODEC_INT8, SKV_CODEC_INT4};
  const char* const names = "SKV_CODEC_RAW, _INT8, _INT4";
  if (p.keys == SKV_KEYS_LOWRANK) {
    check_one_of("key_codec", p.key_codec, {SKV_CODEC_RAW, SKV_CODEC_INT8}, "SKV_CODEC_RAW, _INT8 with low-rank keys");
  } else {
    check_one_of("key_codec", p.key_codec, all, names);
  }
  check_one_of("value_codec", p.value_codec, all, names);
  check_one_of("digest", p.digest,
               {SKV_DIGEST_MEAN, SKV_DIGEST_MEAN_VARIANCE, SKV_DIGEST_BOX, SKV_DIGEST_KEYS_2BIT},
               "SKV_DIGEST_MEAN, _MEAN_VARIANCE, _BOX, _KEYS_2BIT");
  if (p.digest == SKV_DIGEST_MEAN || p.digest == SKV_DIGEST_MEAN_VARIANCE) {
    check_one_of("digest_codec", p.digest_codec, {SKV_CODEC_RAW, SKV_CODEC_INT8}, "SKV_CODEC_RAW, _INT8");
  } else {
    check_one_of("digest_codec", p.digest_codec, {SKV_CODEC_RAW}, "SKV_CODEC_RAW with this digest");
  }
  check_one_of("unselected", p.unselected, {SKV_UNSELECTED_DROPPED, SKV_UNSELECTED_ESTIMATED},
               "SKV_UNSELECTED_DROPPED, _ESTIMATED");
  if (p.unselected == SKV_UNSELECTED_ESTIMATED && p.digest == SKV_DIGEST_BOX) {
    fail(SKV_E_UNSUPPORTED, "kv.unselected is SKV_UNSELECTED_ESTIMATED; a box digest bounds keys and estimates no mass");
  }
}

void check_guard(const skv_kv_params& p) {
  check_range("max_missed_mass", p.max_missed_mass, 0.0, 0.999);
  if (p.max_missed_mass > 0.0 && p.digest == SKV_DIGEST_BOX) {
    fail(SKV_E_UNSUPPORTED, "kv.max_missed_mass is %g; a box digest bounds keys and estimates no mass", p.max_missed_mass);
  }
  if (p.max_budget_tokens != SKV_AUTO) check_range("max_budget_tokens", p.max_budget_tokens, p.chunk_tokens, 1 << 24);
}

void check_params(const skv_kv_params& p) {
  check_policy(p.policy);
  check_one_of("dtype", p.dtype, {SKV_DTYPE_F32, SKV_DTYPE_BF16}, "SKV_DTYPE_BF16, SKV_DTYPE_F32");
  check_one_of("keys", p.keys, {SKV_KEYS_LOWRANK, SKV_KEYS_EXACT}, "SKV_KEYS_LOWRANK, SKV_KEYS_EXACT");
  check_formats(p);
  check_one_of("chunk_tokens", p.chunk_tokens, {4, 8, 16, 32}, "4, 8, 16, 32");
  check_one_of("turn_attention", p.turn_attention, {SKV_TURN_DENSE, SKV_TURN_SELECTED},
               "SKV_TURN_DENSE, SKV_TURN_SELECTED");
  check_range("budget_fraction", p.budget_fraction, 0.0, 1.0);
  check_range("budget_min_tokens", p.budget_min_tokens, p.chunk_tokens, 1 << 24);
  if (p.budget_tokens != SKV_AUTO) check_range("budget_tokens", p.budget_tokens, p.chunk_tokens, 1 << 24);
  check_range("outlier_fraction", p.outlier_fraction, 0.0, 0.05);
  check_range("window_tokens", p.window_tokens, 0, 1 << 20);
  check_range("flush_tokens", p.flush_tokens, p.chunk_tokens, 1 << 16);
  if (p.dense_below_tokens != SKV_AUTO) {
    check_range("dense_below_tokens", static_cast<double>(p.dense_below_tokens), 0, 1e12);
  }
  check_range("residual_factor", p.residual_factor, 1.0, 1e6);
  check_range("max_segments", p.max_segments, 1, 64);
  if (p.slot_chunks != SKV_AUTO) check_range("slot_chunks", p.slot_chunks, 1, 32767);
  check_range("sink_tokens", p.sink_tokens, 0, kMaxSinks);
  check_guard(p);
  check_range("reserved0", p.reserved0, 0, 0);
  check_range("reserved1", p.reserved1, 0, 0);
}

void check_geometry(const Geometry& g) {
  const auto supported = {32, 64, 80, 96, 128, 256};
  if (std::find(supported.begin(), supported.end(), g.head_dim) == supported.end()) {
    fail(SKV_E_UNSUPPORTED, "head_dim is %d, supported: 32, 64, 80, 96, 128, 256", g.head_dim);
  }
  if (g.kv_heads < 1 || g.q_heads % g.kv_heads != 0) {
    fail(SKV_E_UNSUPPORTED, "%d query heads over %d KV heads: the first must be a multiple of the second", g.q_heads,
         g.kv_heads);
  }
}

int32_t resolve_rank(const skv_kv_params& p, const Geometry& g) {
  const int32_t width = g.key_width();
  if (p.rank == SKV_AUTO) {
    const auto rule = static_cast<int32_t>(std::lround(160.0 * width / 1024.0));
    return std::clamp(rule, 1, width / 2);
  }
  check_range("rank", p.rank, 1, width / 2);
  return p.rank;
}

// The published code's numbers (shared facts 1.1 to 1.4); its sizes are constants, not fractions.
void apply_published(Policy* policy) {
  policy->centered = false;
  policy->rotated = false;
  policy->keeps_first_chunk = false;
  policy->flushes = false;
  policy->full_factorization = true;
  policy->outliers_fixed = 48;
  policy->max_segments = 1;
}

// Quest's rules: pages and nothing else; scores are the largest bound over the query group, not normalised.
void apply_quest(Policy* policy) {
  policy->keeps_first_chunk = false;
  policy->reduce = kernels::ScoreReduce::raw_max;
  policy->chunks_held_back = 1;
}

kernels::BlockCodec block_codec(skv_codec codec) {
  if (codec == SKV_CODEC_INT8) return kernels::BlockCodec::int8;
  return codec == SKV_CODEC_INT4 ? kernels::BlockCodec::int4 : kernels::BlockCodec::raw;
}

kernels::DigestKind digest_kind(skv_digest digest) {
  switch (digest) {
    case SKV_DIGEST_MEAN_VARIANCE: return kernels::DigestKind::mean_variance;
    case SKV_DIGEST_BOX: return kernels::DigestKind::box;
    case SKV_DIGEST_KEYS_2BIT: return kernels::DigestKind::keys_2bit;
    default: return kernels::DigestKind::mean;
  }
}

std::vector<double> read_weights(const skv_kv_params& p, const Geometry& g) {
  const int32_t n = p.n_budget_weights, heads = g.kv_heads;
  if (n == 0) return {};
  if (n != g.layers && n != g.layers * heads) {
    fail(SKV_E_INVALID, "kv.n_budget_weights is %d, allowed: 0, %d (layers) or %d (layers times KV heads)", n, g.layers,
         g.layers * heads);
  }
  if (p.budget_weights == nullptr) fail(SKV_E_INVALID, "kv.budget_weights is NULL, kv.n_budget_weights is %d", n);
  std::vector<double> weights(static_cast<std::size_t>(g.layers) * static_cast<std::size_t>(heads));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = p.budget_weights[n == g.layers ? i / static_cast<std::size_t>(heads) : i];
    if (!(weights[i] >= 0.0 && weights[i] <= kMaxWeight)) {
      fail(SKV_E_INVALID, "kv.budget_weights has %g for layer %zu, allowed: [0, %g]", weights[i],
           i / static_cast<std::size_t>(heads), kMaxWeight);
    }
  }
  return weights;
}

std::vector<bool> read_dense_layers(const skv_kv_params& p, const Geometry& g) {
  if (p.n_dense_layers == 0) return {};
  check_range("n_dense_layers", p.n_dense_layers, 0, g.layers);
  if (p.dense_layers == nullptr) fail(SKV_E_INVALID, "kv.dense_layers is NULL, kv.n_dense_layers is %d", p.n_dense_layers);
  std::vector<bool> dense(static_cast<std::size_t>(g.layers));
  for (int32_t i = 0; i < p.n_dense_layers; ++i) {
    const int32_t layer = p.dense_layers[i];
    if (layer < 0 || layer >= g.layers || dense[static_cast<std::size_t>(layer)]) {
      fail(SKV_E_INVALID, "kv.dense_layers[%d] is %d; each of 0 to %d may stand there once", i, layer, g.layers - 1);
    }
    dense[static_cast<std::size_t>(layer)] = true;
  }
  return dense;
}

void read_formats(const skv_kv_params& params, const Geometry& geometry, Policy* policy) {
  policy->dtype = params.dtype == SKV_DTYPE_F32 ? DType::f32 : DType::bf16;
  policy->low_rank = params.keys == SKV_KEYS_LOWRANK;
  policy->key_codec = block_codec(params.key_codec);
  policy->value_codec = block_codec(params.value_codec);
  policy->digest = digest_kind(params.digest);
  policy->digest_codec = block_codec(params.digest_codec);
  policy->estimates_rest = params.unselected == SKV_UNSELECTED_ESTIMATED;
  policy->chunk = params.chunk_tokens;
  policy->rank = resolve_rank(params, geometry);
}

void read_selection(const skv_kv_params& params, const Geometry& geometry, Policy* policy) {
  policy->selected_turns = params.turn_attention == SKV_TURN_SELECTED;
  policy->budget_fraction = params.budget_fraction;
  policy->budget_min = params.budget_min_tokens;
  policy->budget_fixed = params.budget_tokens == SKV_AUTO ? 0 : params.budget_tokens;
  policy->max_missed = params.max_missed_mass;
  policy->guard_cap = params.max_budget_tokens == SKV_AUTO ? 0 : params.max_budget_tokens;
  policy->budget_weights = read_weights(params, geometry);
  policy->kv_heads = geometry.kv_heads;
  policy->slots_fixed = params.slot_chunks == SKV_AUTO ? 0 : params.slot_chunks;
}

}  // namespace

Policy resolve_policy(const skv_kv_params& params, const Geometry& geometry) {
  check_params(params);
  check_geometry(geometry);
  Policy policy;
  policy.kind = params.policy;
  read_formats(params, geometry, &policy);
  policy.outlier_fraction = params.outlier_fraction;
  policy.window = params.window_tokens;
  policy.flush = (params.flush_tokens + policy.chunk - 1) / policy.chunk * policy.chunk;
  policy.dense_below_fixed = params.dense_below_tokens == SKV_AUTO ? -1 : params.dense_below_tokens;
  policy.residual_factor = params.residual_factor;
  policy.max_segments = params.max_segments;
  policy.dense_layers = read_dense_layers(params, geometry);
  read_selection(params, geometry, &policy);
  if (policy.streams()) policy.sinks = params.sink_tokens;
  if (policy.kind == SKV_POLICY_PUBLISHED) apply_published(&policy);
  if (policy.kind == SKV_POLICY_QUEST) apply_quest(&policy);
  return policy;
}

skv_kv_params default_kv_params() {
  skv_kv_params p = {};
  p.struct_size = sizeof p;
  p.policy = SKV_POLICY_SHADOWKV;
  p.dtype = SKV_DTYPE_BF16;
  p.keys = SKV_KEYS_LOWRANK;
  p.chunk_tokens = 8;
  p.rank = SKV_AUTO;
  p.budget_fraction = 1.0 / 64.0;
  p.budget_min_tokens = 256;
  p.budget_tokens = SKV_AUTO;
  p.outlier_fraction = 48.0 / 16384.0;
  p.window_tokens = 32;
  p.flush_tokens = 256;
  p.dense_below_tokens = SKV_AUTO;
  p.residual_factor = 1.5;
  p.max_segments = 8;
  p.slot_chunks = SKV_AUTO;
  p.sink_tokens = 4;
  p.max_budget_tokens = SKV_AUTO;
  return p;
}

skv_kv_params preset_kv_params(skv_policy policy) {
  check_policy(policy);
  static constexpr int32_t kQuestDenseLayers[] = {0, 1};
  skv_kv_params p = default_kv_params();
  p.policy = policy;
  if (policy == SKV_POLICY_STREAMING) p.window_tokens = 512;
  if (policy != SKV_POLICY_QUEST) return p;
  p.keys = SKV_KEYS_EXACT;
  p.digest = SKV_DIGEST_BOX;
  p.chunk_tokens = 16;
  p.budget_tokens = 1024;
  p.outlier_fraction = 0.0;
  p.window_tokens = 0;
  p.flush_tokens = 16;
  p.dense_below_tokens = 0;
  p.dense_layers = kQuestDenseLayers;
  p.n_dense_layers = 2;
  return p;
}

}  // namespace skv::kv
