// A kernel's launch with its own copy of the arguments.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/common/cuda/stream.h"

namespace skv::cuda_host {

class Kernel {
 public:
  explicit Kernel(const cuda::Launch& launch);
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  void run(uint64_t order) const;

 private:
  struct alignas(64) Line {
    unsigned char bytes[64];
  };
  cuda::Launch launch_;
  std::vector<Line> lines_;
  std::vector<void*> args_;
};

cudaError_t check_shape(const cuda::Launch& launch);
uint64_t next_order();  // from the seed of this host thread

}  // namespace skv::cuda_host
