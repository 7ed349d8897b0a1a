#include "lib/device/block_heap.h"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

namespace skv::device {

namespace {

// 0 where that passes 64 bits.
int64_t round_up(int64_t n, int64_t unit) {
  return n > std::numeric_limits<int64_t>::max() - unit ? 0 : (n + unit - 1) / unit * unit;
}

}  // namespace

BlockHeap::BlockHeap(BlockCalls calls, int64_t block_bytes, int64_t block_unit, int64_t granule)
    : calls_(std::move(calls)), block_bytes_(block_bytes), block_unit_(block_unit), granule_(granule) {}

BlockHeap::~BlockHeap() {
  for (const auto& [start, span] : spans_) {
    if (span.first) calls_.free(start);
  }
}

void BlockHeap::add_free(char* start, int64_t bytes, bool first) {
  const auto entry = free_.emplace(bytes, start).first;
  try {
    Span& span = spans_[start];
    span.bytes = bytes;
    span.first = first;
  } catch (...) {
    free_.erase(entry);
    throw;
  }
}

bool BlockHeap::grow(int64_t bytes) {
  const int64_t block_bytes = round_up(std::max(bytes, block_bytes_), block_unit_);
  if (block_bytes == 0) return false;
  char* block = static_cast<char*>(calls_.allocate(block_bytes));
  if (block == nullptr) return false;
  try {
    add_free(block, block_bytes, true);
  } catch (const std::bad_alloc&) {
    calls_.free(block);
    return false;
  }
  held_ += block_bytes;
  return true;
}

void* BlockHeap::allocate(int64_t bytes, bool may_grow) noexcept {
  const int64_t size = bytes <= 0 ? 0 : round_up(bytes, granule_);
  if (size == 0) return nullptr;
  auto fit = free_.lower_bound({size, nullptr});
  if (fit == free_.end()) {
    if (!may_grow || !grow(size)) return nullptr;
    fit = free_.lower_bound({size, nullptr});
  }
  const auto found = spans_.find(fit->second);
  Span& span = found->second;
  if (span.bytes > size) {
    try {
      add_free(found->first + size, span.bytes - size, false);
    } catch (const std::bad_alloc&) {
      if (whole(found)) {  // it was added for this request
        free_.erase(fit);
        give_back(found);
      }
      return nullptr;
    }
    span.bytes = size;
  }
  span.entry = free_.extract(fit);
  used_ += size;
  peak_slack_ = std::max(peak_slack_, held_ - used_);
  return found->first;
}

void BlockHeap::give_back(Spans::iterator block) noexcept {
  held_ -= block->second.bytes;
  calls_.free(block->first);
  spans_.erase(block);
}

// Both are free; the entry of the left one is not in the set.
void BlockHeap::merge(Spans::iterator left, Spans::iterator right) {
  left->second.bytes += right->second.bytes;
  spans_.erase(right);
}

void BlockHeap::free(void* p) noexcept {
  auto span = spans_.find(static_cast<char*>(p));
  if (span == spans_.end() || span->second.is_free()) return;
  used_ -= span->second.bytes;
  FreeSpans::node_type entry = std::move(span->second.entry);
  if (const auto next = std::next(span); within_block(next) && next->second.is_free()) {
    free_.erase({next->second.bytes, next->first});
    merge(span, next);
  }
  if (!span->second.first && std::prev(span)->second.is_free()) {
    const auto previous = std::prev(span);
    free_.erase({previous->second.bytes, previous->first});
    merge(previous, span);
    span = previous;
  }
  if (whole(span)) {
    give_back(span);
  } else {
    entry.value() = {span->second.bytes, span->first};
    free_.insert(std::move(entry));
  }
  peak_slack_ = std::max(peak_slack_, held_ - used_);
}

}  // namespace skv::device
