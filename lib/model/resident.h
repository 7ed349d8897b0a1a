// What a forward pass reads, where a device's ops find it: the model's own tensors on a CPU, copies in a GPU's memory.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "kernels/ops.h"
#include "lib/base/memory.h"
#include "lib/model/model.h"

namespace skv::model {

class Resident {
 public:
  // The model's own memory; it must outlive this. Opened for its metadata only: no weights, only the rotary tables.
  explicit Resident(const Model& model);
  // Copies, charged to the account's fast tier. Throws Error(SKV_E_BUDGET / SKV_E_NOMEM). The copies are done when all
  // that ops was given before is.
  Resident(const Model& model, MemoryAccount& account, const kernels::Ops& ops);
  // What the caller holds and keeps: for measurements on weights that no file has.
  Resident(WeightTable weights, const kernels::RopeView& rope) : has_weights_(true), weights_(std::move(weights)), rope_(rope) {}
  Resident(const Resident&) = delete;
  Resident& operator=(const Resident&) = delete;

  const WeightTable* weights() const { return has_weights_ ? &weights_ : nullptr; }
  const kernels::RopeView& rope() const { return rope_; }

 private:
  void* keep(const void* host, int64_t bytes, skv_purpose purpose);
  void move(Matrix& matrix);
  void move(const float*& vector, int64_t n);
  void move_layer(LayerWeights& layer, const Config& config);

  bool has_weights_;
  WeightTable weights_;
  kernels::RopeView rope_;
  MemoryAccount* account_ = nullptr;
  const kernels::Ops* ops_ = nullptr;
  std::vector<Buffer> copies_;
};

}  // namespace skv::model
