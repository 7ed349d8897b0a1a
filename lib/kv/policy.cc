#include "lib/kv/policy.h"

#include <algorithm>
#include <cmath>

#include "lib/base/status.h"

namespace skv::kv {
namespace {

void check_range(const char* field, double value, double lo, double hi) {
  if (!(value >= lo && value <= hi)) fail(SKV_E_INVALID, "kv.%s is %g, allowed: [%g, %g]", field, value, lo, hi);
}

void check_one_of(const char* field, int32_t value, std::initializer_list<int32_t> allowed, const char* names) {
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    fail(SKV_E_UNSUPPORTED, "kv.%s is %d, supported: %s", field, value, names);
  }
}

void check_params(const skv_kv_params& p) {
  check_one_of("policy", p.policy, {SKV_POLICY_FULL, SKV_POLICY_PUBLISHED, SKV_POLICY_SHADOWKV},
               "SKV_POLICY_FULL, _PUBLISHED, _SHADOWKV");
  check_one_of("dtype", p.dtype, {SKV_DTYPE_F32, SKV_DTYPE_BF16}, "SKV_DTYPE_BF16, SKV_DTYPE_F32");
  check_one_of("keys", p.keys, {SKV_KEYS_LOWRANK, SKV_KEYS_EXACT}, "SKV_KEYS_LOWRANK, SKV_KEYS_EXACT");
  check_one_of("digest", p.digest, {SKV_DIGEST_MEAN}, "SKV_DIGEST_MEAN");
  check_one_of("value_codec", p.value_codec, {SKV_CODEC_RAW}, "SKV_CODEC_RAW");
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
  check_range("reserved", p.reserved, 0, 0);
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

constexpr int32_t kSlotStep = 16;

int32_t chunks_of(int64_t tokens, int32_t chunk) {
  return static_cast<int32_t>((tokens + chunk - 1) / chunk);
}

}  // namespace

skv_kv_params default_kv_params() {
  skv_kv_params p = {};
  p.struct_size = sizeof p;
  p.policy = SKV_POLICY_SHADOWKV;
  p.dtype = SKV_DTYPE_BF16;
  p.keys = SKV_KEYS_LOWRANK;
  p.digest = SKV_DIGEST_MEAN;
  p.value_codec = SKV_CODEC_RAW;
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
  p.turn_attention = SKV_TURN_DENSE;
  return p;
}

Policy resolve_policy(const skv_kv_params& params, const Geometry& geometry) {
  check_params(params);
  check_geometry(geometry);
  Policy policy;
  policy.kind = params.policy;
  policy.dtype = params.dtype == SKV_DTYPE_F32 ? DType::f32 : DType::bf16;
  policy.low_rank = params.keys == SKV_KEYS_LOWRANK;
  policy.selected_turns = params.turn_attention == SKV_TURN_SELECTED;
  policy.chunk = params.chunk_tokens;
  policy.rank = resolve_rank(params, geometry);
  policy.budget_fraction = params.budget_fraction;
  policy.budget_min = params.budget_min_tokens;
  policy.budget_fixed = params.budget_tokens == SKV_AUTO ? 0 : params.budget_tokens;
  policy.outlier_fraction = params.outlier_fraction;
  policy.window = params.window_tokens;
  policy.flush = chunks_of(params.flush_tokens, policy.chunk) * policy.chunk;
  policy.dense_below_fixed = params.dense_below_tokens == SKV_AUTO ? -1 : params.dense_below_tokens;
  policy.residual_factor = params.residual_factor;
  policy.max_segments = params.max_segments;
  policy.slots_fixed = params.slot_chunks == SKV_AUTO ? 0 : params.slot_chunks;
  if (policy.kind == SKV_POLICY_PUBLISHED) apply_published(&policy);
  return policy;
}

int32_t Policy::selected_chunks(int64_t n) const {
  if (budget_fixed > 0) return chunks_of(budget_fixed, chunk);
  const auto share = static_cast<int32_t>(std::llround(budget_fraction * static_cast<double>(n) / chunk));
  return std::max(share, chunks_of(budget_min, chunk));
}

int32_t Policy::slot_capacity(int64_t n) const {
  const int32_t selected = selected_chunks(n);
  if (slots_fixed > 0) return std::max(slots_fixed, selected);
  return std::min((selected + kSlotStep - 1) / kSlotStep * kSlotStep, std::max(selected, 32767));
}

int32_t Policy::outlier_count(int32_t n_chunks) const {
  if (outliers_fixed >= 0) return std::min(outliers_fixed, n_chunks);
  return static_cast<int32_t>(std::ceil(outlier_fraction * n_chunks));
}

int64_t Policy::dense_limit(int64_t n) const {
  if (dense_below_fixed >= 0) return dense_below_fixed;
  const int64_t budget = int64_t{selected_chunks(n)} * chunk;
  const int64_t outliers = int64_t{outlier_count(static_cast<int32_t>(n / chunk))} * chunk;
  return std::max<int64_t>(4096, 2 * (budget + outliers + window));
}

int64_t Policy::compressed_after_prompt(int64_t n) const {
  if (!compresses() || n <= dense_limit(n)) return 0;
  if (kind == SKV_POLICY_PUBLISHED) {
    // The published code keeps the last 4 chunks and the remainder, then rounds down to whole groups of 8 chunks.
    const int64_t chunks = (n / chunk - 4) / 8 * 8;
    return std::max<int64_t>(chunks, 0) * chunk;
  }
  const int64_t compressed = (n - window) / chunk * chunk;
  return compressed < 2 * chunk ? 0 : compressed;
}

}  // namespace skv::kv
