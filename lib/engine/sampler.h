// Sampling for sequences: checks parameters, hands the op each one's history and counter, brings the tokens back.
#pragma once

#include "lib/engine/buffers.h"
#include "lib/engine/core.h"
#include "lib/engine/sequence_table.h"

namespace skv::engine {

// Throws Error(SKV_E_INVALID) naming the field.
void check_sampler(const kernels::SampleParams& params);

// One step's draws, at most kGemmDecodeRows. The caller counts them in its sequences.
class Sampler {
 public:
  Sampler(const Core& core, const DecodeBuffers& buffers) : core_(core), buffers_(buffers) {}

  // The next token after the first n_history tokens of the sequence, from logits [vocab] (data).
  void add(const SequenceState& sequence, const float* logits, int64_t n_history);
  // Waits for the device. Throws Error(SKV_E_DEVICE_LOST).
  void run();
  int32_t count() const { return static_cast<int32_t>(count_); }
  // Of the i-th add(). Throws Error(SKV_E_DATA) if none of its logits is a number above -inf.
  int32_t token(int32_t i) const;

 private:
  const Core& core_;
  const DecodeBuffers& buffers_;
  kernels::SampleItem items_[kernels::kGemmDecodeRows];  // not yet given to the op
  std::size_t n_items_ = 0;
  std::size_t count_ = 0;
};

}  // namespace skv::engine
