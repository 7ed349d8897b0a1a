#include "lib/model/resident.h"

#include <utility>

#include "kernels/rope/rope_tables.h"

namespace skv::model {

Resident::Resident(const Model& model) : has_weights_(model.weights() != nullptr), rope_(model.rope()) {
  if (has_weights_) weights_ = model.weights()->table();
}

Resident::Resident(const Model& model, MemoryAccount& account, const kernels::Ops& ops) : Resident(model) {
  account_ = &account;
  ops_ = &ops;
  const auto pairs = int64_t{rope_.rotary_dim} / 2;
  const auto table = [&](const float* host, int64_t floats) {
    return static_cast<const float*>(keep(host, floats * 4, SKV_PURPOSE_OTHER));
  };
  rope_.lo = table(rope_.lo, kernels::rope_lo_floats(pairs));
  rope_.hi = table(rope_.hi, kernels::rope_hi_floats(pairs, rope_.hi_rows));
  if (!has_weights_) return;
  const bool tied = weights_.lm_head.data == weights_.embedding.data;
  move(weights_.embedding);
  if (tied) weights_.lm_head = weights_.embedding;
  else move(weights_.lm_head);
  move(weights_.final_norm, model.config().hidden);
  for (LayerWeights& layer : weights_.layers) move_layer(layer, model.config());
}

void* Resident::keep(const void* host, int64_t bytes, skv_purpose purpose) {
  copies_.emplace_back(*account_, SKV_TIER_FAST, purpose, bytes);
  ops_->upload(copies_.back().data(), host, bytes);
  return copies_.back().data();
}

void Resident::move(Matrix& matrix) {
  matrix.data = keep(matrix.data, matrix.rows * matrix.cols * dtype_bytes(matrix.dtype), SKV_PURPOSE_WEIGHTS);
}

void Resident::move(const float*& vector, int64_t n) {
  if (vector != nullptr) vector = static_cast<const float*>(keep(vector, n * 4, SKV_PURPOSE_WEIGHTS));
}

void Resident::move_layer(LayerWeights& w, const Config& config) {
  for (Matrix* matrix : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down}) move(*matrix);
  for (const float** norm : {&w.input_norm, &w.post_attn_norm}) move(*norm, config.hidden);
  for (const auto& [bias, matrix] : {std::pair{&w.q_bias, &w.q}, {&w.k_bias, &w.k}, {&w.v_bias, &w.v},
                                     {&w.o_bias, &w.o}, {&w.gate_bias, &w.gate}, {&w.up_bias, &w.up},
                                     {&w.down_bias, &w.down}}) {
    move(*bias, matrix->rows);
  }
}

}  // namespace skv::model
