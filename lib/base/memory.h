// Memory of the library: tagged, limited, counted. The host program's malloc is never replaced.
//
// Host memory, unless a MemorySource stands behind the account (a GPU's). Host blocks of at least kMapThreshold bytes
// are mapped directly (rounded to the OS page, which is what is charged), so the number charged is the number the OS
// sees; smaller ones come from mimalloc (opened by dlopen) or posix_memalign.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shadowkv/types.h"

namespace skv {

inline constexpr int kTierCount = SKV_TIER_COUNT;
inline constexpr int kPurposeCount = SKV_PURPOSE_COUNT;
inline constexpr std::size_t kMapThreshold = 256 * 1024;

// Bytes that Buffer charges for a request of n bytes: the one rounding rule, shared with the budget query.
// Small blocks round up to 64 bytes, mapped ones to the page; n <= 0 is 0; saturates at INT64_MAX.
int64_t charged_bytes(int64_t n);

// n * element_bytes; throws Error(SKV_E_NOMEM) where that passes 64 bits or n is negative.
int64_t checked_bytes(int64_t n, int64_t element_bytes);

// Memory of the fast and the slow tier that is not plain host memory; the host tier always is. Thread-safe.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  // bytes: a value of charged_bytes(). 64-byte aligned, uninitialised; nullptr where refused.
  virtual void* allocate(skv_tier tier, int64_t bytes) noexcept = 0;
  // The device's work that was queued before may still use it: the source sees to that.
  virtual void free(skv_tier tier, void* p, int64_t bytes) noexcept = 0;
  // Not empty once the device is lost, for good; everything is refused then.
  virtual const char* failure() const noexcept = 0;
};

// Hard limits and counters of one owner (runtime, session). Children charge their parent too, all or nothing.
// Thread-safe; lock-free.
class MemoryAccount {
 public:
  // name: static text for messages ("session"), or nullptr. The parent outlives its children.
  explicit MemoryAccount(MemoryAccount* parent = nullptr, const char* name = nullptr);
  MemoryAccount(const MemoryAccount&) = delete;
  MemoryAccount& operator=(const MemoryAccount&) = delete;

  // Of a root, before its first Buffer; outlives the last one. nullptr, the default: host memory.
  void set_source(MemorySource* source) { source_ = source; }
  MemorySource* source() const { return parent_ != nullptr ? parent_->source() : source_; }

  void set_limit(skv_tier tier, uint64_t bytes);  // UINT64_MAX = none
  uint64_t limit(skv_tier tier) const;
  int64_t used(skv_tier tier) const;
  int64_t used(skv_tier tier, skv_purpose purpose) const;
  int64_t peak(skv_tier tier) const;

  // Throws Error(SKV_E_BUDGET) naming the tier, what is used, what was asked and the limit that stopped it.
  // A charge that an ancestor refuses is visible below it for a moment, so one beside it may be refused early, never
  // let through; a peak may include it.
  void charge(skv_tier tier, skv_purpose purpose, int64_t bytes);
  void release(skv_tier tier, skv_purpose purpose, int64_t bytes) noexcept;
  // Would charging these totals pass every limit up the tree? For admission before work starts.
  bool fits(const std::array<int64_t, kTierCount>& bytes) const;

 private:
  void charge_tree(skv_tier tier, skv_purpose purpose, int64_t bytes);

  MemoryAccount* parent_;
  const char* name_;
  MemorySource* source_ = nullptr;
  std::array<std::atomic<uint64_t>, kTierCount> limit_;
  std::array<std::atomic<int64_t>, kTierCount> used_;
  std::array<std::atomic<int64_t>, kTierCount> peak_;
  std::array<std::array<std::atomic<int64_t>, kPurposeCount>, kTierCount> by_purpose_;
};

// Owning. Host memory: 64-byte aligned (mapped blocks: 4096), uninitialised unless mapped (then 0); of a source:
// 64-byte aligned, uninitialised. Move only. The bytes up to the next multiple of 64 may be read and written too.
// 0 bytes: data() is nullptr.
class Buffer {
 public:
  Buffer() = default;
  // Throws Error(SKV_E_BUDGET), Error(SKV_E_NOMEM) or Error(SKV_E_DEVICE_LOST); nothing is charged then.
  Buffer(MemoryAccount& account, skv_tier tier, skv_purpose purpose, int64_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  void* data() const { return data_; }
  template <class T> T* as() const { return static_cast<T*>(data_); }
  int64_t bytes() const { return bytes_; }  // as requested
  explicit operator bool() const { return data_ != nullptr; }
  void reset() noexcept;

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  MemoryAccount* account_ = nullptr;
  skv_tier tier_ = SKV_TIER_FAST;
  skv_purpose purpose_ = SKV_PURPOSE_OTHER;
};

// Raw allocator under Buffer (no accounting). nullptr on failure.
void* host_alloc(std::size_t bytes);
void host_free(void* p, std::size_t bytes) noexcept;
const char* host_allocator_name();  // "mimalloc 2.0.9" or "posix_memalign"

// A growable array of trivially copyable T in tagged memory; the STL stays for small bookkeeping only.
template <class T>
class TaggedArray {
 public:
  TaggedArray() = default;
  TaggedArray(MemoryAccount& account, skv_tier tier, skv_purpose purpose, int64_t n)
      : buffer_(account, tier, purpose, checked_bytes(n, sizeof(T))), size_(n) {}
  T* data() const { return buffer_.template as<T>(); }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return data()[i]; }

 private:
  Buffer buffer_;
  int64_t size_ = 0;
};

}  // namespace skv
