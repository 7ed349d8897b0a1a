// Promises of lib/device/module_loader.h: whatever is found in the module's place, there is a reason in one line and
// everything else works.
#include "lib/device/module_loader.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "lib/base/status.h"
#include "lib/engine/runtime.h"

namespace skv::device {
namespace {

namespace fs = std::filesystem;

const fs::path kModules = SKV_FAKE_MODULES;  // the folder

std::string module(const char* name) { return kModules / (std::string("libdevice_fake_") + name + ".so"); }

std::string temporary(const char* name) {
  return fs::path(testing::TempDir()) / ("skv_" + std::to_string(getpid()) + name + ".so");
}

std::string missing(const std::string& path) {
  const CudaDevices found = cuda_devices(path.c_str());
  EXPECT_TRUE(found.devices.empty());
  EXPECT_EQ(found.missing.find('\n'), std::string::npos);
  return found.missing;
}

std::string ours() { return std::string("; this is ") + library_version() + " (" + build_id() + ")"; }

class ModuleLoader : public ::testing::Test {
 protected:
  void SetUp() override { unsetenv("SHADOWKV_CUDA"); }
  void TearDown() override { unsetenv("SHADOWKV_CUDA"); }
};

TEST_F(ModuleLoader, NoFile) {
  EXPECT_EQ(missing("/nowhere/libshadowkv_cuda.so"),
            "/nowhere/libshadowkv_cuda.so: cannot open shared object file: No such file or directory");
}

TEST_F(ModuleLoader, NoLibrary) {
  const std::string file = temporary("no_library");
  std::ofstream(file) << "text";
  EXPECT_EQ(missing(file), file + ": file too short");
  fs::remove(file);
}

TEST_F(ModuleLoader, AnotherLibrary) {
  EXPECT_EQ(missing(module("other")),
            module("other") + ": it is no CUDA module of this version: it lacks skv_cuda_module_1");
}

TEST_F(ModuleLoader, AModuleOfAnotherVersion) {
  EXPECT_EQ(missing(module("refuses")), module("refuses") + ": it was built for libshadowkv 9.9.9 (feed)" + ours());
  EXPECT_EQ(missing(module("accepts_all")), module("accepts_all") + ": it was built for libshadowkv " +
                                                library_version() + " (other, gcc 3)" + ours());
}

TEST_F(ModuleLoader, NoDriverAndNoGpu) {
  EXPECT_EQ(missing(module("no_driver")), "the NVIDIA driver serves CUDA 11.4; 13.0 is needed");
  EXPECT_EQ(missing(module("no_gpu")), "there is no GPU");
}

TEST_F(ModuleLoader, WhatTheModuleNeedsIsNotThere) {
  EXPECT_EQ(missing(module("needs_more")),
            "libskv_absent.so.9: cannot open shared object file: No such file or directory");
}

TEST_F(ModuleLoader, DevicesThatServeAreTakenAndOthersNamed) {
  const CudaDevices found = cuda_devices(module("devices").c_str());
  EXPECT_EQ(found.missing,
            "CUDA device 0 (Old) has compute capability 7.5; 8.0 is needed; "
            "CUDA device 2 (Taken) could not be opened; CUDA device 3 gives no answer");
  ASSERT_EQ(found.devices.size(), 1u);
  const Device& device = found.devices[0];
  EXPECT_EQ(device.kind, SKV_DEVICE_CUDA);
  EXPECT_EQ(device.name, "cuda: Good, compute capability 8.0");
  EXPECT_EQ(device.total_bytes[SKV_TIER_FAST], 80000);
  MemoryAccount account;
  account.set_source(device.memory);
  const Buffer buffer(account, SKV_TIER_FAST, SKV_PURPOSE_OTHER, 1000);
  EXPECT_NE(buffer.data(), nullptr);
  try {
    device.make_queue(account);
    ADD_FAILURE() << "the fake has no queues";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), SKV_E_NOMEM);
  }
}

TEST_F(ModuleLoader, TurnedOff) {
  setenv("SHADOWKV_CUDA", "0", 1);
  EXPECT_EQ(missing(module("devices")), "turned off by SHADOWKV_CUDA=0");
  setenv("SHADOWKV_CUDA", "1", 1);
  EXPECT_EQ(cuda_devices(module("devices").c_str()).devices.size(), 1u);
}

TEST_F(ModuleLoader, ARuntimeWithoutCudaSaysWhy) {
  setenv("SHADOWKV_CUDA", "0", 1);
  skv_runtime_params params{sizeof(skv_runtime_params), 1, 1, SKV_LOG_INFO, nullptr, nullptr};
  std::string log;
  params.log = [](void* user, skv_log_level level, const char* line) {
    EXPECT_EQ(level, SKV_LOG_INFO);
    *static_cast<std::string*>(user) += std::string(line) + "\n";
  };
  params.log_user = &log;
  const engine::Runtime runtime(params);
  EXPECT_EQ(runtime.device_count(), 1);
  EXPECT_EQ(runtime.device(0).kind, SKV_DEVICE_CPU);
  EXPECT_EQ(runtime.account(0).source(), nullptr);
  EXPECT_EQ(log.rfind("no CUDA devices: turned off by SHADOWKV_CUDA=0\ndevice 0: cpu: ", 0), 0u) << log;
  try {
    runtime.device(1);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), SKV_E_NO_DEVICE);
    EXPECT_STREQ(error.what(), "device is 1; 0 to 0 are there; no CUDA devices: turned off by SHADOWKV_CUDA=0");
  }
}

// Where the libraries look by themselves: without a driver that is the reason, whatever else is missing.
TEST_F(ModuleLoader, TheUsualPlaces) {
  const CudaDevices found = cuda_devices();
  if (void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {
    dlclose(driver);
    EXPECT_FALSE(found.devices.empty() && found.missing.empty());
  } else {
    EXPECT_TRUE(found.devices.empty());
    EXPECT_EQ(found.missing.rfind("there is no NVIDIA driver (libcuda.so.1: ", 0), 0u) << found.missing;
  }
}

#ifdef SKV_CUDA_MODULE
// The real one, on a machine that may have no GPU.
TEST_F(ModuleLoader, TheModuleOfThisBuild) {
  const CudaDevices found = cuda_devices(SKV_CUDA_MODULE);
  if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) == nullptr) {
    EXPECT_TRUE(found.devices.empty());
    EXPECT_EQ(found.missing, "there is no NVIDIA driver");
  } else {
    EXPECT_EQ(found.missing.find(SKV_CUDA_MODULE), std::string::npos) << found.missing;  // it was not refused
  }
}
#endif

}  // namespace
}  // namespace skv::device
