// Carves memory out of large blocks from elsewhere: the best fitting free span, the lowest address of equals;
// neighbours that are free are one span; a block that is wholly free goes back. All bookkeeping is kept outside the
// memory, which the host may be unable to touch. One thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <utility>

namespace skv::device {

// Where blocks come from: at least granule-aligned; null where refused. Neither throws.
struct BlockCalls {
  std::function<void*(int64_t bytes)> allocate;
  std::function<void(void* block)> free;
};

class BlockHeap {
 public:
  // A block has block_bytes, or the size of a larger request, rounded up to block_unit. Sizes handed out are rounded
  // up to granule, a power of two that divides the unit.
  BlockHeap(BlockCalls calls, int64_t block_bytes, int64_t block_unit, int64_t granule);
  ~BlockHeap();  // gives every block back
  BlockHeap(const BlockHeap&) = delete;
  BlockHeap& operator=(const BlockHeap&) = delete;

  // Null where no span fits and no block may be, or could be, added.
  void* allocate(int64_t bytes, bool may_grow) noexcept;
  void free(void* p) noexcept;  // p: from allocate()

  int64_t used_bytes() const { return used_; }  // handed out, as rounded
  int64_t held_bytes() const { return held_; }  // of all blocks
  int64_t peak_slack_bytes() const { return peak_slack_; }  // of held - used, seen after calls

 private:
  using FreeSpans = std::set<std::pair<int64_t, char*>>;  // bytes, start
  struct Span {
    int64_t bytes = 0;
    bool first = false;          // of its block
    FreeSpans::node_type entry;  // kept while the span is handed out, so that freeing it allocates nothing
    bool is_free() const { return entry.empty(); }
  };
  using Spans = std::map<char*, Span>;  // without gaps within a block

  bool grow(int64_t bytes);
  void add_free(char* start, int64_t bytes, bool first);
  void merge(Spans::iterator left, Spans::iterator right);
  void give_back(Spans::iterator block) noexcept;
  bool whole(Spans::iterator span) const { return span->second.first && !within_block(std::next(span)); }
  bool within_block(Spans::iterator span) const { return span != spans_.end() && !span->second.first; }

  BlockCalls calls_;
  int64_t block_bytes_, block_unit_, granule_;
  Spans spans_;
  FreeSpans free_;
  int64_t used_ = 0, held_ = 0, peak_slack_ = 0;
};

}  // namespace skv::device
