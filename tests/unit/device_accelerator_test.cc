// Promises of lib/device/accelerator.h and of Queue on an accelerator: limits count what is handed out, memory in use
// by unfinished work is not handed out again, and what fails leaves everything as it was.
#include "lib/device/accelerator.h"

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lib/base/status.h"
#include "lib/device/device.h"
#include "lib/device/module_loader.h"
#include "tests/unit/error_of.h"
#include "tests/unit/fake_backend.h"

namespace skv::device {
namespace {

using test::error_of;

constexpr int64_t kMiB = 1 << 20;

class AcceleratorTest : public ::testing::Test {
 protected:
  AcceleratorTest() {
    device_ = cuda_device(std::make_unique<test::FakeBackend>(fake_, &kernels::cpu_ops()),
                          {"fake", 9, 0, int64_t{80} << 30});
    account_.set_source(device_.memory);
  }
  void TearDown() override {
    queue_.reset();
    EXPECT_EQ(account_.used(SKV_TIER_FAST), 0);
    EXPECT_EQ(account_.used(SKV_TIER_SLOW), 0);
    device_.memory = nullptr;
    device_.accelerator.reset();
    for (const int tier : {SKV_TIER_FAST, SKV_TIER_SLOW}) EXPECT_EQ(fake_.held(tier), 0);
    EXPECT_EQ(fake_.queues, 0);
  }
  Buffer buffer(skv_tier tier, int64_t bytes) { return Buffer(account_, tier, SKV_PURPOSE_OTHER, bytes); }
  Accelerator& accelerator() { return *device_.accelerator; }

