// What one skv_runtime owns: dispatcher threads, log, devices, and the root memory account of each device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/base/executor.h"
#include "lib/base/log.h"
#include "lib/base/memory.h"
#include "lib/device/device.h"
#include "shadowkv/runtime.h"

namespace skv::engine {

class Runtime {
 public:
  explicit Runtime(const skv_runtime_params& params);

  Executor& executor() { return executor_; }
  int32_t threads() const { return executor_.threads(); }  // of one call
  const LogSink& log() const { return log_; }
  int32_t device_count() const { return static_cast<int32_t>(devices_.size()); }
  // Throws Error(SKV_E_NO_DEVICE); the message says why CUDA devices are missing.
  const device::Device& device(int32_t index) const;
  MemoryAccount& account(int32_t index) const;

 private:
  Executor executor_;
  LogSink log_;
  std::vector<device::Device> devices_;
  std::string missing_;  // see CudaDevices
  std::vector<std::unique_ptr<MemoryAccount>> accounts_;
};

}  // namespace skv::engine
