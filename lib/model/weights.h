// Tensors of a decoder-only transformer as the forward pass wants them: views into mapped files where their layout and
// alignment allow, owned copies where not.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/common/dtype.h"
#include "lib/base/memory.h"
#include "lib/model/config.h"

namespace skv::model {

struct Matrix {  // [rows, cols] row-major: y = x W^T has rows outputs
  const void* data = nullptr;
  DType dtype = DType::bf16;
  int64_t rows = 0;
  int64_t cols = 0;
};

struct LayerWeights {
  const float* input_norm = nullptr;      // [hidden]
  const float* post_attn_norm = nullptr;  // [hidden]
  Matrix q, k, v, o, gate, up, down;
  const float *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr, *o_bias = nullptr;  // null if none
  const float *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;
};

struct WeightTable {
  Matrix embedding;
  Matrix lm_head;  // the embedding when tied
  const float* final_norm = nullptr;
  std::vector<LayerWeights> layers;
};

class Weights {
 public:
  // Maps model.safetensors, or the shards of model.safetensors.index.json. Every tensor's presence, dtype, shape and
  // offsets are checked before anything is used. Small f32 copies are charged to account (host tier, purpose weights).
  Weights(const std::string& directory, const Config& config, MemoryAccount& account);
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  const WeightTable& table() const;
  int64_t mapped_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace skv::model
