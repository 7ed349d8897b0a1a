#include "lib/engine/sequence_table.h"

#include <cinttypes>
#include <utility>

namespace skv::engine {

void SequenceTable::check_room() const {
  if (count_ >= max_sequences_) fail(SKV_E_LIMIT, "%d sequences are open, all that max_sequences allows", count_);
}

skv_seq SequenceTable::add(std::unique_ptr<SequenceState> state) {
  check_room();
  if (free_.empty()) {
    free_.reserve(entries_.size() + 1);  // so that remove() cannot fail
    entries_.emplace_back();
    free_.push_back(static_cast<uint32_t>(entries_.size() - 1));
  }
  const uint32_t index = free_.back();
  free_.pop_back();
  Entry& entry = entries_[index];
  entry.state = std::move(state);
  ++count_;
  return static_cast<skv_seq>(entry.generation) << 32 | (index + 1);
}

std::size_t SequenceTable::index_of(skv_seq seq) const {
  const uint64_t low = seq & 0xffffffffu;
  if (low == 0 || low > entries_.size() || !entries_[low - 1].state || entries_[low - 1].generation != seq >> 32) {
    fail(SKV_E_HANDLE, "sequence 0x%" PRIx64 " is not open in this session", seq);
  }
  return static_cast<std::size_t>(low - 1);
}

SequenceState& SequenceTable::get(skv_seq seq) const { return *entries_[index_of(seq)].state; }

std::unique_ptr<SequenceState> SequenceTable::remove(skv_seq seq) {
  const std::size_t index = index_of(seq);
  Entry& entry = entries_[index];
  if (++entry.generation == 0) entry.generation = 1;
  free_.push_back(static_cast<uint32_t>(index));
  --count_;
  return std::move(entry.state);
}

}  // namespace skv::engine
