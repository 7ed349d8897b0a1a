// The ops under test are those of the first CUDA device, through the module that hosts get. Test data lives in pinned host
// memory, which kernels read and write at the same address, so that the tests are the CPU's own.
#include "tests/kernels/tested_ops.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>

#include "lib/base/memory.h"
#include "lib/device/module_loader.h"
#include "tests/gpu/pinned_arena.h"

// Everything that the program allocates, the tests' vectors among it.
void* operator new(std::size_t bytes) {
  if (void* p = skv::test::pinned_arena().take(bytes)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { skv::test::pinned_arena().put(p); }
void operator delete(void* p, std::size_t) noexcept { skv::test::pinned_arena().put(p); }

namespace skv::test {
namespace {

using namespace kernels;  // the types in SKV_KERNEL_OPS

struct Gpu {
  Gpu() {
    device::CudaDevices found = device::cuda_devices();
    if (found.devices.empty()) {
      std::fprintf(stderr, "no CUDA device: %s\n", found.missing.c_str());
      std::exit(2);
    }
    device = std::move(found.devices.front());
    account.set_source(device.memory);
    queue = device.make_queue(account);
  }
  device::Device device;
  MemoryAccount account;
  std::unique_ptr<device::Queue> queue;
};

Gpu& gpu() {
  static Gpu gpu;
  return gpu;
}

class WaitingOps final : public Ops {
 public:
#define SKV_OP_METHOD(name, result, call, ...) \
  result name(__VA_ARGS__) const override { return run([&] { return ops().name call; }); }
  SKV_KERNEL_OPS(SKV_OP_METHOD)
#undef SKV_OP_METHOD

  void begin_record() const override {}
  void end_record() const override {}
  void begin_aside() const override {}
  void end_aside() const override {}
  void join() const override {}
  void copy(void* to, const void* from, int64_t bytes) const override { run([&] { ops().copy(to, from, bytes); }); }
  void fill(void* to, uint8_t byte, int64_t bytes) const override { run([&] { ops().fill(to, byte, bytes); }); }
  void upload(void* to, const void* host, int64_t bytes) const override { run([&] { ops().upload(to, host, bytes); }); }
  void download(void* host, const void* from, int64_t bytes) const override { ops().download(host, from, bytes); }
  void wait() const override { ops().wait(); }
  const char* failure() const override { return ops().failure(); }

 private:
  const Ops& ops() const { return gpu().queue->ops(); }
  template <class Fn>
  auto run(Fn&& fn) const -> decltype(fn()) {
    struct Wait {
      const Ops& ops;
      ~Wait() {
        ops.wait();
        // A lost device stays lost: what follows would only hide where it happened.
        if (*ops.failure() != '\0') {
          std::fprintf(stderr, "device failure: %s\n", ops.failure());
          std::fflush(stderr);
          std::_Exit(3);
        }
      }
    } wait{ops()};
    return fn();
  }
};

}  // namespace

const Ops& tested_ops() {
  static const WaitingOps ops;
  return ops;
}

bool tested_slowly() { return std::getenv("SKV_TEST_SMALL") != nullptr; }

bool tested_rounds_products() { return true; }

void for_each_variant(const std::function<void(const char* name)>& fn) { fn(gpu().device.name.c_str()); }

void show_to_ops(void* pages, std::size_t bytes) {
  gpu();
  const cudaError_t error = cudaHostRegister(pages, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped);
  if (error != cudaSuccess) ADD_FAILURE() << "cudaHostRegister: " << cudaGetErrorString(error);
}

void hide_from_ops(void* pages) noexcept { cudaHostUnregister(pages); }

bool ops_see_all_memory() { return false; }

}  // namespace skv::test