  test::FakeDevice fake_;
  Device device_;
  MemoryAccount account_;
  std::unique_ptr<Queue> queue_;
};

TEST_F(AcceleratorTest, DescribesItself) {
  EXPECT_EQ(device_.kind, SKV_DEVICE_CUDA);
  EXPECT_EQ(device_.name, "cuda: fake, compute capability 9.0");
  EXPECT_EQ(device_.total_bytes[SKV_TIER_FAST], int64_t{80} << 30);
  EXPECT_EQ(device_.total_bytes[SKV_TIER_SLOW], physical_bytes());
  EXPECT_EQ(device_.work_tier, SKV_TIER_FAST);
}

TEST_F(AcceleratorTest, TiersHaveTheirOwnBlocksAndTheHostTierHasNone) {
  const Buffer fast = buffer(SKV_TIER_FAST, 100), slow = buffer(SKV_TIER_SLOW, 100);
  const Buffer host = buffer(SKV_TIER_HOST, kMiB);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(fast.data()) % 256, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(slow.data()) % 64, 0u);
  EXPECT_EQ(account_.used(SKV_TIER_FAST), 128);  // what was asked for, not what is held
  EXPECT_EQ(account_.used(SKV_TIER_HOST), kMiB);
  for (const skv_tier tier : {SKV_TIER_FAST, SKV_TIER_SLOW}) {
    EXPECT_EQ(accelerator().held_bytes(tier), kBlockBytes);
    EXPECT_EQ(fake_.held(tier), kBlockBytes);
    EXPECT_GE(accelerator().peak_slack_bytes(tier), kBlockBytes - 256);
  }
}

TEST_F(AcceleratorTest, RefusedMemoryIsAStatusAndRefundsTheCharge) {
  fake_.block_limit = kBlockBytes;
  const Buffer kept = buffer(SKV_TIER_FAST, 10 * kMiB);
  const Error error = error_of([&] { buffer(SKV_TIER_FAST, kBlockBytes); });
  EXPECT_EQ(error.code(), SKV_E_NOMEM);
  EXPECT_STREQ(error.what(), "fast tier: the device refused 67108864 bytes");
  EXPECT_EQ(account_.used(SKV_TIER_FAST), 10 * kMiB);
  EXPECT_NE(buffer(SKV_TIER_FAST, 10 * kMiB).data(), nullptr);
}

TEST_F(AcceleratorTest, ALostDeviceSaysSoEverywhere) {
  queue_ = device_.make_queue(account_);
  const Buffer kept = buffer(SKV_TIER_FAST, 100);
  fake_.failure = "CUDA device 0 (fake) is lost";
  const auto lost = [](const Error& error) {
    EXPECT_EQ(error.code(), SKV_E_DEVICE_LOST);
    EXPECT_STREQ(error.what(), "CUDA device 0 (fake) is lost");
  };
  const int64_t used = account_.used(SKV_TIER_FAST);
  lost(error_of([&] { buffer(SKV_TIER_FAST, 100); }));
  lost(error_of([&] { buffer(SKV_TIER_SLOW, 100); }));
  lost(error_of([&] { device_.make_queue(account_); }));
  EXPECT_EQ(account_.used(SKV_TIER_FAST), used);
  EXPECT_NE(buffer(SKV_TIER_HOST, 100).data(), nullptr);
}

TEST_F(AcceleratorTest, QueuesChargeWhatTheySaidTheyWould) {
  queue_ = device_.make_queue(account_, 4 * kMiB);
  const auto bytes = device_.queue_bytes(4 * kMiB);
  for (const skv_tier tier : {SKV_TIER_FAST, SKV_TIER_SLOW, SKV_TIER_HOST}) {
    EXPECT_EQ(account_.used(tier), bytes[static_cast<std::size_t>(tier)]);
    EXPECT_EQ(account_.used(tier, SKV_PURPOSE_WORKSPACE), bytes[static_cast<std::size_t>(tier)]);
  }
  EXPECT_EQ(bytes[SKV_TIER_FAST], 4 * kMiB + test::FakeBackend::kLibraryBytes);
  queue_->check();
  queue_.reset();
  EXPECT_EQ(account_.used(SKV_TIER_FAST), 0);

  fake_.refuse_queues = true;
  EXPECT_EQ(error_of([&] { device_.make_queue(account_, 4 * kMiB); }).code(), SKV_E_NOMEM);
  EXPECT_EQ(account_.used(SKV_TIER_FAST), 0);
  fake_.refuse_queues = false;
  account_.set_limit(SKV_TIER_FAST, static_cast<uint64_t>(bytes[SKV_TIER_FAST] - 1));
  EXPECT_EQ(error_of([&] { device_.make_queue(account_, 4 * kMiB); }).code(), SKV_E_BUDGET);
  EXPECT_EQ(account_.used(SKV_TIER_FAST), 0);
  EXPECT_EQ(account_.used(SKV_TIER_SLOW), 0);
}

TEST_F(AcceleratorTest, TheCpusQueueTakesNothing) {
  const Device cpu = cpu_device(1);
  MemoryAccount account;
  const auto queue = cpu.make_queue(account);
  EXPECT_EQ(&queue->ops(), &kernels::cpu_ops());
  queue->check();
  for (const skv_tier tier : {SKV_TIER_FAST, SKV_TIER_SLOW, SKV_TIER_HOST}) {
    EXPECT_EQ(account.used(tier), 0);
    EXPECT_EQ(cpu.queue_bytes()[static_cast<std::size_t>(tier)], 0);
  }
  EXPECT_EQ(cpu.work_tier, SKV_TIER_HOST);
  EXPECT_EQ(cpu.memory, nullptr);
}

TEST_F(AcceleratorTest, MemoryOfUnfinishedWorkIsNotHandedOutAgain) {
  queue_ = device_.make_queue(account_, 4 * kMiB);
  Buffer a = buffer(SKV_TIER_FAST, kMiB);
  Buffer b = buffer(SKV_TIER_FAST, kMiB);
  void* const at = a.data();
  fake_.issued = 5;
  fake_.done = 4;
  a.reset();
  EXPECT_EQ(account_.used(SKV_TIER_FAST), kMiB + 4 * kMiB + test::FakeBackend::kLibraryBytes);
  Buffer c = buffer(SKV_TIER_FAST, kMiB);
  EXPECT_NE(c.data(), at);
  fake_.issued = 7;  // later work does not matter
  fake_.done = 5;
  Buffer d = buffer(SKV_TIER_FAST, kMiB);
  EXPECT_EQ(d.data(), at);
  EXPECT_EQ(fake_.waits, 0);
}

TEST_F(AcceleratorTest, ItRatherWaitsThanHoldsMore) {
  fake_.block_limit = kBlockBytes;
  queue_ = device_.make_queue(account_, 4 * kMiB);
  Buffer a = buffer(SKV_TIER_FAST, 50 * kMiB);
  void* const at = a.data();
  fake_.issued = 1;
  a.reset();
  EXPECT_EQ(buffer(SKV_TIER_FAST, 50 * kMiB).data(), at);
  EXPECT_EQ(fake_.waits, 1);
  EXPECT_EQ(fake_.held(SKV_TIER_FAST), kBlockBytes);
}

TEST_F(AcceleratorTest, AQueueThatIsGoneHoldsNothingBack) {
  auto other = device_.make_queue(account_, 4 * kMiB);
  queue_ = device_.make_queue(account_, 4 * kMiB);
  Buffer a = buffer(SKV_TIER_SLOW, kMiB);
  void* const at = a.data();
  fake_.issued = 3;
  a.reset();
  other.reset();
  EXPECT_NE(buffer(SKV_TIER_SLOW, kMiB).data(), at);  // one is left whose work is not done
  EXPECT_EQ(accelerator().held_bytes(SKV_TIER_SLOW), kBlockBytes);
  queue_.reset();
  EXPECT_EQ(accelerator().held_bytes(SKV_TIER_SLOW), 0);
}

TEST_F(AcceleratorTest, ThreadsShareIt) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      std::minstd_rand random(static_cast<unsigned>(t + 1));
      const auto queue = device_.make_queue(account_, 64 * 1024);
      std::vector<Buffer> held;
      for (int i = 0; i < 2000; ++i) {
        ++fake_.issued;
        if (!held.empty() && random() % 2 == 0) {
          std::swap(held[random() % held.size()], held.back());
          held.pop_back();
        } else {
          const skv_tier tier = random() % 2 == 0 ? SKV_TIER_FAST : SKV_TIER_SLOW;
          held.push_back(buffer(tier, static_cast<int64_t>(random() % 100000)));
          if (held.back()) std::memset(held.back().data(), t, static_cast<std::size_t>(held.back().bytes()));
        }
        if (random() % 8 == 0) fake_.done = fake_.issued.load();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace skv::device
