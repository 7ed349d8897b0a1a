// Slot caches arranged so that a decode step that is repeated finds a wanted share of its selection in slots: the
// share that successive tokens of real text have, which random ones have not.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/kv/layout.h"
#include "lib/kv/sequence.h"
#include "tests/gpu/timing_frame.h"

namespace skv::gpu {

class ForcedHits {
 public:
  // The sequences' slots hold what the step selects and nothing else (cleared, then the step taken once).
  ForcedHits(Gpu& gpu, const kv::Layout& layout, std::span<kv::Sequence* const> sequences, double rate);
  // To be called before each repetition. Of every head's selection a share `rate` stays in slots, by turns another
  // one; the other slots pass to chunks that the step does not select. Done by the op that a step itself uses.
  void arrange();

 private:
  void choose(const kv::Layer& layer, const std::vector<int32_t>& chunk_of_slot, double rate, uint32_t turn);
  int64_t items_per_layer() const;

  Gpu& gpu_;
  const kv::Layout layout_;
  std::vector<kv::Sequence*> sequences_;
  int32_t most_slots_ = 0;
  std::vector<int32_t> host_ids_, host_counts_;  // [turns, layers, sequences, heads] times most_slots_, or 1
  Buffer ids_, counts_, out_, workspace_;
  uint32_t turn_ = 0;
};

}  // namespace skv::gpu
