// A device behind a backend module, as the library uses it: its memory carved from large blocks, and its queues.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "lib/base/memory.h"
#include "lib/device/backend.h"
#include "lib/device/block_heap.h"

namespace skv::device {

// Blocks are multiples of the unit in which drivers hand out device memory: what is held is what is missing there.
inline constexpr int64_t kBlockUnit = int64_t{2} << 20;
inline constexpr int64_t kBlockBytes = int64_t{64} << 20;
inline constexpr int64_t kDeviceGranule = 256, kPinnedGranule = 64;

// Memory that was freed while queues had unfinished work is handed out again only when that work is known to be done:
// it may be another queue's memory next. It counts as held until then.
class Accelerator final : public MemorySource {
 public:
  explicit Accelerator(std::unique_ptr<Backend> backend, int64_t block_bytes = kBlockBytes);
  ~Accelerator() override;

  void* allocate(skv_tier tier, int64_t bytes) noexcept override;
  void free(skv_tier tier, void* p, int64_t bytes) noexcept override;
  const char* failure() const noexcept override { return backend_->failure(); }

  // Null where refused. Given back by drop_queue().
  std::unique_ptr<BackendQueue> make_queue(void* device_staging, void* pinned_staging,
                                           int64_t staging_bytes) noexcept;
  void drop_queue(std::unique_ptr<BackendQueue> queue) noexcept;
  int64_t queue_library_bytes() const { return backend_->queue_library_bytes(); }

  // Taken from the driver; the highest so far of what was taken and not handed out. Without queues' libraries.
  int64_t held_bytes(skv_tier tier) const;
  int64_t peak_slack_bytes(skv_tier tier) const;

 private:
  struct Mark {  // work of a queue up to a call
    uint64_t queue;
    uint64_t issued;
  };
  struct Retired {
    skv_tier tier;
    void* p;
    std::vector<Mark> marks;
  };
  struct Member {
    uint64_t id;
    const BackendQueue* queue;
  };

  bool done(const std::vector<Mark>& marks) const;
  void reclaim(bool all) noexcept;
  BlockHeap& heap(skv_tier tier) { return tier == SKV_TIER_FAST ? device_ : pinned_; }

  std::unique_ptr<Backend> backend_;
  mutable std::mutex mutex_;
  BlockHeap device_, pinned_;
  std::deque<Retired> retired_;  // in the order of the frees, so marks only grow
  std::vector<Member> queues_;
  uint64_t next_id_ = 0;
};

}  // namespace skv::device
