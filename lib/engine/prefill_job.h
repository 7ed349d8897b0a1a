// One prompt on its way through the layers: all its blocks of layer 0, then of layer 1, ... The sequence changes when
// the last layer is done and not before.
//
// In the last layer only the last token's output is needed, so attention and MLP run for that row alone.
// Source: ShadowKV (arXiv 2410.21465) Alg. 1, layer-major: at any time one layer's exact keys and values exist.
#pragma once

#include <vector>

#include "lib/engine/buffers.h"
#include "lib/engine/core.h"
#include "lib/engine/sequence_table.h"

namespace skv::engine {

class PrefillJob {
 public:
  // All tokens queued on the sequence (at least one) become the prompt; later ones queue behind it.
  // Throws Error(SKV_E_BUDGET / SKV_E_NOMEM) with the sequence unchanged.
  PrefillJob(Core& core, SequenceState& sequence);
  ~PrefillJob();  // drops what is unfinished: the sequence is as before
  PrefillJob(const PrefillJob&) = delete;
  PrefillJob& operator=(const PrefillJob&) = delete;

  SequenceState& sequence() const { return sequence_; }
  // Token-layers: of the whole job, behind it, of its next unit.
  int64_t total() const;
  int64_t done() const { return done_; }
  int64_t next_unit() const;
  // One block of one layer. True: that was the last, the prompt is part of the sequence now.
  // After a throw the job can only be destroyed.
  bool run_unit();

 private:
  struct Block {
    int64_t start;
    int64_t n;
    bool last;
  };
  Block next_block() const;
  void project(const Block& block);
  void finish_rows(float* x, const float* attn, int64_t n);
  void attend(const Block& block);
  void compute_logits();  // of the last token; waits for the device
  void commit() noexcept;

  Core& core_;
  SequenceState& sequence_;
  const int64_t base_;   // length before the prompt
  const int64_t n_;      // tokens of the prompt
  PrefillBuffers buffers_;
  std::vector<int32_t> host_ids_;  // of a block
  Buffer new_logits_;    // for a sequence that keeps none yet
  int32_t layer_ = 0;
  int64_t start_ = 0;    // of the next block
  int64_t done_ = 0;
  bool committed_ = false;
};

}  // namespace skv::engine
