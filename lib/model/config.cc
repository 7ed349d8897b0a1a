#include "lib/model/config.h"

#include <algorithm>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/status.h"

namespace skv::model {

namespace {

using nlohmann::json;

constexpr int64_t kMaxFileBytes = 4 << 20;
constexpr int kMaxDepth = 16;
// Far past any model, small enough that no product of three overflows 64 bits.
constexpr int64_t kMaxLayers = 4096, kMaxWidth = 1 << 20, kMaxHeads = 4096, kMaxVocab = 1 << 22;
constexpr int64_t kMaxPositions = int64_t{1} << 26;
constexpr std::size_t kMaxEndIds = 64;

json read_object(const std::string& directory, const char* name) {
  json root = parse_json(read_file(directory + "/" + name, kMaxFileBytes), name, kMaxDepth, kMaxFileBytes);
  if (!root.is_object()) fail(SKV_E_DATA, "%s is not a JSON object", name);
  return root;
}

int32_t get_int32(const json& root, const char* key,
                  int64_t hi) { return static_cast<int32_t>(get_int(root, key, 1, hi)); }

// Switches of related models that change the arithmetic. A checkpoint that sets one must not run as if it had not.
void refuse_switches(const json& root) {
  for (const char* key : {"quantization_config", "final_logit_softcapping", "attn_logit_softcapping", "num_experts",
                          "num_local_experts", "num_experts_per_tok", "compression_config"})
    if (find_member(root, key)) fail(SKV_E_MODEL, "config.json: %s is set; not supported", key);
  for (const char* key : {"use_qk_norm", "qk_layernorm", "use_parallel_residual", "rope_interleaved", "use_mla"})
    if (get_bool_or(root, key, false)) fail(SKV_E_MODEL, "config.json: %s is true; not supported", key);
  if (find_member(root, "sliding_window") && get_bool_or(root, "use_sliding_window", true))
    fail(SKV_E_MODEL, "config.json: sliding_window is set; only full causal attention is supported");
  if (get_number_or(root, "partial_rotary_factor", 0, 1, 1.0) != 1.0)
    fail(SKV_E_MODEL, "config.json: partial_rotary_factor is not 1; not supported");
  if (!find_member(root, "layer_types")) return;
  for (const json& type : get_array(root, "layer_types"))
    if (!type.is_string() || type.get_ref<const std::string&>() != "full_attention")
      fail(SKV_E_MODEL, "config.json: layer_types has an entry that is not full_attention");
}

void read_architecture(const json& root, Config& config) {
  const json& list = get_array(root, "architectures");
  if (list.size() != 1 || !list[0].is_string()) fail(SKV_E_MODEL, "config.json: architectures must be one name");
  config.architecture = list[0].get<std::string>();
  if (config.architecture != "LlamaForCausalLM")
    fail(SKV_E_MODEL, "config.json: architectures has '%.60s'; LlamaForCausalLM is supported",
         config.architecture.c_str());
  const std::string act = get_string_or(root, "hidden_act", "silu");
  if (act != "silu") fail(SKV_E_MODEL, "config.json: hidden_act is '%.40s'; silu is supported", act.c_str());
}

void read_shape(const json& root, Config& config) {
  config.layers = get_int32(root, "num_hidden_layers", kMaxLayers);
  config.hidden = get_int32(root, "hidden_size", kMaxWidth);
  config.intermediate = get_int32(root, "intermediate_size", kMaxWidth);
  config.q_heads = get_int32(root, "num_attention_heads", kMaxHeads);
  config.kv_heads = static_cast<int32_t>(get_int_or(root, "num_key_value_heads", 1, kMaxHeads, config.q_heads));
  config.vocab = get_int32(root, "vocab_size", kMaxVocab);
  config.max_positions = get_int_or(root, "max_position_embeddings", 1, kMaxPositions, 2048);
  if (config.q_heads % config.kv_heads != 0)
    fail(SKV_E_MODEL, "config.json: num_key_value_heads is %d; it must divide num_attention_heads, %d",
         config.kv_heads, config.q_heads);
  if (find_member(root, "head_dim")) {
    config.head_dim = get_int32(root, "head_dim", kMaxWidth);
  } else if (config.hidden % config.q_heads == 0) {
    config.head_dim = config.hidden / config.q_heads;
  } else {
    fail(SKV_E_MODEL,
         "config.json: num_attention_heads is %d; it must divide hidden_size, %d, where head_dim is not given",
         config.q_heads, config.hidden);
  }
  if (config.head_dim % 2 != 0 || config.head_dim > 256)
    fail(SKV_E_MODEL, "config.json: head_dim is %d; even numbers up to 256 are supported", config.head_dim);
  config.rms_eps = static_cast<float>(get_number_or(root, "rms_norm_eps", 1e-12, 1.0, 1e-6));
  config.tied_embeddings = get_bool_or(root, "tie_word_embeddings", false);
  config.attention_bias = get_bool_or(root, "attention_bias", false);
  config.mlp_bias = get_bool_or(root, "mlp_bias", false);
}

// Older files: rope_theta beside an optional rope_scaling. Newer ones: all of it in rope_parameters.
void read_rope(const json& root, Config& config) {
  constexpr double kMaxTheta = 1e15, kMaxFactor = 1e6;
  RopeConfig& rope = config.rope;
  rope.rotary_dim = config.head_dim;
  const json* scaling = find_member(root, "rope_parameters");
  if (!scaling) scaling = find_member(root, "rope_scaling");
  rope.theta = get_number_or(root, "rope_theta", 1.0, kMaxTheta, 10000.0);
  if (!scaling) return;
  if (!scaling->is_object()) fail(SKV_E_MODEL, "config.json: rope_scaling is not an object");
  rope.theta = get_number_or(*scaling, "rope_theta", 1.0, kMaxTheta, rope.theta);
  if (get_number_or(*scaling, "partial_rotary_factor", 0, 1, 1.0) != 1.0)
    fail(SKV_E_MODEL, "config.json: partial_rotary_factor is not 1; not supported");
  const std::string type = get_string_or(*scaling, "rope_type", get_string_or(*scaling, "type", "default"));
  if (type == "default") return;
  if (type != "linear" && type != "llama3")
    fail(SKV_E_MODEL, "config.json: rope_type is '%.40s'; default, linear and llama3 are supported", type.c_str());
  rope.factor = get_number(*scaling, "factor", 1.0, kMaxFactor);
  rope.scaling = RopeScaling::linear;
  if (type == "linear") return;
  rope.scaling = RopeScaling::llama3;
  rope.low_freq_factor = get_number(*scaling, "low_freq_factor", 1e-6, kMaxFactor);
  rope.high_freq_factor = get_number(*scaling, "high_freq_factor", 1e-6, kMaxFactor);
  rope.original_max_positions = get_int(*scaling, "original_max_position_embeddings", 1, kMaxPositions);
  if (rope.high_freq_factor <= rope.low_freq_factor)
    fail(SKV_E_MODEL, "config.json: high_freq_factor is %g; it must be above low_freq_factor, %g",
         rope.high_freq_factor, rope.low_freq_factor);
}

// An id, a list of ids, or absent.
std::vector<int32_t> read_ids(const json& root, const char* key, int32_t vocab) {
  std::vector<int32_t> ids;
  const json* value = find_member(root, key);
  if (!value) return ids;
  if (!value->is_array()) {
    ids.push_back(static_cast<int32_t>(get_int(root, key, 0, vocab - 1)));
    return ids;
  }
  if (value->size() > kMaxEndIds)
    fail(SKV_E_MODEL, "%s has %zu entries; %zu are allowed", key, value->size(), kMaxEndIds);
  for (const json& id : *value) {
    const auto one = static_cast<int32_t>(get_int(json{{key, id}}, key, 0, vocab - 1));
    if (std::find(ids.begin(), ids.end(), one) == ids.end()) ids.push_back(one);
  }
  return ids;
}

void read_special_ids(const std::string& directory, const json& root, Config& config) {
  std::vector<int32_t> bos = read_ids(root, "bos_token_id", config.vocab);
  config.end_ids = read_ids(root, "eos_token_id", config.vocab);
  if (file_exists(directory + "/generation_config.json")) {
    const json generation = read_object(directory, "generation_config.json");
    if (find_member(generation, "eos_token_id")) config.end_ids = read_ids(generation, "eos_token_id", config.vocab);
    if (bos.empty()) bos = read_ids(generation, "bos_token_id", config.vocab);
  }
  if (!bos.empty()) config.bos_id = bos.front();
}

}  // namespace

Config read_config(const std::string& directory) {
  const json root = read_object(directory, "config.json");
  Config config;
  read_architecture(root, config);
  refuse_switches(root);
  read_shape(root, config);
  read_rope(root, config);
  read_special_ids(directory, root, config);
  return config;
}

}  // namespace skv::model
