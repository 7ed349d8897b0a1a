// Writes config.json and model.safetensors of a random Llama model.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include <nlohmann/json.hpp>

#include "kernels/common/dtype.h"
#include "tests/e2e/harness.h"

namespace skv::e2e {

namespace {

class SafetensorsWriter {
 public:
  SafetensorsWriter(bool bf16, uint64_t seed) : bf16_(bf16), random_(seed) {}

  // mean + spread * N(0, 1)
  void add(const std::string& name, std::vector<int64_t> shape, float mean, float spread) {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    const std::size_t begin = data_.size();
    for (int64_t i = 0; i < n; ++i) {
      const float x = mean + spread * normal_(random_);
      const uint16_t half = f32_to_bf16(x);
      if (bf16_) data_.append(reinterpret_cast<const char*>(&half), 2);
      else data_.append(reinterpret_cast<const char*>(&x), 4);
    }
    header_[name] = {{"dtype", bf16_ ? "BF16" : "F32"}, {"shape", shape}, {"data_offsets", {begin, data_.size()}}};
  }

  void write(const std::string& path) const {
    std::string header = header_.dump();
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t bytes = header.size();
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&bytes), 8);
    out << header << data_;
    if (!out.flush()) fail(SKV_E_IO, "cannot write %s", path.c_str());
  }

 private:
  bool bf16_;
  std::mt19937_64 random_;
  std::normal_distribution<float> normal_;
  nlohmann::json header_;
  std::string data_;
};

void write_config(const std::string& path, const TinyShape& s) {
  const nlohmann::json config = {
      {"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}, {"hidden_act", "silu"},
      {"num_hidden_layers", s.layers}, {"hidden_size", s.hidden}, {"intermediate_size", s.intermediate},
      {"num_attention_heads", s.q_heads}, {"num_key_value_heads", s.kv_heads}, {"head_dim", s.head_dim},
      {"vocab_size", s.vocab}, {"max_position_embeddings", s.max_positions}, {"rms_norm_eps", 1e-5},
      {"rope_theta", 10000.0}, {"tie_word_embeddings", false}, {"torch_dtype", s.bf16 ? "bfloat16" : "float32"}};
  std::ofstream(path) << config.dump();
}

// Wide weights, so that attention is sharp and every part of the model shows in the logits.
void write_weights(const std::string& path, const TinyShape& s) {
  SafetensorsWriter w(s.bf16, s.seed);
  const auto linear = [&](const std::string& name, int64_t rows, int64_t cols) {
    w.add(name, {rows, cols}, 0.0f, 1.2f / std::sqrt(static_cast<float>(cols)));
  };
  w.add("model.embed_tokens.weight", {s.vocab, s.hidden}, 0.0f, 0.7f);
  w.add("lm_head.weight", {s.vocab, s.hidden}, 0.0f, 0.7f);
  w.add("model.norm.weight", {s.hidden}, 1.0f, 0.2f);
  for (int32_t i = 0; i < s.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    w.add(layer + "input_layernorm.weight", {s.hidden}, 1.0f, 0.2f);
    w.add(layer + "post_attention_layernorm.weight", {s.hidden}, 1.0f, 0.2f);
    linear(layer + "self_attn.q_proj.weight", int64_t{s.q_heads} * s.head_dim, s.hidden);
    linear(layer + "self_attn.k_proj.weight", int64_t{s.kv_heads} * s.head_dim, s.hidden);
    linear(layer + "self_attn.v_proj.weight", int64_t{s.kv_heads} * s.head_dim, s.hidden);
    linear(layer + "self_attn.o_proj.weight", s.hidden, int64_t{s.q_heads} * s.head_dim);
    linear(layer + "mlp.gate_proj.weight", s.intermediate, s.hidden);
    linear(layer + "mlp.up_proj.weight", s.intermediate, s.hidden);
    linear(layer + "mlp.down_proj.weight", s.hidden, s.intermediate);
  }
  w.write(path);
}

}  // namespace

TinyModel::TinyModel(const TinyShape& shape) {
  std::string pattern = (std::filesystem::temp_directory_path() / "skv_tiny_XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) fail(SKV_E_IO, "cannot make %s", pattern.c_str());
  path_ = pattern;
  write_config(path_ + "/config.json", shape);
  write_weights(path_ + "/model.safetensors", shape);
}

TinyModel::~TinyModel() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace skv::e2e
