// The forward pass of a decoder layer around attention, on rows of activations. The engine owns the order of layers and
// blocks and calls lib/kv for attention between qkv() and finish(). One file per family implements it (llama.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/ops.h"
#include "lib/model/resident.h"

namespace skv::model {

// Rows [first, first + n) of a batch are tokens pos, pos + 1, ... of one sequence.
struct RowRange {
  int64_t first = 0;
  int64_t n = 0;
  int64_t pos = 0;
};

class Forward {
 public:
  virtual ~Forward() = default;

  // Scratch for calls of up to m rows.
  virtual int64_t workspace_bytes(int64_t m) const = 0;
  // x [m, hidden] = embeddings of ids.
  virtual void embed(const int32_t* ids, int64_t m, float* x) const = 0;
  // From x (not modified): q [m, q_heads * head_dim], k and v [m, kv_heads * head_dim], after bias, norm and RoPE.
  virtual void qkv(int32_t layer, const float* x, int64_t m, std::span<const RowRange> rows, float* q, float* k,
                   float* v, void* workspace) const = 0;
  // x += o_proj(attn); x += mlp(norm(x)). attn [m, q_heads * head_dim].
  virtual void finish(int32_t layer, float* x, const float* attn, int64_t m, void* workspace) const = 0;
  // logits [m, vocab] of m rows of x (after the last layer).
  virtual void logits(const float* x, int64_t m, float* logits, void* workspace) const = 0;
};

// config and ops outlive it. Throws Error(SKV_E_MODEL) for a family that is not there. A model opened for its metadata only gives a Forward that
// answers workspace_bytes() and nothing else. Decode calls must pass m <= kernels::kGemmDecodeRows so that
// a row's bits do not depend on the batch.
std::unique_ptr<Forward> make_forward(const Config& config, std::shared_ptr<const Resident> resident,
                                      const kernels::Ops& ops);
// On the model's own memory.
std::unique_ptr<Forward> make_forward(const Model& model, const kernels::Ops& ops);

}  // namespace skv::model
