// libshadowkv_cuda.so from outside: which devices the driver has, and the one exported symbol.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>

#include "lib/device/backend.h"
#include "lib/device/cuda_module_device.h"

namespace skv::device {

namespace {

int32_t device_count(char reason[kModuleTextBytes]) noexcept {
  int driver = 0, runtime = 0, count = 0;
  cudaRuntimeGetVersion(&runtime);
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    std::snprintf(reason, kModuleTextBytes, "there is no NVIDIA driver");
    return -1;
  }
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver || driver / 1000 < runtime / 1000) {
    std::snprintf(reason, kModuleTextBytes, "the NVIDIA driver serves CUDA %d.%d; %d.%d is needed", driver / 1000,
                  driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  } else if (error == cudaSuccess || error == cudaErrorNoDevice) {
    return count;
  } else {
    std::snprintf(reason, kModuleTextBytes, "the NVIDIA driver says: %s", cudaGetErrorString(error));
  }
  cudaGetLastError();
  return -1;
}

bool describe_device(int32_t index, ModuleDevice* device) noexcept {
  static cudaDeviceProp properties;  // large
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  std::snprintf(device->name, sizeof device->name, "%.*s", kModuleTextBytes - 1, properties.name);
  device->compute_major = properties.major;
  device->compute_minor = properties.minor;
  device->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  return true;
}

Backend* open_device(int32_t index) noexcept {
  ModuleDevice device;
  if (!describe_device(index, &device)) return nullptr;
  try {
    return new CudaBackend(index, device.name);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

}  // namespace

}  // namespace skv::device

extern "C" __attribute__((visibility("default"))) int32_t skv_cuda_module_1(
    const skv::device::ModuleRequest* request, skv::device::ModuleTable* table) {
  using namespace skv::device;
  table->version = library_version();
  table->build_id = build_id();
  table->refusal[0] = '\0';
  if (request->struct_size != sizeof(ModuleRequest) || request->table_size != sizeof(ModuleTable) ||
      std::strcmp(request->version, library_version()) != 0 || std::strcmp(request->build_id, build_id()) != 0) {
    std::snprintf(table->refusal, sizeof table->refusal, "it was built for libshadowkv %s (%s)", library_version(),
                  build_id());
    return 1;
  }
  table->struct_size = sizeof(ModuleTable);
  table->device_count = device_count;
  table->describe_device = describe_device;
  table->open_device = open_device;
  return 0;
}
