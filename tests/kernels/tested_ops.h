// The ops under test. The same test programs check the CPU's (tested_cpu.cc) and CUDA's: executed on the host
// (tests/cuda_host) or on a GPU (tests/gpu), as the program is linked.
#pragma once

#include <cstddef>
#include <functional>

#include "kernels/ops.h"

namespace skv::test {

const kernels::Ops& tested_ops();  // every call is done when it returns
// Runs fn once per variant: every SIMD target of this machine, or several orders of threads where a host executes kernels.
void for_each_variant(const std::function<void(const char* name)>& fn);
// Kernels run thousands of times slower than the CPU's: tests take the smallest shapes that reach every case. On a
// GPU where SKV_TEST_SMALL is set, for sanitizers.
bool tested_slowly();
// Tensor cores multiply, however few the rows: of f32 operands they take 16 bits, or two halves of 16 bits. Where this
// is false tests allow for the rounding of f32 sums alone.
bool tested_rounds_products();
// Ops read and write the tests' own memory. Where they run on a GPU, mapped pages must be shown to it first (what comes
// from operator new is visible there anyway).
void show_to_ops(void* pages, std::size_t bytes);
void hide_from_ops(void* pages) noexcept;
// Without being shown too.
bool ops_see_all_memory();

}  // namespace skv::test
