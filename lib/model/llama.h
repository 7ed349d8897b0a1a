// Llama family: pre-norm, RoPE, grouped-query attention, SwiGLU, optional biases and tied embeddings.
#pragma once

#include "lib/model/forward.h"

namespace skv::model {

class LlamaForward final : public Forward {
 public:
  // config and ops must outlive this. Without weights only workspace_bytes() may be called.
  LlamaForward(const Config& config, std::shared_ptr<const Resident> resident, const kernels::Ops& ops);

  int64_t workspace_bytes(int64_t m) const override;
  void embed(const int32_t* ids, int64_t m, float* x) const override;
  void qkv(int32_t layer, const float* x, int64_t m, std::span<const RowRange> rows, float* q, float* k, float* v,
           void* workspace) const override;
  void finish(int32_t layer, float* x, const float* attn, int64_t m, void* workspace) const override;
  void logits(const float* x, int64_t m, float* logits, void* workspace) const override;

 private:
  // Pieces of the caller's workspace for m rows.
  struct Scratch {
    float* norm;   // [m, hidden]
    float* gu;     // [m, 2 * intermediate]
    float* inner;  // [m, intermediate]
    void* gemm;
  };
  Scratch carve(void* workspace, int64_t m) const;
  int64_t gemm_bytes(int64_t m) const;
  void linear(const Matrix& w, const float* bias, const float* a, int64_t m, float* c, int64_t ldc, bool accumulate,
              void* gemm) const;
  void rotate(float* x, int32_t heads, std::span<const RowRange> rows) const;

  const Config& config_;
  std::shared_ptr<const Resident> resident_;
  const WeightTable* weights_;  // null: the model was opened for its metadata only
  const kernels::Ops& ops_;
};

}  // namespace skv::model
