// A Stream over the fake runtime with little staging memory, so that it wraps around often.
#pragma once

#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/common/cuda/products.h"
#include "kernels/common/cuda/stream.h"

namespace skv::test {

inline constexpr int64_t kStaging = 4096, kPart = kStaging / 4;
inline constexpr int64_t kOut = 8192;  // int32

class StreamTest : public ::testing::Test {
 protected:
  StreamTest() {
    cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking);
    cudaHostAlloc(reinterpret_cast<void**>(&memory_.host), kStaging, cudaHostAllocDefault);
    cudaMalloc(reinterpret_cast<void**>(&memory_.device), kStaging);
    cudaMalloc(reinterpret_cast<void**>(&out_), kOut * 4);
    memory_.bytes = kStaging;
    products_ = cuda::make_products(handle_);
    make_stream(true);
  }
  ~StreamTest() override {
    stream_.reset();
    cuda::free_products(products_);
    cudaFree(out_);
    cudaFree(memory_.device);
    cudaFreeHost(memory_.host);
    cudaStreamDestroy(handle_);
  }
  void make_stream(bool graphs) {
    stream_ = std::make_unique<cuda::Stream>(handle_, memory_, products_, graphs);
  }
  std::vector<int32_t> read(int64_t n) {
    std::vector<int32_t> host(static_cast<std::size_t>(n));
    stream_->download(host.data(), out_, n * 4);
    return host;
  }
  cudaStream_t handle_ = nullptr;
  cuda::StagingMemory memory_;
  int32_t* out_ = nullptr;
  cuda::Products* products_ = nullptr;
  std::unique_ptr<cuda::Stream> stream_;
};

}  // namespace skv::test
