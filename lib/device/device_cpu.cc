// The CPU as a device: Highway kernels, oneDNN where it was built in, one RAM behind all tiers.
#include <unistd.h>

#include <hwy/targets.h>

#include "lib/device/device.h"

namespace skv::device {

namespace {

// Better targets have lower bits.
const char* best_target() {
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets == 0 ? "scalar" : hwy::TargetName(targets & -targets);
}

}  // namespace

int64_t physical_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
  return pages > 0 && page_bytes > 0 ? static_cast<int64_t>(pages) * page_bytes : 0;
}

Device cpu_device(int threads) {
  Device device;
  device.name = "cpu: " + std::to_string(threads) + (threads == 1 ? " thread, " : " threads, ") + best_target();
#if SKV_HAVE_ONEDNN
  device.name += ", onednn";
#endif
  device.name += std::string(", ") + host_allocator_name();
  for (int64_t& bytes : device.total_bytes) bytes = physical_bytes();
  return device;
}

}  // namespace skv::device
