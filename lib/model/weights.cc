#include "lib/model/weights.h"

#include <cinttypes>
#include <cstring>

#include "lib/base/status.h"
#include "lib/model/safetensors.h"

namespace skv::model {

namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + "]";
}

DType dtype_of(const std::string& tensor, const TensorView& view) {
  if (view.dtype == "BF16") return DType::bf16;
  if (view.dtype == "F16") return DType::f16;
  if (view.dtype == "F32") return DType::f32;
  fail(SKV_E_MODEL, "tensor %.100s has dtype %.20s; BF16, F16 and F32 are supported", tensor.c_str(),
       view.dtype.c_str());
}

}  // namespace

struct Weights::Impl {
  Impl(const std::string& directory, const Config& config, MemoryAccount& account)
      : files(directory), config(config), account(account) {
    const int64_t hidden = config.hidden;
    table.embedding = matrix("model.embed_tokens.weight", config.vocab, hidden);
    table.lm_head = config.tied_embeddings ? table.embedding : matrix("lm_head.weight", config.vocab, hidden);
    vector(table.final_norm, "model.norm.weight", hidden);
    table.layers.resize(static_cast<std::size_t>(config.layers));
    for (int32_t i = 0; i < config.layers; ++i)
      read_layer(table.layers[static_cast<std::size_t>(i)], "model.layers." + std::to_string(i) + ".");
    widen_vectors();
  }

  void read_layer(LayerWeights& w, const std::string& prefix) {
    const int64_t hidden = config.hidden, inner = config.intermediate;
    const int64_t q = int64_t{config.q_heads} * config.head_dim, kv = int64_t{config.kv_heads} * config.head_dim;
    vector(w.input_norm, prefix + "input_layernorm.weight", hidden);
    vector(w.post_attn_norm, prefix + "post_attention_layernorm.weight", hidden);
    const std::string attn = prefix + "self_attn.", mlp = prefix + "mlp.";
    w.q = matrix(attn + "q_proj.weight", q, hidden);
    w.k = matrix(attn + "k_proj.weight", kv, hidden);
    w.v = matrix(attn + "v_proj.weight", kv, hidden);
    w.o = matrix(attn + "o_proj.weight", hidden, q);
    w.gate = matrix(mlp + "gate_proj.weight", inner, hidden);
    w.up = matrix(mlp + "up_proj.weight", inner, hidden);
    w.down = matrix(mlp + "down_proj.weight", hidden, inner);
    if (config.attention_bias) {
      vector(w.q_bias, attn + "q_proj.bias", q);
      vector(w.k_bias, attn + "k_proj.bias", kv);
      vector(w.v_bias, attn + "v_proj.bias", kv);
      vector(w.o_bias, attn + "o_proj.bias", hidden);
    }
    if (config.mlp_bias) {
      vector(w.gate_bias, mlp + "gate_proj.bias", inner);
      vector(w.up_bias, mlp + "up_proj.bias", inner);
      vector(w.down_bias, mlp + "down_proj.bias", hidden);
    }
  }

  const TensorView& checked(const std::string& name, const std::vector<int64_t>& shape) {
    const TensorView& view = files.get(name);
    if (view.shape != shape)
      fail(SKV_E_DATA, "tensor %.100s has shape %.60s; config.json asks for %s", name.c_str(),
           shape_text(view.shape).c_str(), shape_text(shape).c_str());
    return view;
  }

  Matrix matrix(const std::string& name, int64_t rows, int64_t cols) {
    const TensorView& view = checked(name, {rows, cols});
    Matrix m{view.data, dtype_of(name, view), rows, cols};
    // The format does not promise alignment; kernels need the element's own.
    if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(dtype_bytes(m.dtype)) != 0) {
      copies.emplace_back(account, SKV_TIER_HOST, SKV_PURPOSE_WEIGHTS, view.bytes);
      std::memcpy(copies.back().data(), view.data, static_cast<std::size_t>(view.bytes));
      m.data = copies.back().data();
    }
    return m;
  }

  // Only noted here: nothing is allocated before every tensor has been checked.
  void vector(const float*& slot, const std::string& name, int64_t n) {
    const TensorView& view = checked(name, {n});
    pending.push_back({&slot, &view, dtype_of(name, view), n});
  }

  void widen_vectors() {
    int64_t floats = 0;
    for (const Pending& p : pending) floats += p.n;
    vectors = TaggedArray<float>(account, SKV_TIER_HOST, SKV_PURPOSE_WEIGHTS, floats);
    float* out = vectors.data();
    for (const Pending& p : pending) {
      for (int64_t i = 0; i < p.n; ++i) {
        uint32_t bits = 0;  // through a copy: the file may have it at any address
        std::memcpy(&bits, p.view->data + i * dtype_bytes(p.dtype), static_cast<std::size_t>(dtype_bytes(p.dtype)));
        out[i] = load_f32(&bits, p.dtype, 0);
      }
      *p.slot = out;
      out += p.n;
    }
    pending.clear();
  }

  struct Pending {
    const float** slot;
    const TensorView* view;
    DType dtype;
    int64_t n;
  };
  SafetensorsSet files;
  const Config& config;
  MemoryAccount& account;
  TaggedArray<float> vectors;  // every norm and bias, widened
  std::vector<Pending> pending;
  std::vector<Buffer> copies;  // of matrices that the file does not align
  WeightTable table;
};

Weights::Weights(const std::string& directory, const Config& config, MemoryAccount& account)
    : impl_(std::make_unique<Impl>(directory, config, account)) {}

Weights::~Weights() = default;

const WeightTable& Weights::table() const { return impl_->table; }
int64_t Weights::mapped_bytes() const { return impl_->files.mapped_bytes(); }

}  // namespace skv::model
