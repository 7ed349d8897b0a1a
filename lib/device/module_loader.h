// The CUDA devices of this machine, by the backend module libshadowkv_cuda.so, which is opened only here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/device/backend.h"
#include "lib/device/device.h"

namespace skv::device {

struct CudaDevices {
  std::vector<Device> devices;
  // Not empty: why there are none, or why some are left out. One line.
  std::string missing;
};

// Never throws but for std::bad_alloc. module_path: of the module's file; nullptr: beside the file that holds this
// function, then where the dynamic linker looks. SHADOWKV_CUDA=0 in the environment: no device.
CudaDevices cuda_devices(const char* module_path = nullptr);

// A device as an accelerator of the CUDA module has it: for cuda_devices() and tests.
Device cuda_device(std::unique_ptr<Backend> backend, const ModuleDevice& described);

}  // namespace skv::device
