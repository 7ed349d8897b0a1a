#include "lib/device/accelerator.h"

#include <algorithm>
#include <new>
#include <utility>

namespace skv::device {

namespace {

BlockCalls calls_of(Backend& backend, skv_tier tier) {
  return {[&backend, tier](int64_t bytes) { return backend.allocate_block(tier, bytes); },
          [&backend, tier](void* block) { backend.free_block(tier, block); }};
}

}  // namespace

Accelerator::Accelerator(std::unique_ptr<Backend> backend, int64_t block_bytes)
    : backend_(std::move(backend)),
      device_(calls_of(*backend_, SKV_TIER_FAST), block_bytes, kBlockUnit, kDeviceGranule),
      pinned_(calls_of(*backend_, SKV_TIER_SLOW), block_bytes, kBlockUnit, kPinnedGranule) {}

Accelerator::~Accelerator() = default;

bool Accelerator::done(const std::vector<Mark>& marks) const {
  for (const Mark& mark : marks) {
    for (const Member& member : queues_) {
      if (member.id == mark.queue && member.queue->done() < mark.issued) return false;
    }
  }
  return true;
}

// all: the device has been waited for.
void Accelerator::reclaim(bool all) noexcept {
  while (!retired_.empty() && (all || done(retired_.front().marks))) {
    heap(retired_.front().tier).free(retired_.front().p);
    retired_.pop_front();
  }
}

void* Accelerator::allocate(skv_tier tier, int64_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  if (*failure() != '\0') return nullptr;
  reclaim(false);
  if (void* p = heap(tier).allocate(bytes, false)) return p;
  // Rather wait than hold more than was asked for.
  if (!retired_.empty()) {
    backend_->wait();
    reclaim(true);
  }
  return heap(tier).allocate(bytes, true);
}

void Accelerator::free(skv_tier tier, void* p, int64_t) noexcept {
  const std::lock_guard lock(mutex_);
  reclaim(false);
  try {
    std::vector<Mark> marks;
    for (const Member& member : queues_) {
      const uint64_t issued = member.queue->issued();
      if (member.queue->done() < issued) marks.push_back({member.id, issued});
    }
    if (!marks.empty()) {
      retired_.push_back({tier, p, std::move(marks)});
      return;
    }
  } catch (const std::bad_alloc&) {
    backend_->wait();
  }
  heap(tier).free(p);
}

std::unique_ptr<BackendQueue> Accelerator::make_queue(void* device_staging, void* pinned_staging,
                                                      int64_t staging_bytes) noexcept {
  std::unique_ptr<BackendQueue> queue(backend_->make_queue(device_staging, pinned_staging, staging_bytes));
  if (queue == nullptr) return nullptr;
  const std::lock_guard lock(mutex_);
  try {
    queues_.push_back({next_id_, queue.get()});
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  ++next_id_;
  return queue;
}

void Accelerator::drop_queue(std::unique_ptr<BackendQueue> queue) noexcept {
  if (queue == nullptr) return;
  queue->ops().wait();
  const std::lock_guard lock(mutex_);
  std::erase_if(queues_, [&](const Member& member) { return member.queue == queue.get(); });
}

int64_t Accelerator::held_bytes(skv_tier tier) const {
  const std::lock_guard lock(mutex_);
  return (tier == SKV_TIER_FAST ? device_ : pinned_).held_bytes();
}

int64_t Accelerator::peak_slack_bytes(skv_tier tier) const {
  const std::lock_guard lock(mutex_);
  return (tier == SKV_TIER_FAST ? device_ : pinned_).peak_slack_bytes();
}

}  // namespace skv::device
