#include "lib/model/llama.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace skv::model {

namespace {

constexpr int64_t kAlign = 64;

int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }
int64_t float_bytes(int64_t m, int64_t n) { return aligned(m * n * static_cast<int64_t>(sizeof(float))); }

}  // namespace

LlamaForward::LlamaForward(const Config& config, std::shared_ptr<const Resident> resident, const kernels::Ops& ops)
    : config_(config), resident_(std::move(resident)), weights_(resident_->weights()), ops_(ops) {}

int64_t LlamaForward::gemm_bytes(int64_t m) const {
  int64_t most = 0;
  const auto add = [&](DType dtype, int64_t rows, int64_t cols) {
    most = std::max(most, static_cast<int64_t>(kernels::gemm_workspace_bytes({dtype, rows, cols}, m)));
  };
  if (weights_ == nullptr) {  // what a checkpoint of this shape has in bf16, as nearly all are
    const int64_t hidden = config_.hidden, inner = config_.intermediate;
    const int64_t q = int64_t{config_.q_heads} * config_.head_dim, kv = int64_t{config_.kv_heads} * config_.head_dim;
    add(DType::bf16, q, hidden);
    add(DType::bf16, kv, hidden);
    add(DType::bf16, hidden, q);
    add(DType::bf16, inner, hidden);
    add(DType::bf16, hidden, inner);
    add(DType::bf16, config_.vocab, hidden);
    return aligned(most);
  }
  // Every layer: a checkpoint may mix element types.
  for (int32_t i = 0; i < config_.layers; ++i) {
    const LayerWeights& w = weights_->layers[static_cast<std::size_t>(i)];
    for (const Matrix* matrix : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down}) {
      add(matrix->dtype, matrix->rows, matrix->cols);
    }
  }
  const Matrix& head = weights_->lm_head;
  add(head.dtype, head.rows, head.cols);
  return aligned(most);
}

int64_t LlamaForward::workspace_bytes(int64_t m) const {
  return float_bytes(m, config_.hidden) + float_bytes(m, 2 * int64_t{config_.intermediate}) +
         float_bytes(m, config_.intermediate) + gemm_bytes(m);
}

LlamaForward::Scratch LlamaForward::carve(void* workspace, int64_t m) const {
  char* at = static_cast<char*>(workspace);
  const auto take = [&](int64_t n) {
    char* piece = at;
    at += float_bytes(m, n);
    return reinterpret_cast<float*>(piece);
  };
  Scratch s{};
  s.norm = take(config_.hidden);
  s.gu = take(2 * int64_t{config_.intermediate});
  s.inner = take(config_.intermediate);
  s.gemm = at;
  return s;
}

void LlamaForward::linear(const Matrix& w, const float* bias, const float* a, int64_t m, float* c, int64_t ldc,
                          bool accumulate, void* gemm) const {
  kernels::GemmArgs args;
  args.a = a;
  args.lda = w.cols;
  args.w = w.data;
  args.bias = bias;
  args.c = c;
  args.ldc = ldc;
  args.m = m;
  args.accumulate = accumulate;
  ops_.gemm({w.dtype, w.rows, w.cols}, args, gemm);
}

void LlamaForward::rotate(float* x, int32_t heads, std::span<const RowRange> rows) const {
  const int64_t stride = int64_t{heads} * config_.head_dim;
  kernels::RopeItem items[kernels::kGemmDecodeRows];
  std::size_t n = 0;
  const auto flush = [&] { ops_.rope(resident_->rope(), {items, std::exchange(n, 0)}); };
  for (const RowRange& range : rows) {
    items[n++] = {x + range.first * stride, stride, range.n, heads, config_.head_dim, range.pos, false};
    if (n == std::size(items)) flush();
  }
  flush();
}

void LlamaForward::embed(const int32_t* ids, int64_t m, float* x) const {
  const Matrix& table = weights_->embedding;
  ops_.embed(table.data, table.dtype, table.cols, ids, m, x);
}

void LlamaForward::qkv(int32_t layer, const float* x, int64_t m, std::span<const RowRange> rows, float* q, float* k,
                       float* v, void* workspace) const {
  const LayerWeights& w = weights_->layers[static_cast<std::size_t>(layer)];
  const Scratch s = carve(workspace, m);
  ops_.rms_norm(x, w.input_norm, config_.rms_eps, m, config_.hidden, s.norm);
  linear(w.q, w.q_bias, s.norm, m, q, w.q.rows, false, s.gemm);
  linear(w.k, w.k_bias, s.norm, m, k, w.k.rows, false, s.gemm);
  linear(w.v, w.v_bias, s.norm, m, v, w.v.rows, false, s.gemm);
  rotate(q, config_.q_heads, rows);
  rotate(k, config_.kv_heads, rows);
}

void LlamaForward::finish(int32_t layer, float* x, const float* attn, int64_t m, void* workspace) const {
  const LayerWeights& w = weights_->layers[static_cast<std::size_t>(layer)];
  const Scratch s = carve(workspace, m);
  const int64_t inner = config_.intermediate;
  linear(w.o, w.o_bias, attn, m, x, config_.hidden, true, s.gemm);
  ops_.rms_norm(x, w.post_attn_norm, config_.rms_eps, m, config_.hidden, s.norm);
  linear(w.gate, w.gate_bias, s.norm, m, s.gu, 2 * inner, false, s.gemm);
  linear(w.up, w.up_bias, s.norm, m, s.gu + inner, 2 * inner, false, s.gemm);
  ops_.swiglu(s.gu, m, inner, s.inner);
  linear(w.down, w.down_bias, s.inner, m, x, config_.hidden, true, s.gemm);
}

void LlamaForward::logits(const float* x, int64_t m, float* logits, void* workspace) const {
  const Scratch s = carve(workspace, m);
  ops_.rms_norm(x, weights_->final_norm, config_.rms_eps, m, config_.hidden, s.norm);
  const Matrix& head = weights_->lm_head;
  linear(head, nullptr, s.norm, m, logits, head.rows, false, s.gemm);
}

}  // namespace skv::model
