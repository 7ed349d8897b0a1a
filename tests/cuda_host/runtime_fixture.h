// Two streams of the fake device, and logs that the host may read while work is outstanding.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/runtime_kernels.h"

namespace skv::test {

using Log = std::vector<int32_t>;

inline constexpr int kLog = 64;

class Runtime : public ::testing::Test {
 protected:
  void SetUp() override {
    cuda_host::set_faults({});
    cuda_host::set_seed(0);
    cuda_host::take_findings();
    before_ = cuda_host::usage();
    cudaStreamCreateWithFlags(&a_, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b_, cudaStreamNonBlocking);
    cudaEventCreate(&event_);
    log_ = pinned(kLog);
    other_log_ = pinned(kLog);
  }
  void TearDown() override {
    cuda_host::set_faults({});
    for (int32_t* p : pinned_) cudaFreeHost(p);
    cudaEventDestroy(event_);
    for (cudaStream_t stream : {a_, b_}) cudaStreamDestroy(stream);
    EXPECT_EQ(cuda_host::take_findings(), "");
    const cuda_host::Usage now = cuda_host::usage();
    EXPECT_EQ(now.allocations, before_.allocations);
    EXPECT_EQ(now.streams, before_.streams);
    EXPECT_EQ(now.events, before_.events);
    EXPECT_EQ(now.graphs, before_.graphs);
  }

  int32_t* pinned(int n) {  // zeros, which the host may look at while work is outstanding
    int32_t* p = nullptr;
    cudaHostAlloc(&p, static_cast<std::size_t>(n) * 4, cudaHostAllocDefault);
    std::fill_n(p, n, 0);
    pinned_.push_back(p);
    return p;
  }
  static Log read(const int32_t* log) { return Log(log + 1, log + 1 + log[0]); }
  Log taken() {
    const Log log = read(log_);
    log_[0] = 0;
    return log;
  }
  void append(int32_t value, cudaStream_t stream, unsigned blocks = 1) {
    EXPECT_EQ(cuda::launch_kernel(Append(log_, value, blocks), stream), cudaSuccess);
  }

  cudaStream_t a_ = nullptr, b_ = nullptr;
  cudaEvent_t event_ = nullptr;
  int32_t* log_ = nullptr;
  int32_t* other_log_ = nullptr;
  std::vector<int32_t*> pinned_;
  cuda_host::Usage before_;
};

}  // namespace skv::test
