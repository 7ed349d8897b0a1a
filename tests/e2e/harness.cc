#include "tests/e2e/harness.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

namespace skv::e2e {

namespace {

skv_runtime_params runtime_params(int threads) {
  skv_runtime_params params{};
  params.struct_size = sizeof params;
  params.threads = threads;
  params.max_concurrent = 1;
  params.log_level = SKV_LOG_WARN;
  return params;
}

}  // namespace

Host::Host(const std::string& directory, int threads, bool metadata_only)
    : runtime_(std::make_shared<engine::Runtime>(runtime_params(threads))),
      model_(std::make_shared<model::Model>(directory, metadata_only, runtime_->account(0))) {}

Host::Host(const TinyShape& shape, int threads)
    : files_(std::make_unique<TinyModel>(shape)),
      runtime_(std::make_shared<engine::Runtime>(runtime_params(threads))),
      model_(std::make_shared<model::Model>(files_->path(), false, runtime_->account(0))) {}

engine::SessionConfig Host::config(const skv_kv_params& kv, const AdjustSession& adjust) const {
  skv_session_params params{};
  params.struct_size = sizeof params;
  params.max_sequences = 16;
  params.max_rows = 64;
  params.prefill_block_tokens = 64;
  std::fill(std::begin(params.limit_bytes), std::end(params.limit_bytes), SKV_UNLIMITED);
  if (adjust) adjust(params);
  return engine::resolve_session(params, kv, *runtime_, model_->config());
}

std::unique_ptr<engine::Session> Host::session(const skv_kv_params& kv, const AdjustSession& adjust) const {
  return std::make_unique<engine::Session>(runtime_, model_, config(kv, adjust));
}

Tokens Host::random_tokens(int64_t n, uint64_t seed) const {
  std::mt19937_64 random(seed);
  Tokens tokens(static_cast<std::size_t>(n));
  for (int32_t& t : tokens) t = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab()));
  return tokens;
}

skv_status status_of(const std::function<void()>& fn, std::string* message) {
  try {
    fn();
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code();
  }
  return SKV_OK;
}

skv_seq start(engine::Session& session, const Tokens& prompt) {
  const skv_seq seq = session.open(SKV_AUTO);
  prefill(session, seq, prompt);
  return seq;
}

void prefill(engine::Session& session, skv_seq seq, const Tokens& prompt) {
  session.append(seq, prompt);
  session.prefill({});
}

Logits kept_logits(const engine::Session& session, skv_seq seq) {
  Logits kept(static_cast<std::size_t>(session.model().config().vocab));
  session.copy_logits(seq, kept.data(), std::ssize(kept));
  return kept;
}

void decode(engine::Session& session, std::vector<Row>& rows) {
  const auto vocab = static_cast<std::size_t>(session.model().config().vocab);
  std::vector<skv_row> abi(rows.size());
  std::vector<skv_error> errors(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].logits.assign(rows[i].tokens.size() * vocab, NAN);
    errors[i].struct_size = sizeof errors[i];
    abi[i].seq = rows[i].seq;
    abi[i].tokens = rows[i].tokens.data();
    abi[i].n_tokens = static_cast<int32_t>(rows[i].tokens.size());
    abi[i].logits_mode = SKV_LOGITS_ALL;
    abi[i].logits = rows[i].logits.data();
    abi[i].logits_capacity = static_cast<int64_t>(rows[i].logits.size());
    abi[i].err = &errors[i];
  }
  engine::StepAllowance no_prefill;
  no_prefill.max_prefill_tokens = 0;
  session.step(abi, no_prefill, nullptr);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].status = abi[i].status;
    rows[i].message = errors[i].message;
  }
}

Logits decode_one(engine::Session& session, skv_seq seq, int32_t token) {
  std::vector<Row> rows{{seq, {token}}};
  decode(session, rows);
  if (rows[0].status != SKV_OK) fail(rows[0].status, "%s", rows[0].message.c_str());
  return rows[0].logits;
}

std::vector<Logits> decode_each(engine::Session& session, skv_seq seq, const Tokens& tokens) {
  std::vector<Logits> out;
  for (const int32_t token : tokens) out.push_back(decode_one(session, seq, token));
  return out;
}

skv_session_usage usage_of(const engine::Session& session) {
  skv_session_usage usage{};
  usage.struct_size = sizeof usage;
  session.usage(&usage);
  return usage;
}

