// One decode step: the rows of a ragged batch through all layers together, each row with its own status.
//
// A batch has at most 64 tokens, so that GEMMs take the path whose row results do not depend on the other rows.
#pragma once

#include <span>
#include <vector>

#include "lib/engine/buffers.h"
#include "lib/engine/core.h"
#include "lib/engine/sequence_table.h"

namespace skv::engine {

class DecodeStep {
 public:
  explicit DecodeStep(Core& core);

  // Returns how many rows are done. Throws for the whole call (bad arguments, interrupt); then no row changed
  // anything and each has the call's status.
  int32_t run(const SequenceTable& table, std::span<skv_row> rows);
  const DecodeBuffers& buffers() const { return buffers_; }

 private:
  struct Row {
    skv_row* abi;
    SequenceState* sequence;
    int64_t first;        // in the batch
    int64_t first_logit;  // in the rows whose logits are computed
    int32_t n_logits;
    bool new_logits;      // the sequence's logits buffer was made for this step
    int32_t draw;         // index in the step's sampler, or -1
    int32_t sampled;
  };

  void prepare(const SequenceTable& table, skv_row& abi);
  void reserve(Row& row);
  void release(Row& row) noexcept;
  void run_layers();
  void compute_logits();
  const float* last_logits(const Row& row) const;
  void copy_out_logits();
  void finish_row(Row& row);
  void commit(Row& row) noexcept;
  void give_up(std::span<skv_row> rows, const Failure& failure) noexcept;

  Core& core_;
  DecodeBuffers buffers_;
  std::vector<Row> batch_;
  std::vector<SequenceState*> claimed_;  // have a row in this call, failed ones included
  std::vector<model::RowRange> ranges_;
  std::vector<kv::DecodeRow> kv_rows_;
  int64_t n_tokens_ = 0;
  int64_t n_logits_ = 0;
};

}  // namespace skv::engine
