#include "lib/engine/runtime.h"

#include "lib/base/status.h"

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
  devices_.push_back(device::cpu_device(executor_.threads()));
  for (const device::Device& device : devices_) {
    accounts_.push_back(std::make_unique<MemoryAccount>(nullptr, "runtime"));
    skv::log(log_, SKV_LOG_INFO, "device %zu: %s", accounts_.size() - 1, device.name.c_str());
  }
}

const device::Device& Runtime::device(int32_t index) const {
  if (index < 0 || index >= device_count()) {
    fail(SKV_E_NO_DEVICE, "device is %d; 0 to %d are there", index, device_count() - 1);
  }
  return devices_[static_cast<std::size_t>(index)];
}

MemoryAccount& Runtime::account(int32_t index) const {
  device(index);
  return *accounts_[static_cast<std::size_t>(index)];
}

}  // namespace skv::engine
