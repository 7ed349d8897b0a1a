// Modules that are found where libshadowkv_cuda.so should be. SKV_FAKE_MODULE says which.
#include <cstdio>
#include <cstring>

#include "tests/unit/fake_backend.h"

#define SKV_FAKE_OTHER 0       // some other library
#define SKV_FAKE_REFUSES 1     // knows that it does not fit
#define SKV_FAKE_ACCEPTS_ALL 2 // does not fit and does not notice
#define SKV_FAKE_NO_DRIVER 3
#define SKV_FAKE_NO_GPU 4
#define SKV_FAKE_DEVICES 5     // one too old, one that serves, one that cannot be opened, one that gives no answer
#define SKV_FAKE_NEEDS_MORE 6  // a library that is not there

#if SKV_FAKE_MODULE == SKV_FAKE_NEEDS_MORE
extern "C" int skv_absent();
#endif

namespace skv {
namespace {

using namespace device;

[[maybe_unused]] int32_t device_count(char reason[kModuleTextBytes]) noexcept {
  if (SKV_FAKE_MODULE == SKV_FAKE_NO_DRIVER) {
    std::snprintf(reason, kModuleTextBytes, "the NVIDIA driver serves CUDA 11.4; 13.0 is needed");
    return -1;
  }
  return SKV_FAKE_MODULE == SKV_FAKE_DEVICES ? 4 : 0;
}

[[maybe_unused]] bool describe_device(int32_t index, ModuleDevice* device) noexcept {
  static const ModuleDevice devices[] = {{"Old", 7, 5, 16000}, {"Good", 8, 0, 80000}, {"Taken", 9, 0, 80000}};
  if (index >= 3) return false;
  *device = devices[index];
  return true;
}

test::FakeDevice fake;

[[maybe_unused]] Backend* open_device(int32_t index) noexcept {
  return index == 1 ? new test::FakeBackend(fake, nullptr) : nullptr;
}

}  // namespace
}  // namespace skv

#if SKV_FAKE_MODULE != SKV_FAKE_OTHER
extern "C" __attribute__((visibility("default"))) int32_t skv_cuda_module_1(
    const skv::device::ModuleRequest*, [[maybe_unused]] skv::device::ModuleTable* table) {
  using namespace skv;
#if SKV_FAKE_MODULE == SKV_FAKE_NEEDS_MORE
  return skv_absent();
#elif SKV_FAKE_MODULE == SKV_FAKE_REFUSES
  std::snprintf(table->refusal, sizeof table->refusal, "it was built for libshadowkv 9.9.9 (feed)");
  return 1;
#else
  const bool fits = SKV_FAKE_MODULE != SKV_FAKE_ACCEPTS_ALL;
  *table = {sizeof(device::ModuleTable), "", device::library_version(), fits ? device::build_id() : "other, gcc 3",
            device_count, describe_device, open_device};
  return 0;
#endif
}
#endif
