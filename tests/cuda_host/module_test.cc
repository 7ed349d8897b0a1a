// The CUDA module's own code over the fake runtime: what its entry says, what it takes and gives back, and what
// failures become. Kernels are tested elsewhere; here one of them is enough.
#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/common/cuda/products.h"
#include "lib/base/status.h"
#include "lib/device/accelerator.h"
#include "lib/device/backend.h"
#include "lib/device/device.h"
#include "lib/device/module_loader.h"
#include "tests/cuda_host/cuda_host.h"
#include "tests/unit/error_of.h"

extern "C" int32_t skv_cuda_module_1(const skv::device::ModuleRequest* request, skv::device::ModuleTable* table);

namespace skv::device {
namespace {

using test::error_of;

constexpr int64_t kStaging = 1 << 20;

ModuleRequest request() { return {sizeof(ModuleRequest), sizeof(ModuleTable), library_version(), build_id()}; }

ModuleTable module_table() {
  ModuleTable table{};
  const ModuleRequest ours = request();
  EXPECT_EQ(skv_cuda_module_1(&ours, &table), 0) << table.refusal;
  return table;
}

class CudaModule : public ::testing::Test {
 protected:
  void SetUp() override {
    cuda_host::set_faults({});
    before_ = cuda_host::usage();
    open();
  }
  void TearDown() override {
    device_ = {};
    cuda_host::set_faults({});
    expect_nothing_taken();
    EXPECT_EQ(cuda_host::take_findings(), "");
  }

  void open() {
    const ModuleTable table = module_table();
    ModuleDevice described{};
    ASSERT_TRUE(table.describe_device(0, &described));
    device_ = cuda_device(std::unique_ptr<Backend>(table.open_device(0)), described);
    account_.set_source(device_.memory);
  }
  void expect_nothing_taken() {
    const cuda_host::Usage now = cuda_host::usage();
    EXPECT_EQ(now.device_bytes, before_.device_bytes);
    EXPECT_EQ(now.pinned_bytes, before_.pinned_bytes);
    EXPECT_EQ(now.allocations, before_.allocations);
    EXPECT_EQ(now.streams, before_.streams);
    EXPECT_EQ(now.events, before_.events);
    for (const skv_tier tier : {SKV_TIER_FAST, SKV_TIER_SLOW, SKV_TIER_HOST}) EXPECT_EQ(account_.used(tier), 0);
  }
  Buffer buffer(skv_tier tier, int64_t bytes) { return Buffer(account_, tier, SKV_PURPOSE_OTHER, bytes); }
  static void plant(int64_t launches, int64_t copies = -1) {
    cuda_host::Faults faults;
    faults.launches_before_failure = launches;
    faults.copies_before_failure = copies;
    cuda_host::set_faults(faults);
  }

