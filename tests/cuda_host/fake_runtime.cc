// The runtime API but for streams, copies and graphs: the device, its errors, its memory (the host's).
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <mutex>

#include "tests/cuda_host/block.h"
#include "tests/cuda_host/device_memory.h"
#include "tests/cuda_host/fake_device.h"
#include "tests/cuda_host/fake_streams.h"
#include "tests/cuda_host/findings.h"

namespace skv::cuda_host {

namespace {

std::mutex mutex;
Faults faults;
Usage used;
cudaError_t sticky = cudaSuccess;
thread_local cudaError_t last_error = cudaSuccess;

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
  finish_device();
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

}  // namespace

cudaError_t returned(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t state() {
  const std::lock_guard lock(mutex);
  if (faults.devices == 0) return cudaErrorNoDevice;
  return sticky;
}

void lose_device(cudaError_t error) {
  const std::lock_guard lock(mutex);
  if (sticky == cudaSuccess) sticky = error;
}

cudaError_t counted(int64_t Usage::*count, int64_t Faults::*before) {
  const std::lock_guard lock(mutex);
  if (sticky != cudaSuccess) return sticky;
  ++(used.*count);
  if (faults.*before >= 0 && (faults.*before)-- == 0) sticky = static_cast<cudaError_t>(faults.error);
  return sticky;
}

Faults planted() {
  const std::lock_guard lock(mutex);
  return faults;
}

void add(int64_t Usage::*count, int64_t n) {
  const std::lock_guard lock(mutex);
  used.*count += n;
}

std::size_t max_shared() {
  const std::lock_guard lock(mutex);
  const int major = faults.compute_major, minor = faults.compute_minor;
  if ((major == 8 && minor != 0) || major == 12) return std::size_t{99} << 10;
  return major >= 9 ? kMaxShared : std::size_t{163} << 10;
}

void check_workspace(const void* p, std::size_t bytes) {
  const Located at = locate(p, bytes);
  if (at.place == Place::allocated && at.kind == MemoryKind::device) return;
  found("a workspace that is not device memory from end to end", nullptr);
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
    case cudaErrorDevicesUnavailable: return "cudaErrorDevicesUnavailable";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorNoKernelImageForDevice: return "cudaErrorNoKernelImageForDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorIllegalState: return "cudaErrorIllegalState";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorMisalignedAddress: return "cudaErrorMisalignedAddress";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureIsolation: return "cudaErrorStreamCaptureIsolation";
    case cudaErrorStreamCaptureImplicit: return "cudaErrorStreamCaptureImplicit";
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
    case cudaErrorMisalignedAddress: return "misaligned address";
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
}
