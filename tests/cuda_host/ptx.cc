// The hardware instructions of cuda_host_ptx.h. Fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16 with
// floating point type" and "ldmatrix".
#include <cuda_runtime.h>
#include <cuda_host_ptx.h>

#include <cstring>

#include "tests/cuda_host/accesses.h"
#include "tests/cuda_host/block.h"

namespace skv::cuda_host {

namespace {

struct MatrixLane {
  uint32_t* r;
  const unsigned char* row;
};

// Lane t of a matrix holds elements 2 (t % 4), + 1 of row t / 4; transposed: of column t / 4.
template <bool kTransposed>
void combine_matrices(void* const* lanes, unsigned) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t element[8][8];
    for (int row = 0; row < 8; ++row) {
      std::memcpy(element[row], static_cast<const MatrixLane*>(lanes[8 * matrix + row])->row, 16);
    }
    for (int t = 0; t < kLanes; ++t) {
      const int row = t / 4, column = 2 * (t % 4);
      const uint32_t lo = kTransposed ? element[column][row] : element[row][column];
      const uint32_t hi = kTransposed ? element[column + 1][row] : element[row][column + 1];
      static_cast<const MatrixLane*>(lanes[t])->r[matrix] = hi << 16 | lo;
    }
  }
}

struct ProductLane {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

float low(uint32_t pair) { return bf16_to_f32(static_cast<uint16_t>(pair)); }
float high(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

// With group = lane / 4 and pair = 2 (lane % 4): a0 and a1 are A[group][pair, + 1] and A[group + 8][...], a2 and a3
// the same 8 columns on; b0 is B[pair, + 1][group], b1 8 rows on; d0, d1 are D[group][pair, + 1], d2, d3 D[group +
// 8][...].
void combine_product(void* const* lanes, unsigned) {
  float a[16][16], b[16][8], d[16][8];
  for (int t = 0; t < kLanes; ++t) {
    const ProductLane& lane = *static_cast<const ProductLane*>(lanes[t]);
    const int group = t / 4, pair = 2 * (t % 4);
    for (int i = 0; i < 4; ++i) {
      const int row = group + 8 * (i % 2), column = pair + 8 * (i / 2);
      a[row][column] = low(lane.a[i]);
      a[row][column + 1] = high(lane.a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[pair + 8 * i][group] = low(lane.b[i]);
      b[pair + 8 * i + 1][group] = high(lane.b[i]);
    }
    for (int i = 0; i < 4; ++i) d[group + 8 * (i / 2)][pair + i % 2] = lane.d[i];
  }
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int t = 0; t < kLanes; ++t) {
    const ProductLane& lane = *static_cast<const ProductLane*>(lanes[t]);
    for (int i = 0; i < 4; ++i) lane.d[i] = d[t / 4 + 8 * (i / 2)][2 * (t % 4) + i % 2];
  }
}

bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

void copy_async(void* shared, const void* global, bool valid) {
  const void* site = __builtin_return_address(0);
  Fiber& fiber = *running->current();
  if (!is_aligned(shared) || (valid && !is_aligned(global))) found("misaligned cp.async", site);
  std::size_t at = 0, word = 0;
  if (!in_shared(shared, 16, "cp.async to memory that is not the block's shared memory", site, &at)) return;
  if (checks_accesses()) {
    if (valid) check_access(Access::read, global, 16, site);
    int other = -1;
    const char* wrong = running->shadow().begin_copy(fiber.index, at, &word, &other);
    if (wrong != nullptr) {
      found(wrong, site, "by cp.async at byte " + std::to_string(4 * word) + ", thread " +
                             std::to_string(fiber.index) + (other < 0 ? "" : " and thread " + std::to_string(other)));
    }
  }
  std::memset(shared, 0xff, 16);
  fiber.copies.push_back({static_cast<unsigned char*>(shared), static_cast<const unsigned char*>(global), valid});
}

void commit_copies() {
  Fiber& fiber = *running->current();
  fiber.groups.push_back(fiber.copies.size());
}

void wait_for_copies(int newest) {
  Fiber& fiber = *running->current();
  const std::size_t keep = static_cast<std::size_t>(newest);
  if (fiber.groups.size() <= keep) return;
  const std::size_t groups = fiber.groups.size() - keep, done = fiber.groups[groups - 1];
  for (std::size_t i = 0; i < done; ++i) {
    const AsyncCopy& copy = fiber.copies[i];
    if (copy.valid) std::memcpy(copy.to, copy.from, 16);
    else std::memset(copy.to, 0, 16);
    if (checks_accesses()) {
      running->shadow().end_copy(fiber.index, static_cast<std::size_t>(copy.to - running->shared()));
    }
  }
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + static_cast<std::ptrdiff_t>(done));
  fiber.groups.erase(fiber.groups.begin(), fiber.groups.begin() + static_cast<std::ptrdiff_t>(groups));
  for (std::size_t& end : fiber.groups) end -= done;
}

void load_matrices(uint32_t* r, const void* row, bool transposed) {
  static constexpr unsigned char kNone[16] = {};
  const void* site = __builtin_return_address(0);
  if (!is_aligned(row)) found("misaligned row of ldmatrix", site);
  std::size_t at = 0;
  MatrixLane own{r, static_cast<const unsigned char*>(row)};
  if (!in_shared(row, 16, "ldmatrix of memory that is not the block's shared memory", site, &at)) own.row = kNone;
  else if (checks_accesses()) check_access(Access::read, row, 16, site);
  running->warp_operation("ldmatrix", site, 0xffffffffu, &own,
                          transposed ? combine_matrices<true> : combine_matrices<false>);
}

void multiply_bf16(float* d, const uint32_t* a, const uint32_t* b) {
  ProductLane own{d, a, b};
  running->warp_operation("mma", __builtin_return_address(0), 0xffffffffu, &own, combine_product);
}

}  // namespace skv::cuda_host

namespace skv::cuda {

uint16_t float_to_f16(float x) { return x == x ? f32_to_f16(x) : uint16_t{0x7fff}; }

}  // namespace skv::cuda
