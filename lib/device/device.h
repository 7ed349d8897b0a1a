// A device: its memory and its queues of work. The only door to kernels/ for lib/kv, lib/model and lib/engine.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/ops.h"
#include "lib/base/memory.h"
#include "shadowkv/runtime.h"

namespace skv::device {

class Accelerator;   // accelerator.h
class BackendQueue;  // backend.h

// Memory in which a queue passes lists of work to a GPU, of each of two kinds; a call may use up to a quarter of it.
inline constexpr int64_t kStagingBytes = int64_t{32} << 20;

// Ops in the order of one stream. One thread at a time. Its account outlives it; its device need not.
class Queue {
 public:
  Queue();  // of the CPU
  // Throws Error(SKV_E_BUDGET), Error(SKV_E_NOMEM) or Error(SKV_E_DEVICE_LOST); nothing is charged then.
  Queue(std::shared_ptr<Accelerator> accelerator, MemoryAccount& account, int64_t staging_bytes);
  ~Queue();  // waits
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  const kernels::Ops& ops() const { return *ops_; }
  // Throws Error(SKV_E_DEVICE_LOST) once ops().failure() says something: results since the last check are worthless.
  void check() const;

 private:
  std::shared_ptr<Accelerator> accelerator_;
  MemoryAccount* account_ = nullptr;
  int64_t library_bytes_ = 0;  // charged for what NVIDIA's libraries hold
  Buffer device_staging_, pinned_staging_;
  std::unique_ptr<BackendQueue> backend_;
  const kernels::Ops* ops_;
};

struct Device {
  skv_device_kind kind = SKV_DEVICE_CPU;
  std::string name;
  int64_t total_bytes[SKV_TIER_COUNT] = {};
  // Where ops find what is neither KV nor bookkeeping: weights, activations, workspaces, data that they write.
  skv_tier work_tier = SKV_TIER_HOST;
  // Behind the fast and slow tier, for the root account of this device; null: host memory.
  MemorySource* memory = nullptr;
  std::shared_ptr<Accelerator> accelerator;  // owns memory; null on the CPU

  std::unique_ptr<Queue> make_queue(MemoryAccount& account, int64_t staging_bytes = kStagingBytes) const;
  // What make_queue() charges, all of it to SKV_PURPOSE_WORKSPACE.
  std::array<int64_t, kTierCount> queue_bytes(int64_t staging_bytes = kStagingBytes) const;
};

// Always there. threads: of one call, for the name only.
Device cpu_device(int threads);
int64_t physical_bytes();  // RAM of this machine

}  // namespace skv::device