  Device device_;
  MemoryAccount account_;
  cuda_host::Usage before_;
};

// A small table of rows, uploaded; three of them fetched by the embed kernel.
class Rows {
 public:
  Rows(MemoryAccount& account, const kernels::Ops& ops)
      : ops_(ops),
        table_(account, SKV_TIER_FAST, SKV_PURPOSE_OTHER, 5 * kColumns * 4),
        ids_(account, SKV_TIER_FAST, SKV_PURPOSE_OTHER, 3 * 4),
        rows_(account, SKV_TIER_FAST, SKV_PURPOSE_OTHER, 3 * kColumns * 4) {
    std::vector<float> host(5 * kColumns);
    std::iota(host.begin(), host.end(), 0.0f);
    ops.upload(table_.data(), host.data(), table_.bytes());
    host.assign(host.size(), -1.0f);  // free at once
    const int32_t ids[] = {4, 0, 2};
    ops.upload(ids_.data(), ids, sizeof ids);
  }
  void fetch() { ops_.embed(table_.data(), DType::f32, kColumns, ids_.as<int32_t>(), 3, rows_.as<float>()); }
  bool right() {
    std::vector<float> host(3 * kColumns);
    ops_.download(host.data(), rows_.data(), rows_.bytes());
    const int32_t ids[] = {4, 0, 2};
    for (int64_t i = 0; i < 3 * kColumns; ++i) {
      const auto want = static_cast<float>(ids[i / kColumns] * kColumns + i % kColumns);
      if (host[static_cast<std::size_t>(i)] != want) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kColumns = 40;
  const kernels::Ops& ops_;
  Buffer table_, ids_, rows_;
};

TEST_F(CudaModule, EntryRefusesWhatDoesNotFit) {
  const auto refused = [](const ModuleRequest& theirs) {
    ModuleTable table{};
    EXPECT_NE(skv_cuda_module_1(&theirs, &table), 0);
    EXPECT_EQ(table.refusal,
              std::string("it was built for libshadowkv ") + library_version() + " (" + build_id() + ")");
    EXPECT_EQ(table.open_device, nullptr);
  };
  ModuleRequest theirs = request();
  theirs.version = "9.9.9";
  refused(theirs);
  theirs = request();
  theirs.build_id = "other";
  refused(theirs);
  theirs = request();
  theirs.struct_size += 8;
  refused(theirs);
  theirs = request();
  theirs.table_size -= 8;
  refused(theirs);
}

TEST_F(CudaModule, DriverAndDevicesAreDescribed) {
  const ModuleTable table = module_table();
  char reason[kModuleTextBytes] = {};
  cuda_host::Faults faults;
  faults.devices = 3;
  faults.compute_major = 8;
  faults.compute_minor = 6;
  cuda_host::set_faults(faults);
  EXPECT_EQ(table.device_count(reason), 3);
  ModuleDevice device{};
  EXPECT_TRUE(table.describe_device(2, &device));
  EXPECT_STREQ(device.name, "host");
  EXPECT_EQ(device.compute_major * 10 + device.compute_minor, 86);
  EXPECT_EQ(device.memory_bytes, int64_t{80} << 30);
  EXPECT_FALSE(table.describe_device(3, &device));
  EXPECT_EQ(table.open_device(3), nullptr);
  faults.devices = 0;
  cuda_host::set_faults(faults);
  EXPECT_EQ(table.device_count(reason), 0);
  faults.driver_version = 12080;
  cuda_host::set_faults(faults);
  EXPECT_EQ(table.device_count(reason), -1);
  EXPECT_STREQ(reason, "the NVIDIA driver serves CUDA 12.8; 13.0 is needed");
  faults.driver_version = 0;
  cuda_host::set_faults(faults);
  EXPECT_EQ(table.device_count(reason), -1);
  EXPECT_STREQ(reason, "there is no NVIDIA driver");
}

TEST_F(CudaModule, AnOpenedDeviceTakesNothing) { expect_nothing_taken(); }

TEST_F(CudaModule, QueuesComputeSideBySide) {
  const auto one = device_.make_queue(account_, kStaging), two = device_.make_queue(account_, kStaging);
  Rows first(account_, one->ops()), second(account_, two->ops());
  for (int i = 0; i < 3; ++i) {
    first.fetch();
    second.fetch();
    EXPECT_TRUE(first.right());
    EXPECT_TRUE(second.right());
  }
  one->check();
  two->check();
}

TEST_F(CudaModule, CopiesFillsAndUploadsOfAnySize) {
  const auto queue = device_.make_queue(account_, kStaging);
  const kernels::Ops& ops = queue->ops();
  std::vector<unsigned char> host(3 * kStaging + 7), back(host.size());
  for (std::size_t i = 0; i < host.size(); ++i) host[i] = static_cast<unsigned char>(i * 131 >> 3);
  const auto n = static_cast<int64_t>(host.size());
  const Buffer fast = buffer(SKV_TIER_FAST, n), slow = buffer(SKV_TIER_SLOW, n);
  ops.upload(fast.data(), host.data(), n);
  ops.copy(slow.data(), fast.data(), n);
  ops.download(back.data(), slow.data(), n);
  EXPECT_EQ(back, host);
  ops.fill(fast.data(), 9, n);
  ops.download(back.data(), fast.data(), n);
  EXPECT_EQ(back, std::vector<unsigned char>(host.size(), 9));
  ops.wait();
  queue->check();
}

TEST_F(CudaModule, OutOfMemoryLeavesEverythingAsBefore) {
  cuda_host::Faults faults;
  faults.device_bytes = static_cast<std::size_t>(kBlockBytes + cuda::products_bytes() + 256);
  cuda_host::set_faults(faults);
  const auto queue = device_.make_queue(account_, kStaging);
  Rows rows(account_, queue->ops());
  const int64_t used = account_.used(SKV_TIER_FAST);
  EXPECT_EQ(error_of([&] { buffer(SKV_TIER_FAST, kBlockBytes); }).code(), SKV_E_NOMEM);
  EXPECT_EQ(error_of([&] { device_.make_queue(account_, kBlockBytes); }).code(), SKV_E_NOMEM);
  EXPECT_EQ(account_.used(SKV_TIER_FAST), used);
  rows.fetch();
  EXPECT_TRUE(rows.right());
  queue->check();
  EXPECT_NE(buffer(SKV_TIER_SLOW, kBlockBytes).data(), nullptr);
}

TEST_F(CudaModule, AnyRefusedAllocationOfANewQueueIsAStatus) {
  int refused = 0;
  for (int64_t n = 0; n < 20; ++n) {
    cuda_host::Faults faults;
    faults.allocations_before_failure = n;
    cuda_host::set_faults(faults);
    std::unique_ptr<Queue> queue;
    try {
      queue = device_.make_queue(account_, kStaging);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), SKV_E_NOMEM) << error.what();
      ++refused;
      expect_nothing_taken();
      continue;
    }
    cuda_host::set_faults({});
    Rows rows(account_, queue->ops());
    rows.fetch();
    EXPECT_TRUE(rows.right());
    break;
  }
  EXPECT_EQ(refused, 4);  // a block of each kind, what the libraries need
}

TEST_F(CudaModule, AStickyErrorLosesTheDeviceForGood) {
  for (const bool in_launch : {true, false}) {
    open();
    const auto queue = device_.make_queue(account_, kStaging), other = device_.make_queue(account_, kStaging);
    Rows rows(account_, queue->ops());
    const Buffer kept = buffer(SKV_TIER_FAST, 100);
    plant(in_launch ? 0 : -1, in_launch ? -1 : 0);
    rows.fetch();
    EXPECT_FALSE(rows.right());
    const std::string why = queue->ops().failure();
    EXPECT_EQ(why, std::string("CUDA device 0 (host) is lost: ") + (in_launch ? "kernel launch" : "download") +
                       ": an illegal memory access was encountered");
    const auto lost = [&](const Error& error) {
      EXPECT_EQ(error.code(), SKV_E_DEVICE_LOST);
      EXPECT_EQ(error.what(), why);
    };
    if (in_launch) cuda_host::set_faults({});  // even if the driver forgot it: what was computed is gone
    rows.fetch();
    lost(error_of([&] { queue->check(); }));
    lost(error_of([&] { other->check(); }));
    lost(error_of([&] { buffer(SKV_TIER_FAST, 100); }));
    lost(error_of([&] { buffer(SKV_TIER_SLOW, kBlockBytes); }));
    lost(error_of([&] { device_.make_queue(account_, kStaging); }));
    EXPECT_NE(buffer(SKV_TIER_HOST, 100).data(), nullptr);
  }
}

TEST_F(CudaModule, ACallThatIsRefusedFailsItsQueueAlone) {
  const auto other = device_.make_queue(account_, kStaging);
  Rows rows(account_, other->ops());
  {
    const auto queue = device_.make_queue(account_, kStaging);
    queue->ops().fill(nullptr, 0, 100);
    EXPECT_NE(cuda_host::take_findings(), "");
    const Error error = error_of([&] { queue->check(); });
    EXPECT_EQ(error.code(), SKV_E_INTERNAL);
    EXPECT_STREQ(error.what(), "fill: cudaErrorInvalidValue");
    rows.fetch();
    EXPECT_TRUE(rows.right());
    EXPECT_NE(buffer(SKV_TIER_FAST, kBlockBytes).data(), nullptr);
  }
  const auto queue = device_.make_queue(account_, kStaging);
  Rows(account_, queue->ops()).fetch();
  queue->check();
  other->check();
}

TEST_F(CudaModule, MemoryOfUnfinishedCallsIsNotHandedOutAgain) {
  const auto queue = device_.make_queue(account_, kStaging);
  Buffer a = buffer(SKV_TIER_FAST, 1000);
  const Buffer b = buffer(SKV_TIER_FAST, 1000);
  void* const at = a.data();
  queue->ops().fill(a.data(), 1, a.bytes());
  a.reset();
  EXPECT_NE(buffer(SKV_TIER_FAST, 1000).data(), at);
  queue->ops().wait();
  EXPECT_EQ(buffer(SKV_TIER_FAST, 1000).data(), at);
}

// What is read then must not be taken for a count or an index that the device gave.
TEST_F(CudaModule, ADownloadOfALostDeviceIsZeros) {
  const auto queue = device_.make_queue(account_, kStaging);
  Rows rows(account_, queue->ops());
  const Buffer from = buffer(SKV_TIER_FAST, 16);
  plant(0);
  rows.fetch();
  unsigned char host[16];
  std::memset(host, 0xff, sizeof host);
  queue->ops().download(host, from.data(), sizeof host);
  for (const unsigned char byte : host) EXPECT_EQ(byte, 0);
  EXPECT_STRNE(queue->ops().failure(), "");
}

// A device cannot be waited for while a product is captured for a graph.
TEST_F(CudaModule, GraphsAreMadeWhileOthersWaitForTheDevice) {
  const auto queue = device_.make_queue(account_, kStaging);
  const kernels::Ops& ops = queue->ops();
  const Buffer x = buffer(SKV_TIER_FAST, 4096), y = buffer(SKV_TIER_FAST, 4096);
  ops.fill(x.data(), 0, x.bytes());
  const std::unique_ptr<Backend> other(module_table().open_device(0));
  std::atomic<bool> stop = false;
  std::thread waiter([&] {
    while (!stop) other->wait();
  });
  const int64_t before = cuda_host::usage().graph_launches;
  constexpr int64_t kSizes = 60;
  for (int64_t m = 1; m <= kSizes; ++m) {
    for (int time = 0; time < 2; ++time) {  // the second becomes a graph
      const kernels::Recording recording(ops);
      for (int i = 0; i < 8; ++i) {
        ops.gemm({DType::f32, 4, 4}, {x.as<float>(), 4, x.data(), nullptr, y.as<float>(), 4, m, false}, nullptr);
      }
    }
  }
  stop = true;
  waiter.join();
  EXPECT_EQ(cuda_host::usage().graph_launches, before + kSizes);
  EXPECT_STREQ(other->failure(), "");
  queue->check();
}

}  // namespace
}  // namespace skv::device
