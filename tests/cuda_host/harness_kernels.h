// Kernels with planted mistakes, each with a correct twin, for harness_test.cc.
#pragma once

#include <cstdint>

#include "kernels/common/cuda/stream.h"

namespace skv::test {

enum class Planted {
  reverse_in_shared,      // wrong: no barrier between the writes and the reads
  write_after_read,       // wrong: no barrier between the reads and the next writes
  within_warp,            // wrong: a shuffle in place of __syncwarp
  async_copy,             // wrong: no wait before the read
  async_copy_unwaited,    // wrong: the kernel ends first
  async_copy_reused,      // wrong: the next copy goes where another thread still reads
  beyond_shared,          // wrong: one element too far
  unwritten_output,       // wrong: the last element is not written
  unwritten_shared,       // wrong: reads what nobody wrote
  divergent_barrier,      // wrong: two halves of a block at two barriers
  ended_thread,           // wrong: a thread returns before the barrier
  missing_lane,           // wrong: lane 7 is not there for the shuffle
  two_shuffles,           // wrong: half of the lanes are at another shuffle
  beyond_global,          // wrong: one element too far in device memory
  halves_of_words,        // right: two threads write the two halves of a word; wrong: the same half
  atomics,                // right: atomic adds to one word; wrong: one thread adds plainly
  host_list,              // wrong: reads host memory
  misaligned,             // wrong: a 16-byte load at 4
};

// One block of 64 threads; in and out are device memory of 64 elements.
void launch_planted(cuda::Stream& stream, Planted what, bool wrong, const uint32_t* in, uint32_t* out);

// The order in which the threads of blocks of 64 pass: out[next++] = blockIdx * 64 + threadIdx.
void launch_order(cuda::Stream& stream, int blocks, uint32_t* next, uint32_t* out);

// d [16, 8] f32 = a [16, 16] b [16, 8], bf16 rows; swapped: fragment registers a1 and a2 exchanged.
void launch_product(cuda::Stream& stream, const uint16_t* a, const uint16_t* b, float* d, bool swapped);

void read_on_host(const uint32_t* device);  // an access of host code in a kernel file

}  // namespace skv::test
