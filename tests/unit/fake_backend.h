// A backend without a GPU: memory from the host, and queues whose progress and failure the test decides.
#pragma once

#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

#include "kernels/ops.h"
#include "lib/device/backend.h"

namespace skv::test {

// What a test sees of a fake device and does to it. Outlives the backend.
struct FakeDevice {
  std::mutex mutex;
  std::map<void*, int64_t> blocks[2];  // of the fast and slow tier: bytes
  int64_t block_limit = int64_t{1} << 40;  // of all bytes of a tier
  std::atomic<const char*> failure{""};
  std::atomic<int> waits{0}, queues{0};
  bool refuse_queues = false;
  std::atomic<uint64_t> issued{0}, done{0};  // of every queue

  int64_t held(int tier) {
    const std::lock_guard lock(mutex);
    int64_t sum = 0;
    for (const auto& [p, bytes] : blocks[tier]) sum += bytes;
    return sum;
  }
};

class FakeQueue final : public device::BackendQueue {
 public:
  FakeQueue(FakeDevice& fake, const kernels::Ops& ops) : fake_(fake), ops_(ops) { ++fake_.queues; }
  ~FakeQueue() override { --fake_.queues; }
  const kernels::Ops& ops() const noexcept override { return ops_; }
  uint64_t issued() const noexcept override { return fake_.issued; }
  uint64_t done() const noexcept override { return fake_.done; }

 private:
  FakeDevice& fake_;
  const kernels::Ops& ops_;
};

class FakeBackend final : public device::Backend {
 public:
  static constexpr int64_t kLibraryBytes = 1000;

  // ops: of its queues; null where it makes none.
  FakeBackend(FakeDevice& fake, const kernels::Ops* ops) : fake_(fake), ops_(ops) {}

  void* allocate_block(skv_tier tier, int64_t bytes) noexcept override {
    if (*failure() != '\0' || fake_.held(tier) + bytes > fake_.block_limit) return nullptr;
    void* p = std::aligned_alloc(4096, static_cast<std::size_t>(bytes));
    const std::lock_guard lock(fake_.mutex);
    fake_.blocks[tier][p] = bytes;
    return p;
  }
  void free_block(skv_tier tier, void* block) noexcept override {
    const std::lock_guard lock(fake_.mutex);
    if (fake_.blocks[tier].erase(block) != 1) std::abort();
    std::free(block);
  }
  device::BackendQueue* make_queue(void*, void*, int64_t) noexcept override {
    return ops_ == nullptr || fake_.refuse_queues ? nullptr : new FakeQueue(fake_, *ops_);
  }
  int64_t queue_library_bytes() const noexcept override { return kLibraryBytes; }
  void wait() noexcept override {
    ++fake_.waits;
    fake_.done = fake_.issued.load();
  }
  const char* failure() const noexcept override { return fake_.failure; }

 private:
  FakeDevice& fake_;
  const kernels::Ops* ops_;
};

}  // namespace skv::test
