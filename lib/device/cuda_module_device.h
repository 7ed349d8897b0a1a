// A GPU behind backend.h. Part of the CUDA module, not of the library.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "kernels/common/cuda/products.h"
#include "kernels/common/cuda/stream.h"
#include "lib/device/backend.h"

namespace skv::device {

class CudaBackend final : public Backend {
 public:
  CudaBackend(int32_t index, std::string name) : index_(index), name_(std::move(name)) {}

  void* allocate_block(skv_tier tier, int64_t bytes) noexcept override;
  void free_block(skv_tier tier, void* block) noexcept override;
  BackendQueue* make_queue(void* device_staging, void* pinned_staging, int64_t staging_bytes) noexcept override;
  int64_t queue_library_bytes() const noexcept override { return cuda::products_bytes(); }
  void wait() noexcept override;
  const char* failure() const noexcept override { return failure_.load(std::memory_order_acquire); }

  // Makes this device the calling thread's. False once it is lost.
  bool enter() noexcept;
  // After an error: is the device lost, or was only something refused? A lost device gives the error at any call.
  void examine(const char* why) noexcept;

 private:
  void lose(const char* why) noexcept;

  const int32_t index_;
  const std::string name_;
  std::mutex mutex_;
  char text_[kModuleTextBytes + 64] = {};      // written once, before failure_ points to it
  std::atomic<const char*> failure_{""};
};

class CudaQueue final : public BackendQueue {
 public:
  static std::unique_ptr<CudaQueue> make(CudaBackend& backend, const cuda::StagingMemory& staging);
  ~CudaQueue() override;

  const kernels::Ops& ops() const noexcept override { return *ops_; }
  uint64_t issued() const noexcept override { return issued_.load(std::memory_order_acquire); }
  uint64_t done() const noexcept override { return done_.load(std::memory_order_acquire); }

  // For the ops: every call goes through begin(), every wait that ended through ended().
  void begin() noexcept;
  void ended() noexcept { done_.store(issued_.load(std::memory_order_relaxed), std::memory_order_release); }
  void examine() noexcept;
  const char* failure() const noexcept;

 private:
  explicit CudaQueue(CudaBackend& backend);

  CudaBackend& backend_;
  cudaStream_t handle_ = nullptr;
  cuda::Products* products_ = nullptr;
  std::unique_ptr<cuda::Stream> stream_;
  std::unique_ptr<const kernels::Ops> ops_;
  bool examined_ = false;
  std::atomic<uint64_t> issued_{0}, done_{0};
};

}  // namespace skv::device
