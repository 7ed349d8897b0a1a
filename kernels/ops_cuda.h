// CUDA's versions of the ops, one .cu file each beside its contract.
#pragma once

#include "kernels/common/cuda/stream.h"
#include "kernels/ops.h"

namespace skv::kernels {

#define SKV_OP_FUNCTION(name, result, call, ...) result name##_cuda(cuda::Stream& stream, __VA_ARGS__);
SKV_KERNEL_OPS(SKV_OP_FUNCTION)
#undef SKV_OP_FUNCTION

// The ops in the order of one stream.
class CudaOps final : public Ops {
 public:
  explicit CudaOps(cuda::Stream& stream) : stream_(stream) {}

#define SKV_OP_ARGUMENTS(...) __VA_ARGS__
#define SKV_OP_METHOD(name, result, call, ...) \
  result name(__VA_ARGS__) const override { return name##_cuda(stream_, SKV_OP_ARGUMENTS call); }
  SKV_KERNEL_OPS(SKV_OP_METHOD)
#undef SKV_OP_METHOD
#undef SKV_OP_ARGUMENTS

  void begin_record() const override { stream_.begin_record(); }
  void end_record() const override { stream_.end_record(); }
  void begin_aside() const override { stream_.begin_aside(); }
  void end_aside() const override { stream_.end_aside(); }
  void join() const override { stream_.join(); }
  void copy(void* to, const void* from, int64_t bytes) const override { stream_.copy(to, from, bytes); }
  void fill(void* to, uint8_t byte, int64_t bytes) const override { stream_.fill(to, byte, bytes); }
  void upload(void* to, const void* host, int64_t bytes) const override { stream_.upload(to, host, bytes); }
  void download(void* host, const void* from, int64_t bytes) const override { stream_.download(host, from, bytes); }
  void wait() const override { stream_.wait(); }
  const char* failure() const override { return stream_.failure(); }

 private:
  cuda::Stream& stream_;
};

}  // namespace skv::kernels
