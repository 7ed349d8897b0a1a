// Structs of callers that were compiled against another version of the headers.
//
// A struct only grows. What an older caller does not have keeps its default; what a newer one has beyond ours must be 0,
// for it asks for something that this library does not know.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lib/base/status.h"
#include "shadowkv/shadowkv.h"

namespace skv::api {

inline constexpr uint32_t kMaxStructBytes = 4096;

// Size of a struct in the first version that had it: what every caller has at least.
template <class T> inline constexpr uint32_t kFirstBytes = 0;
template <> inline constexpr uint32_t kFirstBytes<skv_runtime_params> = 32;
template <> inline constexpr uint32_t kFirstBytes<skv_device_info> = 264;
template <> inline constexpr uint32_t kFirstBytes<skv_model_params> = 8;
template <> inline constexpr uint32_t kFirstBytes<skv_model_info> = 216;
template <> inline constexpr uint32_t kFirstBytes<skv_chat_message> = 24;
template <> inline constexpr uint32_t kFirstBytes<skv_kv_params> = 152;
template <> inline constexpr uint32_t kFirstBytes<skv_kv_stats> = 160;
template <> inline constexpr uint32_t kFirstBytes<skv_session_params> = 64;
template <> inline constexpr uint32_t kFirstBytes<skv_sampler_params> = 32;
template <> inline constexpr uint32_t kFirstBytes<skv_row> = 64;
template <> inline constexpr uint32_t kFirstBytes<skv_step_params> = 24;
template <> inline constexpr uint32_t kFirstBytes<skv_step_result> = 32;
template <> inline constexpr uint32_t kFirstBytes<skv_session_usage> = 904;
template <> inline constexpr uint32_t kFirstBytes<skv_budget> = 848;
template <> inline constexpr uint32_t kFirstBytes<skv_budget_plan_io> = 72;

template <class T>
uint32_t checked_size(uint32_t size, const char* name) {
  static_assert(kFirstBytes<T> > 0 && kFirstBytes<T> <= sizeof(T) && sizeof(T) <= kMaxStructBytes);
  if (size < kFirstBytes<T> || size > kMaxStructBytes) {
    fail(SKV_E_STRUCT, "%s: struct_size is %u; %u to %u are allowed", name, size, kFirstBytes<T>, kMaxStructBytes);
  }
  return size;
}

// ours = theirs as far as both know it.
template <class T>
void copy_in(const void* theirs, uint32_t size, T* ours, const char* name) {
  std::memcpy(static_cast<void*>(ours), theirs, std::min<std::size_t>(size, sizeof(T)));
  const char* bytes = static_cast<const char*>(theirs);
  for (std::size_t i = sizeof(T); i < size; ++i) {
    if (bytes[i] != 0) fail(SKV_E_STRUCT, "%s: byte %zu is set, which this version does not know", name, i);
  }
}

// theirs = ours as far as both know it; 0 in what only theirs has.
template <class T>
void copy_out(const T& ours, void* theirs, uint32_t size) {
  const std::size_t common = std::min<std::size_t>(size, sizeof(T));
  std::memcpy(theirs, &ours, common);
  std::memset(static_cast<char*>(theirs) + common, 0, size - common);
}

template <class T>
T* not_null(T* p, const char* name) {
  if (p == nullptr) fail(SKV_E_INVALID, "%s is NULL", name);
  return p;
}

// An input struct on top of its defaults.
template <class T>
T read_struct(const T* theirs, const T& defaults, const char* name) {
  T ours = defaults;
  if (theirs == nullptr) return ours;
  copy_in(theirs, checked_size<T>(theirs->struct_size, name), &ours, name);
  ours.struct_size = sizeof(T);
  return ours;
}

// An output struct: checked before the work, written after it.
template <class T>
class OutStruct {
 public:
  OutStruct(T* theirs, const char* name)
      : theirs_(not_null(theirs, name)), size_(checked_size<T>(theirs->struct_size, name)) {}
  T* operator->() { return &ours; }
  void write() {
    ours.struct_size = size_;
    copy_out(ours, theirs_, size_);
  }

  T ours{};

 private:
  T* theirs_;
  uint32_t size_;
};

template <class T>
void write_defaults(T* params, uint32_t size, T defaults, const char* name) {
  not_null(params, name);
  defaults.struct_size = checked_size<T>(size, name);
  copy_out(defaults, params, size);
}

// An array of structs at the caller's stride.
template <class T>
std::vector<T> read_array(const T* theirs, int64_t n, uint32_t stride, const char* name) {
  checked_size<T>(stride, name);
  if (n > 0) not_null(theirs, name);
  std::vector<T> ours(static_cast<std::size_t>(n));
  const char* bytes = reinterpret_cast<const char*>(theirs);
  for (std::size_t i = 0; i < ours.size(); ++i) copy_in(bytes + i * stride, stride, &ours[i], name);
  return ours;
}

inline void check_reserved(int32_t value, const char* name) {
  if (value != 0) fail(SKV_E_INVALID, "%s is %d; it must be 0", name, value);
}

inline bool read_flag(int32_t value, const char* name) {
  if (value != 0 && value != 1) fail(SKV_E_INVALID, "%s is %d; 0 and 1 are allowed", name, value);
  return value == 1;
}

// Element count of a caller's array that may be NULL only when empty.
inline std::size_t checked_count(const void* array, int64_t n, const char* array_name, const char* count_name) {
  if (n < 0) fail(SKV_E_INVALID, "%s is %lld; it cannot be negative", count_name, static_cast<long long>(n));
  if (n > 0) not_null(array, array_name);
  return static_cast<std::size_t>(n);
}

}  // namespace skv::api
