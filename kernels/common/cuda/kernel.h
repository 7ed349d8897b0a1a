// The one seam between kernels and what runs them.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace skv::cuda {

// A kernel with its shape and its arguments by address.
struct Launch {
  const void* kernel = nullptr;
  void (*call)(const void* kernel, void* const* args) = nullptr;  // set where the host executes kernels
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;
  int n_args = 0;
  void* const* args = nullptr;
  const std::size_t* arg_bytes = nullptr;
};

// On a device these are the runtime's calls of like names (launch_kernel.cc); the test harness has its own. Arguments are
// copied before they return. A node runs after the n_after nodes in `after`.
cudaError_t launch_kernel(const Launch& launch, cudaStream_t stream);
cudaError_t add_kernel_node(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, std::size_t n_after,
                            const Launch& launch);
cudaError_t set_kernel_node(cudaGraphExec_t graph, cudaGraphNode_t node, const Launch& launch);

}  // namespace skv::cuda
