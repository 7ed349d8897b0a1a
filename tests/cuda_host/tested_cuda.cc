// The tested ops are CUDA's, executed on this host: after each call a failure of the stream or a finding fails the
// test.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/common/cuda/products.h"
#include "kernels/ops_cuda.h"
#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/device_memory.h"
#include "tests/kernels/tested_ops.h"

namespace skv::test {

namespace {

using namespace kernels;  // the types in SKV_KERNEL_OPS

constexpr int64_t kStagingBytes = 16 << 20;

// The one with the least shared memory.
cuda_host::Faults smallest_device() {
  cuda_host::Faults device;
  device.compute_major = 8;
  return device;
}

// Made anew after a failure, which would otherwise fail all that follows.
class Device {
 public:
  Device() {
    void *host = nullptr, *device = nullptr;
    cuda_host::set_faults(smallest_device());
    cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking);
    cudaHostAlloc(&host, kStagingBytes, cudaHostAllocDefault);
    cudaMalloc(&device, kStagingBytes);
    staging_ = {static_cast<char*>(host), static_cast<char*>(device), kStagingBytes};
    products_ = cuda::make_products(handle_);
    stream_ = new cuda::Stream(handle_, staging_, products_);
    ops_ = new CudaOps(*stream_);
  }
  ~Device() {
    delete ops_;
    delete stream_;
    cuda::free_products(products_);
    cudaFreeHost(staging_.host);
    cudaFree(staging_.device);
    cudaStreamDestroy(handle_);
  }
  cuda::Stream& stream() { return *stream_; }
  const Ops& ops() { return *ops_; }

 private:
  cudaStream_t handle_ = nullptr;
  cuda::StagingMemory staging_;
  cuda::Products* products_ = nullptr;
  cuda::Stream* stream_ = nullptr;
  Ops* ops_ = nullptr;
};

// What the host gives of a launch (lists, descriptions) is not the kernel's to read: it goes to the op as a copy that
// kernels may not touch. A view of a view is not followed.
class HostLists {
 public:
  ~HostLists() {
    for (void* p : copies_) cuda_host::free_memory(cuda_host::MemoryKind::host_list, p);
  }
  template <class T>
  std::span<const T> operator()(std::span<const T> list) {
    if constexpr (std::is_trivially_copyable_v<T>) return {copy(list.data(), list.size()), list.size()};
    else return list;
  }
  template <class T>
  const T& operator()(const T& x) {
    if constexpr (std::is_class_v<T> && std::is_trivially_copyable_v<T>) return *copy(&x, 1);
    else return x;
  }

 private:
  template <class T>
  const T* copy(const T* from, std::size_t n) {
    if (n == 0) return from;
    void* p = cuda_host::allocate_memory(cuda_host::MemoryKind::host_list, n * sizeof(T));
    if (p == nullptr) return from;
    std::memcpy(p, static_cast<const void*>(from), n * sizeof(T));
    copies_.push_back(p);
    return static_cast<const T*>(p);
  }
  std::vector<void*> copies_;
};

class CheckedOps final : public Ops {
 public:
  ~CheckedOps() override { delete device_; }

#define SKV_OP_ARGUMENTS(...) __VA_ARGS__
#define SKV_OP_METHOD(name, result, call, ...)                                                          \
  result name(__VA_ARGS__) const override {                                                             \
    return checked<result>(#name, [&](const Ops& ops) {                                                \
      HostLists lists;                                                                                 \
      const auto run = [&](const auto&... given) { return ops.name(lists(given)...); };                \
      return run(SKV_OP_ARGUMENTS call);                                                               \
    });                                                                                                \
  }
  SKV_KERNEL_OPS(SKV_OP_METHOD)
#undef SKV_OP_METHOD
#undef SKV_OP_ARGUMENTS

  void begin_record() const override {}
  void end_record() const override {}
  void begin_aside() const override {}
  void end_aside() const override {}
  void join() const override {}
  void copy(void* to, const void* from, int64_t bytes) const override {
    checked<void>("copy", [&](const Ops& ops) { ops.copy(to, from, bytes); });
  }
  void fill(void* to, uint8_t byte, int64_t bytes) const override {
    checked<void>("fill", [&](const Ops& ops) { ops.fill(to, byte, bytes); });
  }
  void upload(void* to, const void* host, int64_t bytes) const override {
    checked<void>("upload", [&](const Ops& ops) { ops.upload(to, host, bytes); });
  }
  void download(void* host, const void* from, int64_t bytes) const override {
    checked<void>("download", [&](const Ops& ops) { ops.download(host, from, bytes); });
  }
  void wait() const override {
    checked<void>("wait", [](const Ops& ops) { ops.wait(); });
  }
  const char* failure() const override { return device().stream().failure(); }

 private:
  Device& device() const {
    if (device_ == nullptr) device_ = new Device;
    return *device_;
  }
  template <class Result, class Fn>
  Result checked(const char* name, const Fn& fn) const {
    if constexpr (std::is_void_v<Result>) {
      fn(device().ops());
      check(name);
    } else {
      const Result result = fn(device().ops());
      check(name);
      return result;
    }
  }
  void check(const char* name) const {
    device().stream().wait();
    const std::string findings = cuda_host::take_findings(), failure = device().stream().failure();
    if (!findings.empty()) ADD_FAILURE() << name << ": " << findings;
    if (failure.empty()) return;
    ADD_FAILURE() << name << ": " << failure;
    delete device_;
    device_ = nullptr;
    cuda_host::set_faults(smallest_device());  // no longer failed
  }

  mutable Device* device_ = nullptr;
};

}  // namespace

const kernels::Ops& tested_ops() {
  static const CheckedOps ops;
  return ops;
}

bool tested_slowly() { return true; }

bool tested_rounds_products() { return true; }

void show_to_ops(void*, std::size_t) {}

bool ops_see_all_memory() { return true; }

void hide_from_ops(void*) noexcept {}

// Ascending and descending order and six random ones; SKV_CUDA_SEEDS=n takes other counts.
void for_each_variant(const std::function<void(const char* name)>& fn) {
  const char* count = std::getenv("SKV_CUDA_SEEDS");
  const uint64_t seeds = count == nullptr ? 8 : std::strtoull(count, nullptr, 0);
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    cuda_host::set_seed(seed);
    // The last on a device of least shared memory (compute capability 8.6, 8.9), where the op serves all shapes there.
    cuda_host::Faults device;
    if (seed + 1 == seeds && std::getenv("SKV_CUDA_SMALL_SHARED")) device.compute_major = 8, device.compute_minor = 9;
    cuda_host::set_faults(device);
    fn(("seed" + std::to_string(seed)).c_str());
    cuda_host::set_faults({});
    if (::testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace skv::test
