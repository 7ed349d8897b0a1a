// Launches on a real device. Hosts that execute kernels have their own (the test harness).
#include <cuda_runtime.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <set>
#include <utility>

#include "kernels/common/cuda/kernel.h"

namespace skv::cuda {

namespace {

// What a kernel may use without asking.
constexpr std::size_t kPlainSharedBytes = 48 * 1024;

// Lets a kernel use all the shared memory that a block of the current device can have: a limit, it reserves nothing.
// The same value from every caller, so that none lowers another's.
cudaError_t allow_large_shared(const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<int, const void*>> allowed;  // in this process, as the attribute is
  int device = 0, bytes = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const std::lock_guard lock(mutex);
  if (allowed.contains({device, kernel})) return cudaSuccess;
  error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  try {
    allowed.emplace(device, kernel);
  } catch (const std::bad_alloc&) {  // asked again next time
  }
  return cudaSuccess;
}

cudaError_t allow_shared(const Launch& launch) {
  return launch.shared_bytes > kPlainSharedBytes ? allow_large_shared(launch.kernel) : cudaSuccess;
}

cudaKernelNodeParams node_params(const Launch& launch) {
  cudaKernelNodeParams params{};
  params.func = const_cast<void*>(launch.kernel);
  params.gridDim = launch.grid;
  params.blockDim = launch.block;
  params.sharedMemBytes = static_cast<unsigned>(launch.shared_bytes);
  params.kernelParams = const_cast<void**>(launch.args);
  return params;
}

}  // namespace

cudaError_t launch_kernel(const Launch& launch, cudaStream_t stream) {
  const cudaError_t error = allow_shared(launch);
  if (error != cudaSuccess) return error;
  return cudaLaunchKernel(launch.kernel, launch.grid, launch.block, const_cast<void**>(launch.args),
                          launch.shared_bytes, stream);
}

cudaError_t add_kernel_node(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after, std::size_t n_after,
                            const Launch& launch) {
  const cudaError_t error = allow_shared(launch);
  if (error != cudaSuccess) return error;
  const cudaKernelNodeParams params = node_params(launch);
  return cudaGraphAddKernelNode(node, graph, after, n_after, &params);
}

cudaError_t set_kernel_node(cudaGraphExec_t graph, cudaGraphNode_t node, const Launch& launch) {
  const cudaError_t error = allow_shared(launch);
  if (error != cudaSuccess) return error;
  const cudaKernelNodeParams params = node_params(launch);
  return cudaGraphExecKernelNodeSetParams(graph, node, &params);
}

}  // namespace skv::cuda
