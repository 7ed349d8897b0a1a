#include "tests/gpu/pinned_pages.h"

#include <algorithm>

namespace skv::gpu {

namespace {

constexpr int64_t kSlabBytes = int64_t{1} << 30;

}  // namespace

PinnedPages::PinnedPages(MemorySource& device, int64_t limit_bytes)
    : device_(device), limit_bytes_(limit_bytes), slab_bytes_(std::min(limit_bytes, kSlabBytes)) {
  slabs_.reserve(static_cast<std::size_t>(limit_bytes_ / slab_bytes_));  // so that allocate() cannot throw
}

PinnedPages::~PinnedPages() {
  for (void* slab : slabs_) device_.free(SKV_TIER_SLOW, slab, slab_bytes_);
}

bool PinnedPages::add_slab() noexcept {
  if (std::ssize(slabs_) == limit_bytes_ / slab_bytes_) return false;
  void* slab = device_.allocate(SKV_TIER_SLOW, slab_bytes_);
  if (slab == nullptr) return false;
  slabs_.push_back(slab);
  return true;
}

void* PinnedPages::allocate(skv_tier tier, int64_t bytes) noexcept {
  if (tier != SKV_TIER_SLOW) return device_.allocate(tier, bytes);
  if (bytes > slab_bytes_) return nullptr;
  if (at_ + bytes > slab_bytes_) ++slab_, at_ = 0;
  if (slab_ == slabs_.size() && !add_slab()) {
    if (!sharing_ || slabs_.empty()) return nullptr;
    slab_ = 0, at_ = 0, wrapped_ = true;
  }
  ++handed_out_;
  void* p = static_cast<char*>(slabs_[slab_]) + at_;
  at_ += bytes;
  if (wrapped_) shared_bytes_ += bytes;
  return p;
}

void PinnedPages::free(skv_tier tier, void* p, int64_t bytes) noexcept {
  if (tier != SKV_TIER_SLOW) return device_.free(tier, p, bytes);
  if (--handed_out_ > 0) return;
  slab_ = 0, at_ = 0, shared_bytes_ = 0, wrapped_ = false;
}

}  // namespace skv::gpu