skv_kv_stats stats_of(const engine::Session& session, skv_seq seq) {
  skv_kv_stats stats{};
  stats.struct_size = sizeof stats;
  session.kv_stats(seq, &stats);
  return stats;
}

skv_kv_params full_kv(skv_dtype dtype) {
  skv_kv_params kv = kv::default_kv_params();
  kv.policy = SKV_POLICY_FULL;
  kv.dtype = dtype;
  return kv;
}

skv_kv_params small_shadowkv(skv_dtype dtype, skv_key_store keys) {
  skv_kv_params kv = kv::default_kv_params();
  kv.dtype = dtype;
  kv.keys = keys;
  kv.rank = 24;
  kv.budget_tokens = 48;
  kv.window_tokens = 16;
  kv.flush_tokens = 32;
  kv.dense_below_tokens = 96;
  kv.outlier_fraction = 0.03;
  return kv;
}

namespace {

skv_kv_params in_codecs(skv_kv_params kv, skv_codec codec) {
  kv.key_codec = kv.value_codec = codec;
  kv.digest_codec = SKV_CODEC_INT8;
  return kv;
}

// 2-bit digests, the accuracy guard and the estimated remainder together.
skv_kv_params guarded() {
  skv_kv_params kv = in_codecs(small_shadowkv(SKV_DTYPE_BF16, SKV_KEYS_LOWRANK), SKV_CODEC_INT8);
  kv.digest = SKV_DIGEST_KEYS_2BIT;
  kv.digest_codec = SKV_CODEC_RAW;
  kv.unselected = SKV_UNSELECTED_ESTIMATED;
  kv.max_missed_mass = 0.2;
  return kv;
}

skv_kv_params small_quest() {
  skv_kv_params kv = kv::preset_kv_params(SKV_POLICY_QUEST);
  kv.budget_tokens = 64;
  kv.n_dense_layers = 1;  // of two
  return kv;
}

skv_kv_params small_streaming() {
  skv_kv_params kv = kv::preset_kv_params(SKV_POLICY_STREAMING);
  kv.window_tokens = 60;
  kv.flush_tokens = 32;
  return kv;
}

}  // namespace

std::vector<PolicyCase> all_policies() {
  skv_kv_params published = small_shadowkv(SKV_DTYPE_BF16, SKV_KEYS_LOWRANK);
  published.policy = SKV_POLICY_PUBLISHED;
  return {{"full_f32", full_kv(SKV_DTYPE_F32)},
          {"full_bf16", full_kv(SKV_DTYPE_BF16)},
          {"shadowkv_lowrank_f32", small_shadowkv(SKV_DTYPE_F32, SKV_KEYS_LOWRANK)},
          {"shadowkv_lowrank_bf16", small_shadowkv(SKV_DTYPE_BF16, SKV_KEYS_LOWRANK)},
          {"shadowkv_exact_f32", small_shadowkv(SKV_DTYPE_F32, SKV_KEYS_EXACT)},
          {"shadowkv_exact_bf16", small_shadowkv(SKV_DTYPE_BF16, SKV_KEYS_EXACT)},
          {"published", published},
          {"shadowkv_int8", in_codecs(small_shadowkv(SKV_DTYPE_BF16, SKV_KEYS_LOWRANK), SKV_CODEC_INT8)},
          {"shadowkv_int4", in_codecs(small_shadowkv(SKV_DTYPE_BF16, SKV_KEYS_EXACT), SKV_CODEC_INT4)},
          {"shadowkv_guarded", guarded()},
          {"quest", small_quest()},
          {"streaming", small_streaming()}};
}

void expect_near(const Logits& got, const Logits& want, double relative, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double top = 0.0, worst = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    ASSERT_TRUE(std::isfinite(got[i])) << what << ", index " << i;
    top = std::max(top, std::fabs(static_cast<double>(want[i])));
    worst = std::max(worst, std::fabs(static_cast<double>(got[i]) - want[i]));
  }
  EXPECT_LE(worst, relative * top) << what << ", largest value " << top;
}

void expect_same(const Logits& got, const Logits& want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < want.size(); ++i) {
    ASSERT_TRUE(std::memcmp(&got[i], &want[i], sizeof(float)) == 0)
        << what << ", index " << i << ": " << got[i] << " and " << want[i];
  }
}

}  // namespace skv::e2e
