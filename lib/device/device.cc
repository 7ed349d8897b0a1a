#include "lib/device/device.h"

#include <cinttypes>
#include <utility>

#include "lib/base/status.h"
#include "lib/device/accelerator.h"

namespace skv::device {

Queue::Queue() : ops_(&kernels::cpu_ops()) {}

Queue::Queue(std::shared_ptr<Accelerator> accelerator, MemoryAccount& account, int64_t staging_bytes)
    : accelerator_(std::move(accelerator)),
      account_(&account),
      device_staging_(account, SKV_TIER_FAST, SKV_PURPOSE_WORKSPACE, staging_bytes),
      pinned_staging_(account, SKV_TIER_SLOW, SKV_PURPOSE_WORKSPACE, staging_bytes) {
  const int64_t library_bytes = accelerator_->queue_library_bytes();
  account.charge(SKV_TIER_FAST, SKV_PURPOSE_WORKSPACE, library_bytes);
  backend_ = accelerator_->make_queue(device_staging_.data(), pinned_staging_.data(), staging_bytes);
  if (backend_ == nullptr) {
    account.release(SKV_TIER_FAST, SKV_PURPOSE_WORKSPACE, library_bytes);
    if (*accelerator_->failure() != '\0') fail(SKV_E_DEVICE_LOST, "%s", accelerator_->failure());
    fail(SKV_E_NOMEM, "fast tier: the device refused a queue (%" PRId64 " bytes beside its lists)", library_bytes);
  }
  library_bytes_ = library_bytes;
  ops_ = &backend_->ops();
}

Queue::~Queue() {
  if (backend_ == nullptr) return;
  accelerator_->drop_queue(std::move(backend_));
  account_->release(SKV_TIER_FAST, SKV_PURPOSE_WORKSPACE, library_bytes_);
}

void Queue::check() const {
  const char* failure = ops_->failure();
  if (*failure == '\0') return;
  const bool lost = accelerator_ != nullptr && *accelerator_->failure() != '\0';
  fail(lost ? SKV_E_DEVICE_LOST : SKV_E_INTERNAL, "%s", failure);
}

std::unique_ptr<Queue> Device::make_queue(MemoryAccount& account, int64_t staging_bytes) const {
  if (accelerator == nullptr) return std::make_unique<Queue>();
  return std::make_unique<Queue>(accelerator, account, staging_bytes);
}

std::array<int64_t, kTierCount> Device::queue_bytes(int64_t staging_bytes) const {
  std::array<int64_t, kTierCount> bytes{};
  if (accelerator == nullptr) return bytes;
  bytes[SKV_TIER_FAST] = charged_bytes(staging_bytes) + accelerator->queue_library_bytes();
  bytes[SKV_TIER_SLOW] = charged_bytes(staging_bytes);
  return bytes;
}

}  // namespace skv::device
