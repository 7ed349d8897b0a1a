// Open sequences behind handles that recognise a closed one: generation in the high half, index + 1 in the low half.
#pragma once

#include <memory>
#include <vector>

#include "kernels/sample/sample.h"
#include "lib/engine/error_detail.h"
#include "lib/engine/token_pages.h"
#include "lib/kv/store.h"

namespace skv::engine {

struct SequenceState {
  explicit SequenceState(MemoryAccount& account) : tokens(account) {}

  kv::Sequence* kv = nullptr;
  int64_t max_tokens = 0;
  int64_t length = 0;       // prefilled or decoded
  TokenPages tokens;        // those, then the queued ones
  Buffer logits;            // [vocab] of the last token
  bool has_logits = false;
  kernels::SampleParams sampler;
  uint64_t sampled = 0;     // tokens drawn since the sampler was set
  Failure prefill_failure;  // why the last prefill was dropped
  bool in_step = false;     // has a row in the step in progress

  int64_t queued() const { return tokens.size() - length; }
};

class SequenceTable {
 public:
  explicit SequenceTable(int32_t max_sequences) : max_sequences_(max_sequences) {}

  // Throws Error(SKV_E_LIMIT) when full.
  skv_seq add(std::unique_ptr<SequenceState> state);
  // Throw Error(SKV_E_HANDLE).
  SequenceState& get(skv_seq seq) const;
  std::unique_ptr<SequenceState> remove(skv_seq seq);

  int32_t count() const { return count_; }
  void check_room() const;
  template <class Fn>
  void for_each(Fn&& fn) const {
    for (const Entry& entry : entries_) {
      if (entry.state) fn(*entry.state);
    }
  }

 private:
  struct Entry {
    std::unique_ptr<SequenceState> state;
    uint32_t generation = 1;  // never 0, so no handle is 0
  };
  std::size_t index_of(skv_seq seq) const;

  int32_t max_sequences_;
  int32_t count_ = 0;
  std::vector<Entry> entries_;
  std::vector<uint32_t> free_;
};

}  // namespace skv::engine
