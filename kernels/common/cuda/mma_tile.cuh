// Tiles of 16-bit elements in shared memory and the fragments that tensor-core products (mma_bf16, m16n8k16) take of
// them.
//
// Fragments of lane i, with r = i / 4 and c = 2 * (i % 4):
//   A [16, 16]  a[0] = (r, c), a[1] = (r + 8, c), a[2] = (r, c + 8), a[3] = (r + 8, c + 8), each with its right
//   neighbour B [16, 8]   b[0] = (c, r), b[1] = (c + 8, r), each with its lower neighbour D [16, 8]   d[0] = (r, c),
//   d[1] = (r, c + 1), d[2] = (r + 8, c), d[3] = (r + 8, c + 1)
// so that two neighbouring D of one product, packed, are an A of the next one.
#pragma once

#include "kernels/common/cuda/ptx.cuh"

namespace skv::cuda {

// Unsigned remainders first: the compiler takes four instructions for a signed one.
__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x % 32); }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x / 32); }
__device__ __forceinline__ int fragment_row() { return lane_id() / 4; }
__device__ __forceinline__ int fragment_column() { return lane_id() % 4 * 2; }

// Rows of kColumns elements (a multiple of 16), at an offset that is a multiple of 128 bytes. A chunk is 16 bytes,
// eight elements. The same chunk of eight rows on end lies in different banks: by turning chunks within a row where
// rows are whole 128-byte lines, else by 16 bytes between rows.
template <int kColumns>
struct SharedTile {
  static_assert(kColumns % 16 == 0);
  static constexpr bool kTurned = kColumns % 64 == 0;
  static constexpr int kStride = 2 * kColumns + (kTurned ? 0 : 16);

  unsigned char* memory;
  int offset;

  __device__ __forceinline__ unsigned char* at(int row, int chunk) const {
    return memory + offset + row * kStride + (kTurned ? chunk ^ (row & 7) : chunk) * 16;
  }
  // at(lane_row + row, lane_chunk + chunk) for row a multiple of 8, and chunk 0, or even and lane_chunk 0 or 1. With
  // row and chunk constant, as they are in unrolled loops, one register serves a whole tile.
  __device__ __forceinline__ unsigned char* at(int lane_row, int lane_chunk, int row, int chunk) const {
    const int lane = offset + lane_row * kStride + (kTurned ? lane_chunk ^ (lane_row & 7) : lane_chunk) * 16;
    if constexpr (kTurned)
      return memory + (lane ^ (chunk & 7) * 16) + row * kStride + chunk / 8 * 128;
    else
      return memory + lane + row * kStride + chunk * 16;
  }
};

// The same with a row's bytes known at run time, a multiple of 32.
struct PaddedTile {
  unsigned char* memory;
  int stride;

  static constexpr int stride_of(int row_bytes) { return row_bytes + 16; }
  __device__ __forceinline__ unsigned char* at(int row, int chunk) const {
    return memory + row * stride + chunk * 16;
  }
  __device__ __forceinline__ unsigned char* at(int lane_row, int lane_chunk, int row, int chunk) const {
    return at(lane_row + row, lane_chunk + chunk);
  }
};

// A from rows [row, row + 16) and chunks chunk, chunk + 1. Here and below row is a multiple of 8, chunk is even.
template <class Tile>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const Tile& tile, int row, int chunk) {
  ldmatrix_x4(a, tile.at(lane_id() % 16, lane_id() / 16, row, chunk));
}

// Two B side by side (b[0], b[1] and b[2], b[3]) whose columns are the tile's rows [row, row + 16): products with
// rows.
template <class Tile>
__device__ __forceinline__ void load_b_of_rows(uint32_t (&b)[4], const Tile& tile, int row, int chunk) {
  ldmatrix_x4(b, tile.at(lane_id() / 16 * 8 + lane_id() % 8, lane_id() / 8 % 2, row, chunk));
}

// Two B side by side as they stand: rows [row, row + 16), chunks chunk and chunk + 1.
template <class Tile>
__device__ __forceinline__ void load_b(uint32_t (&b)[4], const Tile& tile, int row, int chunk) {
  ldmatrix_x4_trans(b, tile.at(lane_id() % 16, lane_id() / 16, row, chunk));
}

// d0, d1 += a times the two B of load_b or load_b_of_rows.
__device__ __forceinline__ void multiply_pair(float (&d0)[4], float (&d1)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[4]) {
  const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
  mma_bf16(d0, a, left);
  mma_bf16(d1, a, right);
}

// A of two neighbouring D.
__device__ __forceinline__ void pack_a(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack_bf16x2(left[0], left[1]);
  a[1] = pack_bf16x2(left[2], left[3]);
  a[2] = pack_bf16x2(right[0], right[1]);
  a[3] = pack_bf16x2(right[2], right[3]);
}

}  // namespace skv::cuda
