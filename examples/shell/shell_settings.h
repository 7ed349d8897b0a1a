// What a run is made of, as the command line gives it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shadowkv/shadowkv.h"

namespace shell {

struct Settings {
  std::string model;
  skv_policy policy = SKV_POLICY_SHADOWKV;
  skv_key_store keys = SKV_KEYS_LOWRANK;
  skv_dtype dtype = SKV_DTYPE_BF16;
  int32_t budget_tokens = SKV_AUTO;  // a fixed budget
  double budget_fraction = -1.0;     // or a share of the context, taken literally; both unset: the defaults
  int32_t rank = SKV_AUTO;
  int32_t chunk = 8;
  uint64_t memory_limit = SKV_UNLIMITED;  // bytes of all tiers together
  int32_t threads = 0;
  int64_t max_document_tokens = 0;  // cut the text after so many tokens; 0 = all
  int64_t max_new = 128;
  skv_sampler_params sampler{};
  bool raw = false;                // no chat format even if the model has one
  std::string question_template;   // raw questions; {} is the question
  std::vector<std::string> stops;  // an answer ends before any of these

  bool use_chat(const skv_model_info& info) const { return !raw && info.chat_format[0] != '\0'; }
};

// The settings' part of a session; *kv must live as long as the result.
skv_session_params session_params(const Settings& settings, skv_kv_params* kv);

}  // namespace shell
