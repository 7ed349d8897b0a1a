// What a run is made of, as the command line gives it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "examples/shell/cache_settings.h"
#include "shadowkv/shadowkv.h"

namespace shell {

struct Settings {
  std::string model;
  CacheSettings cache;
  uint64_t memory_limit = SKV_UNLIMITED;  // bytes of all tiers together
  int32_t device = 0;
  int32_t threads = 0;
  int64_t max_document_tokens = 0;  // cut the text after so many tokens; 0 = all
  int64_t max_new = 128;
  skv_sampler_params sampler{};
  bool raw = false;                // no chat format even if the model has one
  std::string question_template;   // raw questions; {} is the question
  std::vector<std::string> stops;  // an answer ends before any of these

  bool use_chat(const skv_model_info& info) const { return !raw && info.chat_format[0] != '\0'; }
};

}  // namespace shell
