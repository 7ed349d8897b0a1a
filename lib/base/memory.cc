#include "lib/base/memory.h"

#include <cinttypes>
#include <limits>
#include <utility>

#include "lib/base/status.h"

namespace skv {

namespace {

constexpr int64_t kMaxBytes = std::numeric_limits<int64_t>::max();

const char* tier_name(skv_tier tier) {
  switch (tier) {
    case SKV_TIER_FAST: return "fast";
    case SKV_TIER_SLOW: return "slow";
    default: return "host";
  }
}

// used and bytes are never negative, so neither the sum as unsigned nor the comparison can wrap.
bool over_limit(int64_t used, int64_t bytes, uint64_t limit) {
  const uint64_t sum = static_cast<uint64_t>(used) + static_cast<uint64_t>(bytes);
  return sum > limit || sum > static_cast<uint64_t>(kMaxBytes);
}

MemorySource* source_of(const MemoryAccount& account, skv_tier tier) {
  return tier == SKV_TIER_HOST ? nullptr : account.source();
}

void raise_peak(std::atomic<int64_t>& peak, int64_t value) {
  int64_t seen = peak.load(std::memory_order_relaxed);
  while (seen < value && !peak.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

}  // namespace

int64_t checked_bytes(int64_t n, int64_t element_bytes) {
  int64_t bytes = 0;
  if (n < 0 || element_bytes < 0 || __builtin_mul_overflow(n, element_bytes, &bytes)) {
    fail(SKV_E_NOMEM, "%" PRId64 " elements of %" PRId64 " bytes do not fit an address space", n, element_bytes);
  }
  return bytes;
}

MemoryAccount::MemoryAccount(MemoryAccount* parent, const char* name) : parent_(parent), name_(name) {
  for (auto& limit : limit_) limit.store(SKV_UNLIMITED, std::memory_order_relaxed);
  for (auto& used : used_) used.store(0, std::memory_order_relaxed);
  for (auto& peak : peak_) peak.store(0, std::memory_order_relaxed);
  for (auto& tier : by_purpose_) {
    for (auto& used : tier) used.store(0, std::memory_order_relaxed);
  }
}

void MemoryAccount::set_limit(skv_tier tier, uint64_t bytes) { limit_[tier].store(bytes); }

uint64_t MemoryAccount::limit(skv_tier tier) const { return limit_[tier].load(); }

int64_t MemoryAccount::used(skv_tier tier) const { return used_[tier].load(); }

int64_t MemoryAccount::used(skv_tier tier, skv_purpose purpose) const { return by_purpose_[tier][purpose].load(); }

int64_t MemoryAccount::peak(skv_tier tier) const { return peak_[tier].load(); }

void MemoryAccount::charge_tree(skv_tier tier, skv_purpose purpose, int64_t bytes) {
  int64_t used = used_[tier].load();
  do {
    const uint64_t limit = limit_[tier].load();
    if (over_limit(used, bytes, limit)) {
      const std::string owner = name_ == nullptr ? "" : std::string(" (") + name_ + ")";
      fail(SKV_E_BUDGET, "%s tier: %" PRId64 " bytes asked, %" PRId64 " used, limit %" PRIu64 "%s", tier_name(tier),
           bytes, used, limit, owner.c_str());
    }
  } while (!used_[tier].compare_exchange_weak(used, used + bytes));
  if (parent_ != nullptr) {
    try {
      parent_->charge_tree(tier, purpose, bytes);
    } catch (...) {
      used_[tier].fetch_sub(bytes);
      throw;
    }
  }
  // Only now: a charge that an ancestor refused never happened.
  by_purpose_[tier][purpose].fetch_add(bytes);
  raise_peak(peak_[tier], used + bytes);
}

void MemoryAccount::charge(skv_tier tier, skv_purpose purpose, int64_t bytes) {
  if (bytes < 0 || tier < 0 || tier >= kTierCount || purpose < 0 || purpose >= kPurposeCount) {
    fail(SKV_E_INTERNAL, "charge of %" PRId64 " bytes to tier %d, purpose %d", bytes, tier, purpose);
  }
  if (bytes > 0) charge_tree(tier, purpose, bytes);
}

void MemoryAccount::release(skv_tier tier, skv_purpose purpose, int64_t bytes) noexcept {
  for (MemoryAccount* account = this; account != nullptr; account = account->parent_) {
    account->by_purpose_[tier][purpose].fetch_sub(bytes);
    account->used_[tier].fetch_sub(bytes);
  }
}

bool MemoryAccount::fits(const std::array<int64_t, kTierCount>& bytes) const {
  for (const MemoryAccount* account = this; account != nullptr; account = account->parent_) {
    for (int tier = 0; tier < kTierCount; ++tier) {
      const auto t = static_cast<std::size_t>(tier);
      if (bytes[t] > 0 && over_limit(account->used_[t].load(), bytes[t], account->limit_[t].load())) return false;
    }
  }
  return true;
}

Buffer::Buffer(MemoryAccount& account, skv_tier tier, skv_purpose purpose, int64_t bytes) {
  if (bytes < 0) fail(SKV_E_INTERNAL, "buffer of %" PRId64 " bytes", bytes);
  if (bytes == 0) return;
  const int64_t charged = charged_bytes(bytes);
  account.charge(tier, purpose, charged);
  MemorySource* source = source_of(account, tier);
  data_ = source != nullptr ? source->allocate(tier, charged) : host_alloc(static_cast<std::size_t>(bytes));
  if (data_ == nullptr) {
    account.release(tier, purpose, charged);
    if (source != nullptr && *source->failure() != '\0') fail(SKV_E_DEVICE_LOST, "%s", source->failure());
    fail(SKV_E_NOMEM, "%s tier: the %s refused %" PRId64 " bytes", tier_name(tier),
         source != nullptr ? "device" : "system", charged);
  }
  bytes_ = bytes;
  account_ = &account;
  tier_ = tier;
  purpose_ = purpose;
}

Buffer::~Buffer() { reset(); }

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      account_(std::exchange(other.account_, nullptr)),
      tier_(other.tier_),
      purpose_(other.purpose_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this == &other) return *this;
  reset();
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  account_ = std::exchange(other.account_, nullptr);
  tier_ = other.tier_;
  purpose_ = other.purpose_;
  return *this;
}

void Buffer::reset() noexcept {
  if (data_ == nullptr) return;
  if (MemorySource* source = source_of(*account_, tier_); source != nullptr) {
    source->free(tier_, data_, charged_bytes(bytes_));
  } else {
    host_free(data_, static_cast<std::size_t>(bytes_));
  }
  account_->release(tier_, purpose_, charged_bytes(bytes_));
  data_ = nullptr;
  bytes_ = 0;
  account_ = nullptr;
}

}  // namespace skv
