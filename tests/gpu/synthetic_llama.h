// A model of Llama-3.1-8B's shape with random weights, held in a GPU's memory: for time, not for sense.
#pragma once

#include <memory>
#include <vector>

#include "lib/kv/policy.h"
#include "lib/model/forward.h"
#include "tests/gpu/timing_frame.h"

namespace skv::gpu {

class SyntheticLlama {
 public:
  // scale: divides every width but head_dim, and layers; 1 on a GPU, more to rehearse.
  SyntheticLlama(Gpu& gpu, int32_t scale);

  const model::Config& config() const { return config_; }
  const model::Forward& forward() const { return *forward_; }
  const kernels::RopeView& rope() const { return resident_->rope(); }
  kv::Geometry geometry() const;

 private:
  model::Matrix matrix(Gpu& gpu, int64_t rows, int64_t cols);
  const float* ones(Gpu& gpu, int64_t n);
  model::WeightTable weights(Gpu& gpu);
  kernels::RopeView make_rope(Gpu& gpu);

  model::Config config_;
  std::vector<Buffer> memory_;
  std::shared_ptr<const model::Resident> resident_;
  std::unique_ptr<model::Forward> forward_;
};

}  // namespace skv::gpu
