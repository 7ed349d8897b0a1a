#include "lib/device/cuda_module_device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "kernels/common/cuda/graphs.h"
#include "kernels/ops_cuda.h"

namespace skv::device {

namespace {

using namespace kernels;  // the types in SKV_KERNEL_OPS

// SHADOWKV_CUDA_GRAPHS=0: every kernel of a decode step is launched by itself.
bool wants_graphs() {
  const char* value = std::getenv("SHADOWKV_CUDA_GRAPHS");
  return value == nullptr || std::strcmp(value, "0") != 0;
}

// Every call on the queue's device, counted, and nothing thrown out of the module.
class QueueOps final : public kernels::Ops {
 public:
  QueueOps(CudaQueue& queue, cuda::Stream& stream) : queue_(queue), stream_(stream), ops_(stream) {}

#define SKV_OP_METHOD(name, result, call, ...) \
  result name(__VA_ARGS__) const override { return run([&] { return ops_.name call; }); }
  SKV_KERNEL_OPS(SKV_OP_METHOD)
#undef SKV_OP_METHOD

  void begin_record() const override {
    run([&] { ops_.begin_record(); });
  }
  void end_record() const override {
    run([&] { ops_.end_record(); });
  }
  void begin_aside() const override {
    run([&] { ops_.begin_aside(); });
  }
  void end_aside() const override {
    run([&] { ops_.end_aside(); });
  }
  void join() const override {
    run([&] { ops_.join(); });
  }
  void copy(void* to, const void* from, int64_t bytes) const override {
    run([&] { ops_.copy(to, from, bytes); });
  }
  void fill(void* to, uint8_t byte, int64_t bytes) const override {
    run([&] { ops_.fill(to, byte, bytes); });
  }
  void upload(void* to, const void* host, int64_t bytes) const override {
    run([&] { ops_.upload(to, host, bytes); });
  }
  void download(void* host, const void* from, int64_t bytes) const override {
    run([&] { ops_.download(host, from, bytes); });
    if (!stream_.ok() && bytes > 0) std::memset(host, 0, static_cast<std::size_t>(bytes));
    if (!stream_.has_aside()) queue_.ended();
  }
  void wait() const override {
    run([&] { ops_.wait(); });
    queue_.ended();
  }
  const char* failure() const override { return queue_.failure(); }

 private:
  template <class Fn>
  auto run(Fn&& fn) const noexcept -> decltype(fn()) {
    struct Examine {
      CudaQueue& queue;
      ~Examine() { queue.examine(); }
    } examine{queue_};
    queue_.begin();
    try {
      return fn();
    } catch (...) {
      stream_.fail("launch", "the system refused memory for launch lists");
    }
    return decltype(fn())();
  }

  CudaQueue& queue_;
  cuda::Stream& stream_;
  kernels::CudaOps ops_;
};

}  // namespace

bool CudaBackend::enter() noexcept {
  if (*failure() != '\0') return false;
  const cudaError_t error = cudaSetDevice(index_);
  if (error == cudaSuccess) return true;
  const bool refused = error == cudaErrorMemoryAllocation || error == cudaErrorDevicesUnavailable;
  if (!refused) lose(cudaGetErrorString(error));
  return false;
}

void CudaBackend::lose(const char* why) noexcept {
  const std::lock_guard lock(mutex_);
  if (*failure() != '\0') return;
  std::snprintf(text_, sizeof text_, "CUDA device %d (%s) is lost: %s", index_, name_.c_str(), why);
  failure_.store(text_, std::memory_order_release);
}

void CudaBackend::examine(const char* why) noexcept {
  cudaGetLastError();
  std::size_t free_bytes = 0, total_bytes = 0;
  if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) lose(why);
}

void* CudaBackend::allocate_block(skv_tier tier, int64_t bytes) noexcept {
  if (!enter()) return nullptr;
  void* block = nullptr;
  const auto n = static_cast<std::size_t>(bytes);
  const cudaError_t error =
      tier == SKV_TIER_FAST ? cudaMalloc(&block, n) : cudaHostAlloc(&block, n, cudaHostAllocPortable);
  if (error == cudaSuccess) return block;
  examine(cudaGetErrorString(error));
  return nullptr;
}

void CudaBackend::free_block(skv_tier tier, void* block) noexcept {
  cudaSetDevice(index_);  // a lost device's memory is given back too, as far as that goes
  const cudaError_t error = tier == SKV_TIER_FAST ? cudaFree(block) : cudaFreeHost(block);
  if (error != cudaSuccess) examine(cudaGetErrorString(error));
}

void CudaBackend::wait() noexcept {
  if (!enter()) return;
  const std::lock_guard lock(cuda::capture_mutex());
  const cudaError_t error = cudaDeviceSynchronize();
  if (error != cudaSuccess) examine(cudaGetErrorString(error));
}

BackendQueue* CudaBackend::make_queue(void* device_staging, void* pinned_staging, int64_t staging_bytes) noexcept {
  if (!enter()) return nullptr;
  try {
    return CudaQueue::make(*this, {static_cast<char*>(pinned_staging), static_cast<char*>(device_staging),
                                   staging_bytes}).release();
  } catch (...) {
    return nullptr;
  }
}

CudaQueue::CudaQueue(CudaBackend& backend) : backend_(backend) {}

std::unique_ptr<CudaQueue> CudaQueue::make(CudaBackend& backend, const cuda::StagingMemory& staging) {
  std::unique_ptr<CudaQueue> queue(new CudaQueue(backend));
  const cudaError_t error = cudaStreamCreateWithFlags(&queue->handle_, cudaStreamNonBlocking);
  if (error != cudaSuccess) {
    queue->handle_ = nullptr;
    backend.examine(cudaGetErrorString(error));
    return nullptr;
  }
  queue->products_ = cuda::make_products(queue->handle_);
  if (queue->products_ == nullptr) {
    backend.examine("cuBLAS could not be set up");
    return nullptr;
  }
  queue->stream_ = std::make_unique<cuda::Stream>(queue->handle_, staging, queue->products_, wants_graphs());
  queue->ops_ = std::make_unique<QueueOps>(*queue, *queue->stream_);
  queue->examine();
  return queue->stream_->ok() ? std::move(queue) : nullptr;
}

CudaQueue::~CudaQueue() {
  if (handle_ == nullptr) return;
  backend_.enter();
  // Even after a failure that is not the device's: earlier work may still run.
  cudaStreamSynchronize(handle_);
  ops_.reset();
  stream_.reset();
  if (products_ != nullptr) cuda::free_products(products_);
  cudaStreamDestroy(handle_);
}

void CudaQueue::begin() noexcept {
  issued_.fetch_add(1, std::memory_order_acq_rel);
  if (!backend_.enter()) stream_->fail("device", "it cannot be used");
}

void CudaQueue::examine() noexcept {
  if (stream_->ok() || examined_) return;
  examined_ = true;
  // Nothing more will be launched: from here on what was queued has ended.
  stream_->drain();
  backend_.examine(stream_->failure());
}

const char* CudaQueue::failure() const noexcept {
  return *backend_.failure() != '\0' ? backend_.failure() : stream_->failure();
}

}  // namespace skv::device
