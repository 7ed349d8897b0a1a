// The harness can fail: mistakes planted in kernels are found, and their correct twins are clean.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/dtype.h"
#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/device_memory.h"
#include "tests/cuda_host/harness_kernels.h"

namespace skv::test {
namespace {

using cuda_host::allocate_memory;
using cuda_host::free_memory;
using cuda_host::MemoryKind;
using cuda_host::take_findings;

constexpr int kThreads = 64;
constexpr uint64_t kSeeds = 8;

// A stream, and in and out of the planted kernels in device memory.
class Harness : public ::testing::Test {
 protected:
  void SetUp() override {
    cuda_host::set_faults({});
    cuda_host::set_seed(0);
    take_findings();
    cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking);
    in_ = device<uint32_t>(kThreads);
    out_ = device<uint32_t>(kThreads);
    std::vector<uint32_t> values(kThreads);
    for (int i = 0; i < kThreads; ++i) values[static_cast<std::size_t>(i)] = 100u + static_cast<uint32_t>(i);
    cudaMemcpyAsync(in_, values.data(), kThreads * 4, cudaMemcpyDefault, handle_);
  }
  void TearDown() override {
    cuda_host::set_device_memory_only(false);
    cuda_host::set_faults({});
    for (void* p : allocated_) cudaFree(p);
    cudaStreamDestroy(handle_);
    EXPECT_EQ(take_findings(), "");
  }

  template <class T>
  T* device(int n) {
    T* p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, static_cast<std::size_t>(n) * sizeof(T)), cudaSuccess);
    allocated_.push_back(p);
    return p;
  }
  template <class T>
  std::vector<T> host(const T* p, int n) {
    std::vector<T> copy(static_cast<std::size_t>(n));
    EXPECT_EQ(cudaMemcpy(copy.data(), p, copy.size() * sizeof(T), cudaMemcpyDefault), cudaSuccess);
    return copy;
  }

  struct Outcome {
    std::string findings, failure;
    std::vector<uint32_t> out;
  };
  Outcome run(Planted what, bool wrong) { return run(what, wrong, in_); }
  Outcome run(Planted what, bool wrong, const uint32_t* in) {
    cudaMemset(out_, 0xff, kThreads * 4);
    cuda::Stream stream(handle_, {}, nullptr);
    launch_planted(stream, what, wrong, in, out_);
    stream.wait();
    Outcome outcome{take_findings(), stream.failure(), {}};
    cuda_host::set_faults({});
    outcome.out = host(out_, kThreads);
    return outcome;
  }
  // The right twin is clean and right in every order.
  void expect_clean(Planted what, uint32_t first, uint32_t last) {
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      cuda_host::set_seed(seed);
      const Outcome right = run(what, false);
      EXPECT_EQ(right.findings + right.failure, "") << "seed " << seed;
      EXPECT_EQ(right.out.front(), first);
      EXPECT_EQ(right.out.back(), last);
    }
  }
  // The wrong one is found in every order.
  void expect_found(Planted what, const char* kernel, const char* words) {
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      cuda_host::set_seed(seed);
      const Outcome wrong = run(what, true);
      EXPECT_NE(wrong.findings.find(words), std::string::npos) << "seed " << seed << ": " << wrong.findings;
      EXPECT_NE(wrong.findings.find(std::string("kernel ")), std::string::npos) << wrong.findings;
      EXPECT_NE(wrong.findings.find(kernel), std::string::npos) << wrong.findings;
      EXPECT_NE(wrong.findings.find("harness_kernels.cu:"), std::string::npos) << wrong.findings;
    }
  }

  cudaStream_t handle_ = nullptr;
  uint32_t* in_ = nullptr;
  uint32_t* out_ = nullptr;
  std::vector<void*> allocated_;
};

#define SKIP_WITHOUT_ACCESSES() \
  if (!cuda_host::checks_accesses()) GTEST_SKIP() << "single accesses are AddressSanitizer's here"

TEST_F(Harness, finds_a_missing_barrier) {
  expect_clean(Planted::reverse_in_shared, 163, 100);
  SKIP_WITHOUT_ACCESSES();
  expect_found(Planted::reverse_in_shared, "reverse_in_shared", "shared memory that nothing was written to");
}

TEST_F(Harness, finds_a_write_over_what_another_thread_reads) {
  expect_clean(Planted::write_after_read, 163, 100);
  SKIP_WITHOUT_ACCESSES();
  expect_found(Planted::write_after_read, "write_after_read", "race: ");
}

