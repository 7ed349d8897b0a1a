// A device: its ops and its memory. The only door to kernels/ for lib/kv, lib/model and lib/engine.
#pragma once

#include <string>

#include "kernels/ops.h"
#include "lib/base/memory.h"
#include "shadowkv/runtime.h"

namespace skv::device {

struct Device {
  skv_device_kind kind;
  std::string name;
  const kernels::Ops* ops;
  int64_t total_bytes[SKV_TIER_COUNT];
};

// Always there. threads: of one call, for the name only.
Device cpu_device(int threads);

}  // namespace skv::device
