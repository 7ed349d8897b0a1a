// What libshadowkv.so and a backend module (libshadowkv_cuda.so) say to each other. One compiler builds both from the
// same headers, which the module's entry checks (build_id()), so C++ interfaces may cross; exceptions do not.
#pragma once

#include <cstdint>

#include "kernels/ops.h"
#include "shadowkv/types.h"
#include "shadowkv/version.h"

namespace skv::device {

// A stream. One thread at a time, but for issued() and done().
class BackendQueue {
 public:
  virtual ~BackendQueue() = default;  // waits
  virtual const kernels::Ops& ops() const noexcept = 0;
  // Calls of ops so far, and how many of the first of them are known to have ended.
  virtual uint64_t issued() const noexcept = 0;
  virtual uint64_t done() const noexcept = 0;
};

// One device. Nothing is taken from it before the first block or queue. Thread-safe.
class Backend {
 public:
  virtual ~Backend() = default;
  // Fast tier: device memory; slow: pinned host memory, which the device sees at the same address. Null if refused.
  virtual void* allocate_block(skv_tier tier, int64_t bytes) noexcept = 0;
  virtual void free_block(skv_tier tier, void* block) noexcept = 0;
  // staging: memory of the two kinds for lists of work. Null where refused.
  virtual BackendQueue* make_queue(void* device_staging, void* pinned_staging, int64_t staging_bytes) noexcept = 0;
  // Device memory that a queue takes beside its staging memory.
  virtual int64_t queue_library_bytes() const noexcept = 0;
  // For everything that was queued before.
  virtual void wait() noexcept = 0;
  // Not empty once the device is lost, for good.
  virtual const char* failure() const noexcept = 0;
};

// The one symbol that the CUDA module exports, a ModuleEntry. Its number changes when the structs below do.
inline constexpr char kCudaModuleEntry[] = "skv_cuda_module_1";
inline constexpr int kModuleTextBytes = 192;

struct ModuleRequest {
  uint32_t struct_size;  // sizeof(ModuleRequest)
  uint32_t table_size;   // sizeof(ModuleTable)
  const char* version;   // library_version()
  const char* build_id;  // build_id()
};

struct ModuleDevice {
  char name[kModuleTextBytes];
  int32_t compute_major, compute_minor;
  int64_t memory_bytes;
};

struct ModuleTable {
  uint32_t struct_size;            // sizeof(ModuleTable), by the module
  char refusal[kModuleTextBytes];  // one line where the entry returned other than 0
  const char* version;             // of the module
  const char* build_id;
  // The number of devices; -1 and the reason where the driver cannot say.
  int32_t (*device_count)(char reason[kModuleTextBytes]) noexcept;
  bool (*describe_device)(int32_t index, ModuleDevice* device) noexcept;
  Backend* (*open_device)(int32_t index) noexcept;  // deleted by the caller; null: no memory
};

using ModuleEntry = int32_t(const ModuleRequest* request, ModuleTable* table);

#define SKV_TEXT_OF(x) #x
#define SKV_VERSION_TEXT(major, minor, patch) SKV_TEXT_OF(major) "." SKV_TEXT_OF(minor) "." SKV_TEXT_OF(patch)
inline const char* library_version() {
  return SKV_VERSION_TEXT(SKV_VERSION_MAJOR, SKV_VERSION_MINOR, SKV_VERSION_PATCH);
}
#undef SKV_VERSION_TEXT
#undef SKV_TEXT_OF

// Compiler, and a hash of the headers that both libraries are built from (build_id.py writes the source).
const char* build_id();

}  // namespace skv::device
