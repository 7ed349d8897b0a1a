// Pinned memory for the pages of more sequences than the host has memory for: beyond a limit pages share memory with
// earlier ones ("host_aliased"). Every byte fetched still crosses the link; only where it lies is not unique.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/base/memory.h"

namespace skv::gpu {

// Behind the account of a store whose slow tier holds pages only. Pinning is slow, so what was pinned once is kept:
// when everything has been given back, the next store's pages begin where the first did. Safe among stores that work
// in the order of one queue. One thread at a time.
class PinnedPages final : public MemorySource {
 public:
  // device: of the memory itself; outlives this.
  PinnedPages(MemorySource& device, int64_t limit_bytes);
  ~PinnedPages() override;
  PinnedPages(const PinnedPages&) = delete;
  PinnedPages& operator=(const PinnedPages&) = delete;

  int64_t limit_bytes() const { return limit_bytes_; }
  // Beyond the limit: share (true), or refuse (false, the default).
  void set_sharing(bool sharing) { sharing_ = sharing; }
  int64_t shared_bytes() const { return shared_bytes_; }  // of what is handed out, beyond the limit

  void* allocate(skv_tier tier, int64_t bytes) noexcept override;
  void free(skv_tier tier, void* p, int64_t bytes) noexcept override;
  const char* failure() const noexcept override { return device_.failure(); }

 private:
  bool add_slab() noexcept;

  MemorySource& device_;
  const int64_t limit_bytes_, slab_bytes_;
  std::vector<void*> slabs_;
  std::size_t slab_ = 0;  // the next page lies in it, at
  int64_t at_ = 0;
  int64_t handed_out_ = 0;  // blocks
  int64_t shared_bytes_ = 0;
  bool sharing_ = false, wrapped_ = false;
};

}  // namespace skv::gpu
