#include "lib/engine/runtime.h"

#include <iterator>
#include <utility>

#include "lib/base/status.h"
#include "lib/device/module_loader.h"

namespace skv::engine {

namespace {

LogSink checked_log(const skv_runtime_params& params) {
  if (params.log_level < SKV_LOG_ERROR || params.log_level > SKV_LOG_DEBUG) {
    fail(SKV_E_INVALID, "log_level is %d; %d to %d are allowed", params.log_level, SKV_LOG_ERROR, SKV_LOG_DEBUG);
  }
  return {params.log, params.log_user, params.log_level};
}

}  // namespace

Runtime::Runtime(const skv_runtime_params& params)
    : executor_(params.threads, params.max_concurrent), log_(checked_log(params)) {
  device::CudaDevices cuda = device::cuda_devices();
  devices_.push_back(device::cpu_device(executor_.threads()));
  devices_.insert(devices_.end(), std::make_move_iterator(cuda.devices.begin()),
                  std::make_move_iterator(cuda.devices.end()));
  if (!cuda.missing.empty()) {
    missing_ = (cuda.devices.empty() ? "no CUDA devices: " : "left out: ") + cuda.missing;
    skv::log(log_, SKV_LOG_INFO, "%s", missing_.c_str());
  }
  for (const device::Device& device : devices_) {
    accounts_.push_back(std::make_unique<MemoryAccount>(nullptr, "runtime"));
    accounts_.back()->set_source(device.memory);
    skv::log(log_, SKV_LOG_INFO, "device %zu: %s", accounts_.size() - 1, device.name.c_str());
  }
}

const device::Device& Runtime::device(int32_t index) const {
  if (index < 0 || index >= device_count()) {
    fail(SKV_E_NO_DEVICE, "device is %d; 0 to %d are there%s%s", index, device_count() - 1,
         missing_.empty() ? "" : "; ", missing_.c_str());
  }
  return devices_[static_cast<std::size_t>(index)];
}

MemoryAccount& Runtime::account(int32_t index) const {
  device(index);
  return *accounts_[static_cast<std::size_t>(index)];
}

}  // namespace skv::engine
