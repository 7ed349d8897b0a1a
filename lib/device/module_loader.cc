#include "lib/device/module_loader.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "lib/device/accelerator.h"

namespace skv::device {

namespace {

constexpr char kModuleFile[] = "libshadowkv_cuda.so";
constexpr int kLeastComputeMajor = 8;  // bf16 matrix instructions and cp.async

// The path of the module beside the library (or the program that it is linked into); empty where it is not there.
std::string path_beside() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&path_beside), &info) == 0 || info.dli_fname == nullptr) return "";
  const char* slash = std::strrchr(info.dli_fname, '/');
  if (slash == nullptr) return "";
  std::string path(info.dli_fname, slash + 1);
  path += kModuleFile;
  return access(path.c_str(), F_OK) == 0 ? path : "";
}

std::string last_error() {
  const char* text = dlerror();
  return text != nullptr ? text : "it could not be opened";
}

// Null and the reason.
void* open_module(const char* module_path, std::string* why) {
  // Without a driver it is not worth loading NVIDIA's libraries. Kept open: they need it too.
  if (module_path == nullptr && dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) == nullptr) {
    *why = "there is no NVIDIA driver (" + last_error() + ")";
    return nullptr;
  }
  const std::string path = module_path != nullptr ? module_path : path_beside();
  // Never closed again: it is linked with nodelete, as CUDA's state cannot be unloaded.
  if (void* module = dlopen(path.empty() ? kModuleFile : path.c_str(), RTLD_NOW | RTLD_LOCAL)) return module;
  *why = last_error();
  if (path.empty() && why->starts_with(std::string(kModuleFile) + ": cannot open")) {
    *why = std::string(kModuleFile) + " is neither beside the library nor in the library path";
  }
  return nullptr;
}

// Empty, or why the module is not taken.
std::string ask_module(void* module, ModuleTable* table) {
  const auto entry = reinterpret_cast<ModuleEntry*>(dlsym(module, kCudaModuleEntry));
  if (entry == nullptr) return std::string("it is no CUDA module of this version: it lacks ") + kCudaModuleEntry;
  const std::string ours = std::string("; this is ") + library_version() + " (" + build_id() + ")";
  const ModuleRequest request{sizeof(ModuleRequest), sizeof(ModuleTable), library_version(), build_id()};
  const int32_t refused = entry(&request, table);
  table->refusal[kModuleTextBytes - 1] = '\0';
  if (refused != 0) return table->refusal + ours;
  if (table->struct_size != sizeof(ModuleTable) || table->version == nullptr || table->build_id == nullptr) {
    return "its table is not that of this version";
  }
  if (std::strcmp(table->version, library_version()) != 0 || std::strcmp(table->build_id, build_id()) != 0) {
    return std::string("it was built for libshadowkv ") + table->version + " (" + table->build_id + ")" + ours;
  }
  return "";
}

void add_reason(CudaDevices* found, const std::string& reason) {
  found->missing += (found->missing.empty() ? "" : "; ") + reason;
}

void add_device(const ModuleTable& table, int32_t index, CudaDevices* found) {
  ModuleDevice described{};
  const std::string which = "CUDA device " + std::to_string(index);
  if (!table.describe_device(index, &described)) return add_reason(found, which + " gives no answer");
  described.name[kModuleTextBytes - 1] = '\0';
  if (described.compute_major < kLeastComputeMajor) {
    return add_reason(found, which + " (" + described.name + ") has compute capability " +
                                 std::to_string(described.compute_major) + "." +
                                 std::to_string(described.compute_minor) + "; 8.0 is needed");
  }
  std::unique_ptr<Backend> backend(table.open_device(index));
  if (backend == nullptr) return add_reason(found, which + " (" + described.name + ") could not be opened");
  found->devices.push_back(cuda_device(std::move(backend), described));
}

}  // namespace

Device cuda_device(std::unique_ptr<Backend> backend, const ModuleDevice& described) {
  Device device;
  device.kind = SKV_DEVICE_CUDA;
  device.name = std::string("cuda: ") + described.name + ", compute capability " +
                std::to_string(described.compute_major) + "." + std::to_string(described.compute_minor);
  device.total_bytes[SKV_TIER_FAST] = described.memory_bytes;
  device.total_bytes[SKV_TIER_SLOW] = device.total_bytes[SKV_TIER_HOST] = physical_bytes();
  device.work_tier = SKV_TIER_FAST;
  device.accelerator = std::make_shared<Accelerator>(std::move(backend));
  device.memory = device.accelerator.get();
  return device;
}

CudaDevices cuda_devices(const char* module_path) {
  CudaDevices found;
  const char* wanted = std::getenv("SHADOWKV_CUDA");
  if (wanted != nullptr && std::strcmp(wanted, "0") == 0) {
    found.missing = "turned off by SHADOWKV_CUDA=0";
    return found;
  }
  void* module = open_module(module_path, &found.missing);
  if (module == nullptr) return found;
  ModuleTable table{};
  found.missing = ask_module(module, &table);
  if (!found.missing.empty()) {
    found.missing = std::string(module_path != nullptr ? module_path : kModuleFile) + ": " + found.missing;
    dlclose(module);
    return found;
  }
  char reason[kModuleTextBytes] = {};
  const int32_t n = table.device_count(reason);
  reason[kModuleTextBytes - 1] = '\0';
  if (n <= 0) add_reason(&found, n < 0 ? reason : "there is no GPU");
  for (int32_t index = 0; index < n; ++index) add_device(table, index, &found);
  return found;
}

}  // namespace skv::device