TEST_F(Harness, a_shuffle_orders_no_memory) {
  expect_clean(Planted::within_warp, 131, 132);
  SKIP_WITHOUT_ACCESSES();
  expect_found(Planted::within_warp, "within_warp", "race: reads what another thread wrote");
}

TEST_F(Harness, finds_a_read_before_the_wait_for_an_async_copy) {
  expect_clean(Planted::async_copy, 163, 100);
  SKIP_WITHOUT_ACCESSES();
  expect_found(Planted::async_copy, "async_copy", "target of a cp.async that was not waited for");
}

TEST_F(Harness, an_async_copy_is_not_there_before_the_wait) {
  EXPECT_EQ(run(Planted::async_copy, true).out[0], 0xffffffffu);
}

TEST_F(Harness, finds_an_async_copy_that_outlives_its_thread) {
  expect_clean(Planted::async_copy_unwaited, 163, 100);
  const Outcome wrong = run(Planted::async_copy_unwaited, true);
  EXPECT_NE(wrong.findings.find("ends with a cp.async that was not waited for"), std::string::npos);
}

TEST_F(Harness, finds_an_async_copy_into_what_another_thread_reads) {
  expect_clean(Planted::async_copy_reused, 163, 100);
  SKIP_WITHOUT_ACCESSES();
  expect_found(Planted::async_copy_reused, "async_copy_reused", "race: writes what another thread read");
}

TEST_F(Harness, finds_an_access_beyond_shared_memory) {
  expect_clean(Planted::beyond_shared, 163, 100);
  if (!cuda_host::checks_accesses()) {
    EXPECT_DEATH(run(Planted::beyond_shared, true), "heap-buffer-overflow");
    return;
  }
  expect_found(Planted::beyond_shared, "beyond_shared", "beyond the block's shared memory at byte 512 of 512");
}

TEST_F(Harness, an_output_that_is_not_written_stays_nan) {
  expect_clean(Planted::unwritten_output, 163, 100);
  const Outcome wrong = run(Planted::unwritten_output, true);
  EXPECT_EQ(wrong.out.back(), 0xffffffffu);
  EXPECT_EQ(host(device<uint32_t>(1), 1)[0], 0xffffffffu);
}

TEST_F(Harness, finds_a_read_of_shared_memory_that_nobody_wrote) {
  expect_clean(Planted::unwritten_shared, 163, 100);
  SKIP_WITHOUT_ACCESSES();
  expect_found(Planted::unwritten_shared, "unwritten_shared", "reads shared memory that nothing was written to");
}

TEST_F(Harness, finds_a_divergent_barrier) {
  expect_clean(Planted::divergent_barrier, 163, 100);
  expect_found(Planted::divergent_barrier, "divergent_barrier", "divergent barrier: ");
  EXPECT_NE(run(Planted::divergent_barrier, true).failure, "");
}

TEST_F(Harness, finds_a_thread_that_ends_before_a_barrier) {
  expect_clean(Planted::ended_thread, 163, 100);
  expect_found(Planted::ended_thread, "ended_thread", "1 threads (5 ...) have ended");
}

TEST_F(Harness, finds_a_lane_that_is_missing_from_a_shuffle) {
  expect_clean(Planted::missing_lane, 163, 100);
  expect_found(Planted::missing_lane, "missing_lane", "with mask ffffffff, lanes there ffffff7f");
}

TEST_F(Harness, finds_lanes_at_two_shuffles) {
  expect_clean(Planted::two_shuffles, 163, 100);
  expect_found(Planted::two_shuffles, "two_shuffles", "stuck: ");
}

TEST_F(Harness, finds_an_access_beyond_device_memory) {
  expect_clean(Planted::beyond_global, 163, 100);
  if (!cuda_host::checks_accesses()) {
    EXPECT_DEATH(run(Planted::beyond_global, true), "heap-buffer-overflow");
    return;
  }
  expect_found(Planted::beyond_global, "beyond_global", "device memory beyond an allocation at byte 256 of 256");
}

TEST_F(Harness, finds_an_access_to_freed_device_memory) {
  if (!cuda_host::checks_accesses()) GTEST_SKIP() << "AddressSanitizer's own";
  uint32_t* in = nullptr;
  cudaMalloc(&in, kThreads * 4);
  cudaFree(in);
  const Outcome wrong = run(Planted::unwritten_output, false, in);
  EXPECT_NE(wrong.findings.find("device memory that was freed"), std::string::npos) << wrong.findings;
}

TEST_F(Harness, parts_of_a_word_are_told_apart) {
  expect_clean(Planted::halves_of_words, 163, 100);
  SKIP_WITHOUT_ACCESSES();
  expect_found(Planted::halves_of_words, "halves_of_words", "race: writes what another thread wrote");
}

