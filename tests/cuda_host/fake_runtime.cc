// The runtime API over the host's memory, and launches.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/common/cuda/stream.h"
#include "tests/cuda_host/block.h"
#include "tests/cuda_host/crash.h"
#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/device_memory.h"

struct SkvHostStream {};
struct SkvHostEvent {};

namespace skv::cuda_host {

namespace {

std::mutex mutex;
Faults faults;
Usage used;
cudaError_t sticky = cudaSuccess;
thread_local uint64_t seed = 0;
thread_local uint64_t launch_seed = 0;
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t returned(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// Errors of work that ran earlier: every call after it reports them.
cudaError_t state() {
  const std::lock_guard lock(mutex);
  if (faults.devices == 0) return cudaErrorNoDevice;
  return sticky;
}

// One more of something; the fault planted for it becomes sticky.
cudaError_t counted(int64_t Usage::*count, int64_t Faults::*before) {
  const std::lock_guard lock(mutex);
  if (sticky != cudaSuccess) return sticky;
  ++(used.*count);
  if (faults.*before >= 0 && (faults.*before)-- == 0) sticky = static_cast<cudaError_t>(faults.error);
  return sticky;
}

cudaError_t allocate(MemoryKind kind, void** p, std::size_t bytes) {
  *p = nullptr;
  const cudaError_t error = state();
  if (error != cudaSuccess) return error;
  if (bytes == 0) return cudaSuccess;
  const std::lock_guard lock(mutex);
  if (faults.allocations_before_failure >= 0 && faults.allocations_before_failure-- == 0) {
    return cudaErrorMemoryAllocation;
  }
  std::size_t& total = kind == MemoryKind::device ? used.device_bytes : used.pinned_bytes;
  const std::size_t limit = kind == MemoryKind::device ? faults.device_bytes : faults.pinned_bytes;
  if (bytes > limit || total > limit - bytes) return cudaErrorMemoryAllocation;
  *p = allocate_memory(kind, bytes);
  if (*p == nullptr) return cudaErrorMemoryAllocation;
  total += bytes;
  ++used.allocations;
  return cudaSuccess;
}

cudaError_t release(MemoryKind kind, void* p) {
  if (p == nullptr) return state();
  const std::size_t bytes = allocation_bytes(p);
  if (!free_memory(kind, p)) {
    found(kind == MemoryKind::device ? "cudaFree of no allocation" : "cudaFreeHost of no allocation", nullptr);
    return cudaErrorInvalidValue;
  }
  const std::lock_guard lock(mutex);
  (kind == MemoryKind::device ? used.device_bytes : used.pinned_bytes) -= bytes;
  --used.allocations;
  return sticky;
}

bool reachable(const void* p, std::size_t bytes, const char* what) {
  const Located located = locate(p, bytes);
  if (p != nullptr && (located.place == Place::outside || located.place == Place::allocated)) return true;
  const char* why = located.place == Place::freed ? "(freed)" : "(beyond an allocation)";
  found(what, nullptr, p == nullptr ? "(null)" : why);
  return false;
}

std::size_t max_shared() { return faults.compute_major >= 9 ? kMaxShared : std::size_t{163} << 10; }

bool valid_shape(const cuda::Launch& launch) {
  const uint64_t threads = uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  return threads >= 1 && threads <= 1024 && launch.block.z <= 64 && launch.grid.x <= 0x7fffffffu &&
         launch.grid.x > 0 && launch.grid.y > 0 && launch.grid.z > 0 && launch.grid.y <= 65535 &&
         launch.grid.z <= 65535 && launch.shared_bytes <= max_shared();
}

// Blocks in the order of the seed.
bool run_grid(const cuda::Launch& launch, uint64_t order) {
  const uint64_t n = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  std::vector<uint64_t> blocks(n);
  std::iota(blocks.begin(), blocks.end(), uint64_t{0});
  uint64_t random = order;
  for (uint64_t i = n; order >= 2 && i > 1; --i) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    std::swap(blocks[i - 1], blocks[(random >> 33) % i]);
  }
  name_crashes();
  Block block(launch, order);
  for (uint64_t i = 0; i < n; ++i) {
    const uint64_t at = blocks[order == 1 ? n - 1 - i : i];
    const uint3 index{static_cast<unsigned>(at % launch.grid.x),
                      static_cast<unsigned>(at / launch.grid.x % launch.grid.y),
                      static_cast<unsigned>(at / launch.grid.x / launch.grid.y)};
    if (!block.run(index)) return false;
  }
  const std::lock_guard lock(mutex);
  used.blocks += static_cast<int64_t>(n);
  return true;
}

}  // namespace

void set_seed(uint64_t value) {
  seed = value;
  launch_seed = value;
}

void set_faults(const Faults& value) {
  const std::lock_guard lock(mutex);
  faults = value;
  sticky = cudaSuccess;
}

Usage usage() {
  const std::lock_guard lock(mutex);
  return used;
}

bool checks_accesses() {
#if defined(__SANITIZE_ADDRESS__)
  return false;
#else
  return true;
#endif
}

}  // namespace skv::cuda_host

