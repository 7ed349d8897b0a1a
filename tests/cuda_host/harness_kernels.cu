#include "tests/cuda_host/harness_kernels.h"

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/ptx.cuh"
#include "kernels/common/cuda/warp.cuh"

namespace skv::test {

namespace {

constexpr int kThreads = 64;
constexpr std::size_t kSharedBytes = 2 * kThreads * sizeof(uint32_t);

__device__ int thread() { return static_cast<int>(threadIdx.x); }

__global__ void reverse_in_shared(bool wrong, const uint32_t* in, uint32_t* out) {
  SKV_SHARED(shared);
  uint32_t* x = reinterpret_cast<uint32_t*>(shared);
  x[thread()] = in[thread()];
  if (!wrong) __syncthreads();
  out[thread()] = x[kThreads - 1 - thread()];
}

__global__ void write_after_read(bool wrong, const uint32_t* in, uint32_t* out) {
  SKV_SHARED(shared);
  uint32_t* x = reinterpret_cast<uint32_t*>(shared);
  x[thread()] = in[thread()];
  __syncthreads();
  const uint32_t mine = x[kThreads - 1 - thread()];
  if (!wrong) __syncthreads();
  x[thread()] = mine;
  out[thread()] = mine;
}

__global__ void within_warp(bool wrong, const uint32_t* in, uint32_t* out) {
  SKV_SHARED(shared);
  uint32_t* x = reinterpret_cast<uint32_t*>(shared);
  x[thread()] = in[thread()];
  if (wrong) __shfl_sync(cuda::kFullWarp, 0, 0);
  else __syncwarp();
  out[thread()] = x[thread() ^ 31];
}

__global__ void async_copy(bool wrong, const uint32_t* in, uint32_t* out) {
  SKV_SHARED(shared);
  uint32_t* x = reinterpret_cast<uint32_t*>(shared);
  if (thread() < kThreads / 4) cuda::cp_async16(x + 4 * thread(), in + 4 * thread());
  cuda::cp_async_commit();
  if (!wrong) cuda::cp_async_wait<0>();
  __syncthreads();
  out[thread()] = x[kThreads - 1 - thread()];
  cuda::cp_async_wait<0>();
}

__global__ void async_copy_unwaited(bool wrong, const uint32_t* in, uint32_t* out) {
  SKV_SHARED(shared);
  uint32_t* x = reinterpret_cast<uint32_t*>(shared);
  if (thread() == 0) cuda::cp_async16_zfill(x, in, false);
  cuda::cp_async_commit();
  if (!wrong) cuda::cp_async_wait<0>();
  out[thread()] = in[kThreads - 1 - thread()];
}

__global__ void async_copy_reused(bool wrong, const uint32_t* in, uint32_t* out) {
  SKV_SHARED(shared);
  uint32_t* x = reinterpret_cast<uint32_t*>(shared);
  if (thread() < kThreads / 4) cuda::cp_async16(x + 4 * thread(), in + 4 * thread());
  cuda::cp_async_commit();
  cuda::cp_async_wait<0>();
  __syncthreads();
  out[thread()] = x[kThreads - 1 - thread()];
  if (!wrong) __syncthreads();
  if (thread() < kThreads / 4) cuda::cp_async16(x + 4 * thread(), in + 4 * thread());
  cuda::cp_async_commit();
  cuda::cp_async_wait<0>();
}

__global__ void beyond_shared(bool wrong, const uint32_t* in, uint32_t* out) {
  SKV_SHARED(shared);
  uint32_t* x = reinterpret_cast<uint32_t*>(shared);
  x[thread() + kThreads + (wrong ? 1 : 0)] = in[kThreads - 1 - thread()];
  out[thread()] = x[thread() + kThreads + (wrong ? 1 : 0)];
}

__global__ void unwritten_output(bool wrong, const uint32_t* in, uint32_t* out) {
  if (!wrong || thread() < kThreads - 1) out[thread()] = in[kThreads - 1 - thread()];
}

__global__ void unwritten_shared(bool wrong, const uint32_t* in, uint32_t* out) {
  SKV_SHARED(shared);
  uint32_t* x = reinterpret_cast<uint32_t*>(shared);
  if (!wrong) x[kThreads + thread()] = 0;
  const uint32_t extra = x[kThreads + thread()];
  out[thread()] = in[kThreads - 1 - thread()] + (wrong ? 0 : extra);
}

__global__ void divergent_barrier(bool wrong, const uint32_t* in, uint32_t* out) {
  if (thread() < kThreads / 2 || !wrong) __syncthreads();
  else __syncthreads_or(1);
  out[thread()] = in[kThreads - 1 - thread()];
}

__global__ void ended_thread(bool wrong, const uint32_t* in, uint32_t* out) {
  out[thread()] = in[kThreads - 1 - thread()];
  if (wrong && thread() == 5) return;
  __syncthreads();
}

__global__ void missing_lane(bool wrong, const uint32_t* in, uint32_t* out) {
  uint32_t x = in[kThreads - 1 - thread()];
  if (!wrong || thread() % 32 != 7) x = __shfl_sync(cuda::kFullWarp, x, thread() % 32);
  out[thread()] = x;
}

__global__ void two_shuffles(bool wrong, const uint32_t* in, uint32_t* out) {
  uint32_t x = in[kThreads - 1 - thread()];
  if (wrong && thread() % 2 == 0) x = __shfl_sync(cuda::kFullWarp, x, thread() % 32) | 0;
  else x = __shfl_xor_sync(cuda::kFullWarp, x, 0);
  out[thread()] = x;
}

__global__ void beyond_global(bool wrong, const uint32_t* in, uint32_t* out) {
  out[thread()] = in[kThreads - 1 - thread()];
  if (thread() == 0 && wrong) out[kThreads] = 0;
}

__global__ void halves_of_words(bool wrong, const uint32_t* in, uint32_t* out) {
  SKV_SHARED(shared);
  uint16_t* x = reinterpret_cast<uint16_t*>(shared);
  const int at = wrong && thread() == 3 ? 2 : thread();
  x[at] = static_cast<uint16_t>(in[at]);
  if (wrong) x[thread()] = static_cast<uint16_t>(in[thread()]);
  __syncthreads();
  out[thread()] = x[kThreads - 1 - thread()];
}

__global__ void atomics(bool wrong, const uint32_t* in, uint32_t* out) {
  SKV_SHARED(shared);
  uint32_t* sum = reinterpret_cast<uint32_t*>(shared);
  if (thread() == 0) *sum = 0;
  __syncthreads();
  if (wrong && thread() == 40) *sum += 1;
  else atomicAdd(sum, 1u);
  __syncthreads();
  out[thread()] = in[kThreads - 1 - thread()] + *sum - kThreads;
}

__global__ void host_list(bool, const uint32_t* in, uint32_t* out) { out[thread()] = in[kThreads - 1 - thread()]; }

__global__ void misaligned(bool wrong, const uint32_t* in, uint32_t* out) {
  out[thread()] = in[kThreads - 1 - thread()];
  if (thread() != 0) return;
  const uint4 v = *reinterpret_cast<const uint4*>(in + (wrong ? 1 : 0));
  if (v.x + v.y + v.z + v.w == 12345u) out[0] = 0;
}

__global__ void order(uint32_t* next, uint32_t* out) {
  out[atomicAdd(next, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

// Fragments loaded element by element, as the PTX ISA's figures for mma.m16n8k16 have them.
__global__ void product(const uint16_t* a, const uint16_t* b, float* d, bool swapped) {
  const int group = thread() / 4, pair = 2 * (thread() % 4);
  const auto two = [](uint16_t lo, uint16_t hi) { return static_cast<uint32_t>(hi) << 16 | lo; };
  uint32_t ra[4], rb[2];
  for (int i = 0; i < 4; ++i) {
    const uint16_t* at = a + (group + 8 * (i % 2)) * 16 + pair + 8 * (i / 2);
    ra[i] = two(at[0], at[1]);
  }
  for (int i = 0; i < 2; ++i) rb[i] = two(b[(pair + 8 * i) * 8 + group], b[(pair + 8 * i + 1) * 8 + group]);
  if (swapped) {
    const uint32_t kept = ra[1];
    ra[1] = ra[2];
    ra[2] = kept;
  }
  float sum[4] = {};
  cuda::mma_bf16(sum, ra, rb);
  for (int i = 0; i < 4; ++i) d[(group + 8 * (i / 2)) * 8 + pair + i % 2] = sum[i];
}

using Kernel = void (*)(bool, const uint32_t*, uint32_t*);

Kernel kernel_of(Planted what) {
  switch (what) {
    case Planted::reverse_in_shared: return reverse_in_shared;
    case Planted::write_after_read: return write_after_read;
    case Planted::within_warp: return within_warp;
    case Planted::async_copy: return async_copy;
    case Planted::async_copy_unwaited: return async_copy_unwaited;
    case Planted::async_copy_reused: return async_copy_reused;
    case Planted::beyond_shared: return beyond_shared;
    case Planted::unwritten_output: return unwritten_output;
    case Planted::unwritten_shared: return unwritten_shared;
    case Planted::divergent_barrier: return divergent_barrier;
    case Planted::ended_thread: return ended_thread;
    case Planted::missing_lane: return missing_lane;
    case Planted::two_shuffles: return two_shuffles;
    case Planted::beyond_global: return beyond_global;
    case Planted::halves_of_words: return halves_of_words;
    case Planted::atomics: return atomics;
    case Planted::host_list: return host_list;
    case Planted::misaligned: return misaligned;
  }
  return nullptr;
}

}  // namespace

void launch_planted(cuda::Stream& stream, Planted what, bool wrong, const uint32_t* in, uint32_t* out) {
  cuda::launch(kernel_of(what), 1, kThreads, kSharedBytes, stream, wrong, in, out);
}

void launch_order(cuda::Stream& stream, int blocks, uint32_t* next, uint32_t* out) {
  cuda::launch(order, static_cast<unsigned>(blocks), kThreads, 0, stream, next, out);
}

void launch_product(cuda::Stream& stream, const uint16_t* a, const uint16_t* b, float* d, bool swapped) {
  cuda::launch(product, 1, 32, 0, stream, a, b, d, swapped);
}

void read_on_host(const uint32_t* device) {
  volatile uint32_t kept = device[0];
  (void)kept;
}

}  // namespace skv::test