TEST_F(Harness, atomics_race_only_with_plain_accesses) {
  expect_clean(Planted::atomics, 163, 100);
  SKIP_WITHOUT_ACCESSES();
  expect_found(Planted::atomics, "atomics", "race: ");
}

TEST_F(Harness, finds_host_memory_in_a_kernel_where_only_device_memory_is_allowed) {
  SKIP_WITHOUT_ACCESSES();
  cuda_host::set_device_memory_only(true);
  expect_clean(Planted::host_list, 163, 100);
  const std::vector<uint32_t> on_host(kThreads, 7);
  const Outcome wrong = run(Planted::host_list, true, on_host.data());
  EXPECT_NE(wrong.findings.find("touches memory of the host"), std::string::npos) << wrong.findings;
  cuda_host::set_device_memory_only(false);
  EXPECT_EQ(run(Planted::host_list, true, on_host.data()).findings, "");
}

TEST_F(Harness, finds_the_hosts_stack_in_a_kernel) {
  SKIP_WITHOUT_ACCESSES();
  uint32_t on_stack[kThreads];
  std::fill_n(on_stack, kThreads, 7u);
  const Outcome wrong = run(Planted::host_list, true, on_stack);
  EXPECT_NE(wrong.findings.find("touches the host's stack"), std::string::npos) << wrong.findings;
}

TEST_F(Harness, finds_a_list_that_was_not_copied_for_the_device) {
  SKIP_WITHOUT_ACCESSES();
  auto* list = static_cast<uint32_t*>(allocate_memory(MemoryKind::host_list, kThreads * 4));
  const Outcome wrong = run(Planted::host_list, true, list);
  EXPECT_NE(wrong.findings.find("reads a list of the host that was not copied"), std::string::npos) << wrong.findings;
  EXPECT_TRUE(free_memory(MemoryKind::host_list, list));
}

TEST_F(Harness, a_crash_names_its_kernel) {
  const char* words = cuda_host::checks_accesses()
                          ? "kernel host_list block .0,0,0. thread .0,0,0.: crashes .*harness_kernels.cu:"
                          : "host_list";
  EXPECT_DEATH(run(Planted::host_list, false, nullptr), words);
}

TEST_F(Harness, finds_host_code_that_reads_device_memory) {
  SKIP_WITHOUT_ACCESSES();
  read_on_host(in_);
  EXPECT_NE(take_findings().find("host code touches device memory"), std::string::npos);
  uint32_t* pinned = nullptr;
  cudaHostAlloc(&pinned, 4, cudaHostAllocDefault);
  read_on_host(pinned);
  EXPECT_EQ(take_findings(), "");
  cudaFreeHost(pinned);
}

TEST_F(Harness, finds_a_misaligned_load) {
  expect_clean(Planted::misaligned, 163, 100);
  SKIP_WITHOUT_ACCESSES();
  expect_found(Planted::misaligned, "misaligned", "misaligned access of 16 bytes");
}

TEST_F(Harness, seeds_give_different_orders_of_threads_and_blocks_and_the_same_ones_again) {
  constexpr int kBlocks = 5, kAll = kBlocks * kThreads;
  std::vector<std::vector<uint32_t>> orders;
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{2}}) {
    cuda_host::set_seed(seed);
    uint32_t *next = device<uint32_t>(1), *out = device<uint32_t>(kAll);
    cudaMemset(next, 0, 4);
    cuda::Stream stream(handle_, {}, nullptr);
    launch_order(stream, kBlocks, next, out);
    orders.push_back(host(out, kAll));
    std::vector<uint32_t> sorted = orders.back();
    std::sort(sorted.begin(), sorted.end());
    for (int i = 0; i < kAll; ++i) EXPECT_EQ(sorted[static_cast<std::size_t>(i)], static_cast<uint32_t>(i));
  }
  EXPECT_TRUE(std::is_sorted(orders[0].begin(), orders[0].end()));
  EXPECT_TRUE(std::is_sorted(orders[1].rbegin(), orders[1].rend()));
  EXPECT_NE(orders[2], orders[3]);
  EXPECT_FALSE(std::is_sorted(orders[2].begin(), orders[2].begin() + kThreads));
  EXPECT_EQ(orders[2], orders[4]);
}

