#include <algorithm>

#include "lib/api/boxes.h"
#include "lib/api/guard.h"
#include "lib/api/struct_io.h"

using namespace skv;
using namespace skv::api;

namespace {

skv_runtime_params default_params() {
  return {sizeof(skv_runtime_params), 0, 1, SKV_LOG_WARN, nullptr, nullptr};
}

void fill_device_info(const engine::Runtime& runtime, int32_t index, skv_device_info* info) {
  const device::Device& device = runtime.device(index);
  const MemoryAccount& account = runtime.account(index);
  info->kind = device.kind;
  device.name.copy(info->name, sizeof info->name - 1);
  std::fill_n(info->limit_bytes, SKV_TIER_SLOTS, SKV_UNLIMITED);
  for (skv_tier tier = 0; tier < SKV_TIER_COUNT; ++tier) {
    info->total_bytes[tier] = device.total_bytes[tier];
    info->limit_bytes[tier] = account.limit(tier);
    info->used_bytes[tier] = account.used(tier);
    info->peak_bytes[tier] = account.peak(tier);
  }
}

}  // namespace

skv_status skv_runtime_params_init(skv_runtime_params* params, uint32_t struct_size) {
  return guarded(nullptr, [&] { write_defaults(params, struct_size, default_params(), "params"); });
}

skv_status skv_runtime_create(const skv_runtime_params* params, skv_runtime** runtime_out, skv_error* err) {
  return guarded(err, [&] {
    *not_null(runtime_out, "runtime_out") = nullptr;
    const skv_runtime_params ours = read_struct(params, default_params(), "params");
    auto box = std::make_unique<RuntimeBox>();
    box->runtime = std::make_shared<engine::Runtime>(ours);
    *runtime_out = make_handle(std::move(box));
  });
}

void skv_runtime_destroy(skv_runtime* runtime) { drop_handle<RuntimeBox>(runtime); }

skv_status skv_runtime_device_count(skv_runtime* runtime, int32_t* count_out, skv_error* err) {
  return guarded(err, [&] {
    const Pin<RuntimeBox> box(runtime);
    *not_null(count_out, "count_out") = box->runtime->device_count();
  });
}

skv_status skv_runtime_device_info(skv_runtime* runtime, int32_t device, skv_device_info* info, skv_error* err) {
  return guarded(err, [&] {
    const Pin<RuntimeBox> box(runtime);
    OutStruct<skv_device_info> out(info, "info");
    fill_device_info(*box->runtime, device, &out.ours);
    out.write();
  });
}

skv_status skv_runtime_set_limit(skv_runtime* runtime, int32_t device, skv_tier tier, uint64_t bytes, skv_error* err) {
  return guarded(err, [&] {
    const Pin<RuntimeBox> box(runtime);
    MemoryAccount& account = box->runtime->account(device);
    if (tier < 0 || tier >= SKV_TIER_COUNT) {
      fail(SKV_E_INVALID, "tier is %d; 0 to %d are allowed", tier, SKV_TIER_COUNT - 1);
    }
    account.set_limit(tier, bytes);
  });
}
