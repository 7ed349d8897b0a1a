// What a checkpoint says of itself, every field validated once (config.cc); the rest of the library trusts it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/common/dtype.h"

namespace skv::model {

enum class RopeScaling : uint8_t { none, linear, llama3 };

struct RopeConfig {
  double theta = 10000.0;
  int32_t rotary_dim = 0;
  bool interleaved = false;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 0;
};

struct Config {
  std::string architecture;  // "LlamaForCausalLM", ...
  int32_t layers = 0;
  int32_t hidden = 0;
  int32_t intermediate = 0;
  int32_t q_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t vocab = 0;
  int64_t max_positions = 0;
  float rms_eps = 1e-5f;
  bool tied_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  RopeConfig rope;
  int32_t bos_id = -1;               // -1: none
  std::vector<int32_t> end_ids;      // generation_config.json's, else config.json's; may be several
};

// Reads config.json and, if present, generation_config.json. Throws Error(SKV_E_IO / SKV_E_DATA / SKV_E_MODEL).
Config read_config(const std::string& directory);

}  // namespace skv::model
