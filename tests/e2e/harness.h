// What end-to-end tests share: tiny random Llama checkpoints made on the fly, a host with runtime and model, and
// short ways to say "prefill this" and "decode these rows". Everything goes through the engine as lib/api would use
// it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lib/base/status.h"
#include "lib/engine/session.h"

namespace skv::e2e {

using Tokens = std::vector<int32_t>;
using Logits = std::vector<float>;

struct TinyShape {
  int32_t layers = 2;
  int32_t hidden = 64;
  int32_t intermediate = 80;
  int32_t q_heads = 4;
  int32_t kv_heads = 2;
  int32_t head_dim = 32;
  int32_t vocab = 160;
  int64_t max_positions = 16384;
  bool bf16 = false;  // weights; else f32
  uint64_t seed = 1;
};

// A model directory that lives as long as this.
class TinyModel {
 public:
  explicit TinyModel(const TinyShape& shape);
  ~TinyModel();
  TinyModel(const TinyModel&) = delete;
  TinyModel& operator=(const TinyModel&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

using AdjustSession = std::function<void(skv_session_params&)>;

// Runtime and model of one directory.
class Host {
 public:
  explicit Host(const std::string& directory, int threads = 1, bool metadata_only = false);
  explicit Host(const TinyShape& shape, int threads = 1);

  engine::SessionConfig config(const skv_kv_params& kv, const AdjustSession& adjust = {}) const;
  std::unique_ptr<engine::Session> session(const skv_kv_params& kv, const AdjustSession& adjust = {}) const;
  MemoryAccount& account(int32_t device = 0) const { return runtime_->account(device); }
  const model::Model& model() const { return *model_; }
  int32_t vocab() const { return model_->config().vocab; }
  Tokens random_tokens(int64_t n, uint64_t seed) const;

 private:
  std::unique_ptr<TinyModel> files_;
  std::shared_ptr<engine::Runtime> runtime_;
  std::shared_ptr<const model::Model> model_;
};

// One decode row: its tokens in, status and logits of all its tokens out.
struct Row {
  skv_seq seq = 0;
  Tokens tokens;
  skv_status status = SKV_OK;
  Logits logits = {};
  std::string message = {};
};

// The status that fn throws, SKV_OK if it returns; what it says goes to *message if that is not null.
skv_status status_of(const std::function<void()>& fn, std::string* message = nullptr);

// Opens a sequence and prefills it.
skv_seq start(engine::Session& session, const Tokens& prompt);
void prefill(engine::Session& session, skv_seq seq, const Tokens& prompt);
Logits kept_logits(const engine::Session& session, skv_seq seq);
// One step without prefill; every row's logits are those of all its tokens.
void decode(engine::Session& session, std::vector<Row>& rows);
// One token on one sequence, which must succeed.
Logits decode_one(engine::Session& session, skv_seq seq, int32_t token);
// Each token alone: logits after each.
std::vector<Logits> decode_each(engine::Session& session, skv_seq seq, const Tokens& tokens);

skv_session_usage usage_of(const engine::Session& session);
skv_kv_stats stats_of(const engine::Session& session, skv_seq seq);

// Policies small enough that prompts of a few hundred tokens are compressed, flushed and selected from.
struct PolicyCase {
  const char* name;
  skv_kv_params kv;
};
inline void PrintTo(const PolicyCase& policy, std::ostream* out) { *out << policy.name; }
skv_kv_params full_kv(skv_dtype dtype);
skv_kv_params small_shadowkv(skv_dtype dtype, skv_key_store keys);
std::vector<PolicyCase> all_policies();

// |got - want| <= relative * max |want|.
void expect_near(const Logits& got, const Logits& want, double relative, const std::string& what);
void expect_same(const Logits& got, const Logits& want, const std::string& what);
inline std::string policy_name(const testing::TestParamInfo<PolicyCase>& info) { return info.param.name; }

}  // namespace skv::e2e