TEST_F(Harness, finds_swapped_fragments_of_a_product) {
  std::mt19937 random(1);
  std::vector<uint16_t> a(256), b(128);
  for (auto* matrix : {&a, &b}) {
    for (uint16_t& x : *matrix) x = f32_to_bf16(static_cast<float>(static_cast<int>(random() % 17) - 8));
  }
  std::vector<float> want(128, 0.0f);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      for (int k = 0; k < 16; ++k) {
        want[static_cast<std::size_t>(8 * i + j)] += bf16_to_f32(a[static_cast<std::size_t>(16 * i + k)]) *
                                                     bf16_to_f32(b[static_cast<std::size_t>(8 * k + j)]);
      }
    }
  }
  uint16_t *da = device<uint16_t>(256), *db = device<uint16_t>(128);
  float* dd = device<float>(128);
  cudaMemcpy(da, a.data(), 512, cudaMemcpyDefault);
  cudaMemcpy(db, b.data(), 256, cudaMemcpyDefault);
  cuda::Stream stream(handle_, {}, nullptr);
  launch_product(stream, da, db, dd, false);
  EXPECT_EQ(host(dd, 128), want);
  launch_product(stream, da, db, dd, true);
  EXPECT_NE(host(dd, 128), want);
}

// The fake device.

TEST_F(Harness, memory_runs_out_where_it_is_told_to) {
  cuda_host::Faults faults;
  faults.device_bytes = cuda_host::usage().device_bytes + 4096;
  cuda_host::set_faults(faults);
  void *p = nullptr, *q = nullptr;
  EXPECT_EQ(cudaMalloc(&p, 4000), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&q, 4000), cudaErrorMemoryAllocation);
  EXPECT_EQ(q, nullptr);
  std::size_t free_bytes = 0, total_bytes = 0;
  EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
  EXPECT_EQ(free_bytes, 96u);
  EXPECT_EQ(cudaFree(p), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&q, 4000), cudaSuccess);
  EXPECT_EQ(cudaFree(q), cudaSuccess);
  EXPECT_EQ(cudaFree(q), cudaErrorInvalidValue);
  EXPECT_NE(take_findings().find("cudaFree of no allocation"), std::string::npos);
}

TEST_F(Harness, an_error_of_a_launch_stays) {
  cuda_host::Faults faults;
  faults.launches_before_failure = 1;
  cuda_host::set_faults(faults);
  cuda::Stream stream(handle_, {}, nullptr);
  launch_planted(stream, Planted::unwritten_output, false, in_, out_);
  EXPECT_TRUE(stream.ok());
  launch_planted(stream, Planted::unwritten_output, false, in_, out_);
  EXPECT_STREQ(stream.failure(), "kernel launch: an illegal memory access was encountered");
  EXPECT_EQ(cudaStreamSynchronize(handle_), cudaErrorIllegalAddress);
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, 16), cudaErrorIllegalAddress);
  cuda_host::set_faults({});
  EXPECT_EQ(cudaStreamSynchronize(handle_), cudaSuccess);
}

TEST_F(Harness, a_machine_may_have_no_device) {
  cuda_host::Faults faults;
  faults.devices = 0;
  cuda_host::set_faults(faults);
  int n = -1;
  EXPECT_EQ(cudaGetDeviceCount(&n), cudaErrorNoDevice);
  EXPECT_EQ(n, 0);
  EXPECT_EQ(cudaSetDevice(0), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(Harness, copies_stay_within_allocations) {
  if (!cuda_host::checks_accesses()) GTEST_SKIP() << "AddressSanitizer's own";
  std::vector<uint32_t> host_side(kThreads + 1, 0);
  EXPECT_EQ(cudaMemcpy(host_side.data(), in_, (kThreads + 1) * 4, cudaMemcpyDefault), cudaErrorInvalidValue);
  EXPECT_NE(take_findings().find("copy from memory (beyond an allocation)"), std::string::npos);
}

TEST_F(Harness, launches_have_a_device_s_limits) {
  cuda::Launch launch;
  launch.block = dim3(1025);
  EXPECT_EQ(cuda::launch_kernel(launch, handle_), cudaErrorInvalidConfiguration);
  launch.block = dim3(32);
  launch.grid = dim3(1, 65536);
  EXPECT_EQ(cuda::launch_kernel(launch, handle_), cudaErrorInvalidConfiguration);
  launch.grid = dim3(1);
  launch.shared_bytes = (227 << 10) + 1;
  EXPECT_EQ(cuda::launch_kernel(launch, handle_), cudaErrorInvalidConfiguration);
  cuda_host::Faults older;
  older.compute_major = 8;
  cuda_host::set_faults(older);
  launch.shared_bytes = (163 << 10) + 1;
  EXPECT_EQ(cuda::launch_kernel(launch, handle_), cudaErrorInvalidConfiguration);
}

}  // namespace
}  // namespace skv::test