namespace skv::cuda {

cudaError_t launch_kernel(const Launch& launch, cudaStream_t) {
  using namespace cuda_host;
  const cudaError_t error = counted(&Usage::launches, &Faults::launches_before_failure);
  if (error != cudaSuccess) return returned(error);
  if (!valid_shape(launch)) return returned(cudaErrorInvalidConfiguration);
  launch_seed = launch_seed * 6364136223846793005u + 1442695040888963407u;
  const uint64_t order = seed < 2 ? seed : launch_seed | 2u;
  if (run_grid(launch, order)) return cudaSuccess;
  const std::lock_guard lock(mutex);
  sticky = cudaErrorLaunchFailure;
  return returned(sticky);
}

}  // namespace skv::cuda

using namespace skv::cuda_host;

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInitializationError: return "cudaErrorInitializationError";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevicePointer: return "cudaErrorInvalidDevicePointer";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorNoKernelImageForDevice: return "cudaErrorNoKernelImageForDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorUnknown: break;
  }
  return "cudaErrorUnknown";
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    default: return cudaGetErrorName(error);
  }
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = sticky;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = faults.devices;
  return returned(faults.devices == 0 ? cudaErrorNoDevice : cudaSuccess);
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return returned(state());
}
cudaError_t cudaSetDevice(int device) {
  return returned(device < 0 || device >= faults.devices ? cudaErrorInvalidDevice : state());
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (device < 0 || device >= faults.devices) return returned(cudaErrorInvalidDevice);
  *p = {};
  std::snprintf(p->name, sizeof p->name, "host");
  p->uuid.bytes[15] = static_cast<char>(device + 1);
  p->totalGlobalMem = faults.device_bytes;
  p->sharedMemPerBlock = 48 << 10;
  p->sharedMemPerBlockOptin = max_shared();
  p->major = faults.compute_major;
  p->minor = faults.compute_minor;
  p->multiProcessorCount = 4;
  p->warpSize = kLanes;
  p->maxThreadsPerBlock = 1024;
  p->l2CacheSize = 50 << 20;
  p->canMapHostMemory = p->unifiedAddressing = p->managedMemory = 1;
  p->pciBusID = device + 1;
  return returned(state());
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  const cudaError_t error = cudaGetDeviceProperties(&p, device);
  if (error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(max_shared()); return cudaSuccess;
  }
  return returned(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceSynchronize() { return returned(state()); }

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  const std::lock_guard lock(mutex);
  *total_bytes = faults.device_bytes;
  *free_bytes = faults.device_bytes - std::min(faults.device_bytes, used.device_bytes);
  return returned(sticky);
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = faults.driver_version;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return returned(state()); }

cudaError_t cudaMalloc(void** p, std::size_t bytes) { return returned(allocate(MemoryKind::device, p, bytes)); }
cudaError_t cudaFree(void* p) { return returned(release(MemoryKind::device, p)); }
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
  return returned(allocate(MemoryKind::pinned, p, bytes));
}
cudaError_t cudaMallocHost(void** p, std::size_t bytes) { return cudaHostAlloc(p, bytes, cudaHostAllocDefault); }
cudaError_t cudaFreeHost(void* p) { return returned(release(MemoryKind::pinned, p)); }
cudaError_t cudaHostRegister(void*, std::size_t, unsigned) { return returned(state()); }
cudaError_t cudaHostUnregister(void*) { return returned(state()); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  const cudaError_t error = counted(&Usage::copies, &Faults::copies_before_failure);
  if (error != cudaSuccess || bytes == 0) return returned(error);
  if (!reachable(to, bytes, "copy to memory") || !reachable(from, bytes, "copy from memory")) {
    return returned(cudaErrorInvalidValue);
  }
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemsetAsync(void* p, int byte, std::size_t bytes, cudaStream_t) {
  const cudaError_t error = counted(&Usage::copies, &Faults::copies_before_failure);
  if (error != cudaSuccess || bytes == 0) return returned(error);
  if (!reachable(p, bytes, "fill of memory")) return returned(cudaErrorInvalidValue);
  std::memset(p, byte, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* p, int byte, std::size_t bytes) { return cudaMemsetAsync(p, byte, bytes, nullptr); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  if (state() != cudaSuccess) return returned(state());
  *stream = new SkvHostStream;
  const std::lock_guard lock(mutex);
  ++used.streams;
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return returned(cudaErrorInvalidResourceHandle);
  delete stream;
  const std::lock_guard lock(mutex);
  --used.streams;
  return returned(sticky);
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return returned(state()); }
cudaError_t cudaStreamQuery(cudaStream_t) { return returned(state()); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return returned(state()); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = nullptr;
  if (state() != cudaSuccess) return returned(state());
  *event = new SkvHostEvent;
  const std::lock_guard lock(mutex);
  ++used.events;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return returned(cudaErrorInvalidResourceHandle);
  delete event;
  const std::lock_guard lock(mutex);
  --used.events;
  return returned(sticky);
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return returned(state()); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return returned(state()); }
cudaError_t cudaEventQuery(cudaEvent_t) { return returned(state()); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 0.0f;
  return returned(state());
}
}
