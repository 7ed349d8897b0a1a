// Handles of the ABI. A handle is a number that looks like a pointer and is never dereferenced: kind, index and
// generation of a shell in a table. Shells are never freed, so a stale, foreign or garbage value is recognised without
// touching freed memory. Looking up, pinning and closing take no lock and allocate nothing.
//
// A call pins the object behind its handle for as long as it runs. Destroy makes the handle stale at once; the object
// goes when nobody has it pinned.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>

#include "lib/base/status.h"

namespace skv::api {

struct Shell {
  // Generation in the high half; kLive or kClaimed, then the number of pins in the low one. A free shell's is 0.
  std::atomic<uint64_t> state{uint64_t{1} << 32};
  std::atomic<int32_t>* in_use = nullptr;  // shells in use of this one's block
  pid_t pid = 0;  // of the process that made the object: after fork() it is not usable
  void* object = nullptr;
};

enum class Kind : uint8_t { runtime = 1, model = 2, session = 3 };

class ShellTable {
 public:
  constexpr explicit ShellTable(Kind kind) : kind_(kind) {}

  // Throws Error(SKV_E_LIMIT / SKV_E_NOMEM); the object is the table's only on success.
  uintptr_t add(void* object);
  // nullptr if no live object has this handle.
  Shell* pin(uintptr_t handle) noexcept;
  // The object if this was the last pin of a closed shell: the caller deletes it.
  static void* unpin(Shell* shell) noexcept;
  // For callers that cannot delete (signal handlers) or need not (see wait_unpinned).
  static void unpin_only(Shell* shell) noexcept { shell->state.fetch_sub(1, std::memory_order_acq_rel); }
  // Makes the handle stale. nullptr if it already is. The shell stays claimed until take().
  Shell* close(uintptr_t handle) noexcept;
  static bool pinned(const Shell* shell) noexcept;
  static bool forked(const Shell* shell) noexcept;
  // The object of a closed shell that nobody pins; the shell is free then.
  static void* take(Shell* shell) noexcept;

 private:
  static constexpr int kBlocks = 64;
  static constexpr int kPerBlock = 1024;
  struct Block {
    Shell shells[kPerBlock];
    std::atomic<int32_t> in_use{0};  // a hint, to pass by full blocks
  };
  Shell* locate(uintptr_t handle) const noexcept;
  Block* block(int i);
  uintptr_t encode(uint64_t index, uint64_t generation) const noexcept;

  const Kind kind_;
  std::atomic<Block*> blocks_[kBlocks] = {};
};

// A box is what a handle stands for; it names its Handle type, kKind, kName and kWaits (destroy waits for calls).
template <class Box>
ShellTable& table_of() {
  static constinit ShellTable table(Box::kKind);
  return table;
}

// The box behind a handle, kept for the scope. Throws Error(SKV_E_HANDLE), or Error(SKV_E_FORKED) in a child of fork().
template <class Box>
class Pin {
 public:
  explicit Pin(typename Box::Handle* handle) : Pin(handle, std::nothrow) {
    if (shell_ == nullptr) fail(SKV_E_HANDLE, "%s %p is not a live handle", Box::kName, static_cast<void*>(handle));
    if (ShellTable::forked(shell_)) {
      fail(SKV_E_FORKED, "the %s was created before fork(); not usable in the child", Box::kName);
    }
  }
  Pin(typename Box::Handle* handle, std::nothrow_t) noexcept
      : shell_(table_of<Box>().pin(reinterpret_cast<uintptr_t>(handle))) {}
  ~Pin() {
    if (shell_ == nullptr) return;
    if constexpr (Box::kWaits) {
      ShellTable::unpin_only(shell_);
    } else {
      delete static_cast<Box*>(ShellTable::unpin(shell_));
    }
  }
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;

  explicit operator bool() const { return shell_ != nullptr; }
  Box* operator->() const { return static_cast<Box*>(shell_->object); }

 private:
  Shell* shell_;
};

template <class Box>
typename Box::Handle* make_handle(std::unique_ptr<Box> box) {
  const uintptr_t handle = table_of<Box>().add(box.get());
  box.release();
  return reinterpret_cast<typename Box::Handle*>(handle);
}

// For boxes that do not wait: whoever lets go last deletes.
template <class Box>
void drop_handle(typename Box::Handle* handle) noexcept {
  static_assert(!Box::kWaits);
  ShellTable& table = table_of<Box>();
  // The pin makes "nobody has it pinned" a thing that exactly one thread sees.
  Shell* shell = table.pin(reinterpret_cast<uintptr_t>(handle));
  if (shell == nullptr) return;
  table.close(reinterpret_cast<uintptr_t>(handle));
  delete static_cast<Box*>(ShellTable::unpin(shell));
}

}  // namespace skv::api
