#include "tests/cuda_host/ptx_kernels.h"

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/ptx.cuh"

namespace skv::test {

namespace {

constexpr int kImageBytes = 2048;

__device__ int lane() { return static_cast<int>(threadIdx.x); }

__global__ void mma(const uint32_t* a, const uint32_t* b, float* d) {
  uint32_t ra[4], rb[2];
  float rd[4];
  for (int i = 0; i < 4; ++i) ra[i] = a[4 * lane() + i];
  for (int i = 0; i < 2; ++i) rb[i] = b[2 * lane() + i];
  for (int i = 0; i < 4; ++i) rd[i] = d[4 * lane() + i];
  cuda::mma_bf16(rd, ra, rb);
  for (int i = 0; i < 4; ++i) d[4 * lane() + i] = rd[i];
}

__global__ void ldmatrix(const uint8_t* image, const int32_t* at, bool transposed, uint32_t* r) {
  SKV_SHARED(shared);
  for (int i = lane(); i < kImageBytes; i += 32) shared[i] = image[i];
  __syncthreads();
  uint32_t registers[4];
  if (transposed) cuda::ldmatrix_x4_trans(registers, shared + at[lane()]);
  else cuda::ldmatrix_x4(registers, shared + at[lane()]);
  for (int i = 0; i < 4; ++i) r[4 * lane() + i] = registers[i];
}

__global__ void cp_async(const uint4* from, bool valid, uint4* out) {
  SKV_SHARED(shared);
  uint4* to = reinterpret_cast<uint4*>(shared);
  for (int i = 0; i < 3; ++i) to[i] = make_uint4(1, 1, 1, 1);
  cuda::cp_async16(to, from);
  cuda::cp_async_commit();
  cuda::cp_async16_zfill(to + 1, from + 1, true);
  cuda::cp_async_commit();
  cuda::cp_async16_zfill(to + 2, from + 2, valid);
  cuda::cp_async_commit();
  cuda::cp_async_wait<2>();
  out[0] = to[0];
  cuda::cp_async_wait<1>();
  out[1] = to[1];
  cuda::cp_async_wait<0>();
  out[2] = to[2];
}

__device__ int element() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

__global__ void pack_bf16x2(int n, const float* lo, const float* hi, uint32_t* out) {
  const int i = element();
  if (i < n) out[i] = cuda::pack_bf16x2(lo[i], hi[i]);
}
__global__ void f16_to_float(int n, const uint16_t* x, float* out) {
  const int i = element();
  if (i < n) out[i] = cuda::f16_to_float(x[i]);
}
__global__ void float_to_f16(int n, const float* x, uint16_t* out) {
  const int i = element();
  if (i < n) out[i] = cuda::float_to_f16(x[i]);
}
__global__ void exp2_approx(int n, const float* x, float* out) {
  const int i = element();
  if (i < n) out[i] = cuda::exp2_approx(x[i]);
}
__global__ void load_once(int n, const uint4* x, uint4* out) {
  const int i = element();
  if (i < n) out[i] = cuda::load_once(x + i);
}

constexpr unsigned kAll = 0xffffffffu;

__global__ void shuffles(uint32_t* out) {
  const uint32_t x = 100 + threadIdx.x;
  const uint32_t results[kShuffles] = {
      __shfl_sync(kAll, x, lane() * 3), __shfl_sync(kAll, x, lane() + 1, 8),
      __shfl_up_sync(kAll, x, 3),       __shfl_up_sync(kAll, x, 3, 8),
      __shfl_down_sync(kAll, x, 3),     __shfl_down_sync(kAll, x, 3, 8),
      __shfl_xor_sync(kAll, x, 5),      __shfl_xor_sync(kAll, x, 9, 8),
  };
  for (int i = 0; i < kShuffles; ++i) out[32 * i + lane()] = results[i];
}

__global__ void votes(uint32_t* out) {
  const uint32_t results[kVotes] = {
      __ballot_sync(kAll, lane() % 3 == 0),
      static_cast<uint32_t>(__any_sync(kAll, lane() == 31) != 0),
      static_cast<uint32_t>(__any_sync(kAll, lane() == 32) != 0),
      static_cast<uint32_t>(__all_sync(kAll, lane() != 32) != 0),
      static_cast<uint32_t>(__all_sync(kAll, lane() != 4) != 0),
      __match_any_sync(kAll, lane() / 5),
  };
  for (int i = 0; i < kVotes; ++i) out[32 * i + lane()] = results[i];
}

__global__ void reductions(uint32_t* out) {
  const int x = lane() - 16;
  const unsigned u = static_cast<unsigned>(x);
  const uint32_t results[kReductions] = {
      static_cast<uint32_t>(__reduce_add_sync(kAll, x)), static_cast<uint32_t>(__reduce_min_sync(kAll, x)),
      static_cast<uint32_t>(__reduce_max_sync(kAll, x)), __reduce_max_sync(kAll, u),
      __reduce_and_sync(kAll, u | 4u),                   __reduce_or_sync(kAll, u & 6u),
      __reduce_xor_sync(kAll, 1u << lane()),
  };
  for (int i = 0; i < kReductions; ++i) out[32 * i + lane()] = results[i];
}

__global__ void block_votes(uint32_t* out) {
  const int count = __syncthreads_count(lane() % 4 == 1);
  const int any = __syncthreads_or(lane() == 50);
  const int all = __syncthreads_and(lane() != 50);
  if (lane() != 33) return;
  out[0] = static_cast<uint32_t>(count);
  out[1] = any != 0;
  out[2] = all != 0;
}

__global__ void atomics_in_turn(uint32_t* word, uint32_t* out) {
  int i = 0;
  out[i++] = atomicAdd(word, 5u);
  out[i++] = atomicSub(word, 3u);
  out[i++] = atomicMax(word, 20u);
  out[i++] = atomicMin(word, 7u);
  out[i++] = atomicAnd(word, 6u);
  out[i++] = atomicOr(word, 9u);
  out[i++] = atomicXor(word, 3u);
  out[i++] = atomicExch(word, 100u);
  out[i++] = atomicCAS(word, 100u, 42u);
  out[i++] = atomicCAS(word, 100u, 43u);
  out[i++] = *word;
}

__global__ void bits(uint32_t* out) {
  const uint32_t results[16] = {
      __brev(0x12345678u),
      static_cast<uint32_t>(__clz(0)),
      static_cast<uint32_t>(__clz(1)),
      static_cast<uint32_t>(__clzll(1)),
      static_cast<uint32_t>(__ffs(0)),
      static_cast<uint32_t>(__ffs(8)),
      static_cast<uint32_t>(__ffsll(1ll << 40)),
      static_cast<uint32_t>(__popc(0xf00fu)),
      static_cast<uint32_t>(__popcll(~0ull)),
      __byte_perm(0x33221100u, 0x77665544u, 0x7531u),
      __byte_perm(0x00008000u, 0u, 0x0091u),
      __funnelshift_l(0x80000000u, 1u, 1u),
      __funnelshift_r(2u, 1u, 33u),
      __umulhi(0xffffffffu, 2u),
      static_cast<uint32_t>(__dp4a(0x01ff7f80, 0x02020202, 5)),
      __dp4a(0x01ff7f80u, 0x02020202u, 5u),
  };
  for (int i = 0; i < 16; ++i) out[i] = results[i];
}

__global__ void conversions(int n, const float* x, int32_t* out) {
  const int i = element();
  if (i >= n) return;
  out[5 * i] = __float2int_rn(x[i]);
  out[5 * i + 1] = __float2int_rz(x[i]);
  out[5 * i + 2] = __float2int_rd(x[i]);
  out[5 * i + 3] = __float2int_ru(x[i]);
  out[5 * i + 4] = static_cast<int32_t>(__float2uint_rn(x[i]));
}

constexpr int kBlock = 128;
dim3 blocks(int n) { return dim3(static_cast<unsigned>((n + kBlock - 1) / kBlock)); }

}  // namespace

void launch_mma(cuda::Stream& stream, const uint32_t* a, const uint32_t* b, float* d) {
  cuda::launch(mma, 1, 32, 0, stream, a, b, d);
}

void launch_ldmatrix(cuda::Stream& stream, const uint8_t* image, const int32_t* at, bool transposed, uint32_t* r) {
  cuda::launch(ldmatrix, 1, 32, kImageBytes, stream, image, at, transposed, r);
}

void launch_cp_async(cuda::Stream& stream, const uint4* from, bool valid, uint4* out) {
  cuda::launch(cp_async, 1, 1, 3 * sizeof(uint4), stream, from, valid, out);
}

void launch_pack_bf16x2(cuda::Stream& stream, int n, const float* lo, const float* hi, uint32_t* out) {
  cuda::launch(pack_bf16x2, blocks(n), kBlock, 0, stream, n, lo, hi, out);
}

void launch_f16_to_float(cuda::Stream& stream, int n, const uint16_t* x, float* out) {
  cuda::launch(f16_to_float, blocks(n), kBlock, 0, stream, n, x, out);
}

void launch_float_to_f16(cuda::Stream& stream, int n, const float* x, uint16_t* out) {
  cuda::launch(float_to_f16, blocks(n), kBlock, 0, stream, n, x, out);
}

void launch_exp2_approx(cuda::Stream& stream, int n, const float* x, float* out) {
  cuda::launch(exp2_approx, blocks(n), kBlock, 0, stream, n, x, out);
}

void launch_load_once(cuda::Stream& stream, int n, const uint4* x, uint4* out) {
  cuda::launch(load_once, blocks(n), kBlock, 0, stream, n, x, out);
}

void launch_shuffles(cuda::Stream& stream, uint32_t* out) { cuda::launch(shuffles, 1, 32, 0, stream, out); }
void launch_votes(cuda::Stream& stream, uint32_t* out) { cuda::launch(votes, 1, 32, 0, stream, out); }
void launch_reductions(cuda::Stream& stream, uint32_t* out) { cuda::launch(reductions, 1, 32, 0, stream, out); }
void launch_block_votes(cuda::Stream& stream, uint32_t* out) { cuda::launch(block_votes, 1, 64, 0, stream, out); }
void launch_atomics(cuda::Stream& stream, uint32_t* word, uint32_t* out) {
  cuda::launch(atomics_in_turn, 1, 1, 0, stream, word, out);
}
void launch_bits(cuda::Stream& stream, uint32_t* out) { cuda::launch(bits, 1, 1, 0, stream, out); }
void launch_conversions(cuda::Stream& stream, int n, const float* x, int32_t* out) {
  cuda::launch(conversions, blocks(n), kBlock, 0, stream, n, x, out);
}

}  // namespace skv::test
