// rope: rotate queries and keys, or undo it.
//
// Computes   forward: (x0, x1) -> a (x0 cos - x1 sin, x1 cos + x0 sin) per pair; inverse: the transpose divided by a
// Shapes     per item (a run of tokens): x [n, heads, D] with row_stride floats between tokens, heads contiguous;
//            token i is at position pos + i; items may differ in everything
// Types      f32 in place; cos and sin are the products described in rope_view.h
// Edges      n = 0: nothing, in any item; rotary_dim = 0: forward and inverse are the identity
// Determinism a token depends on itself only
// Tolerance  1e-6 * max|x| against double angles at any position below 2^20
// Source     RoPE (arXiv 2104.09864); attention factor: YaRN (2309.00071), LongRoPE (2402.13753)
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/rope_view.h"

namespace skv::kernels {

struct RopeItem {
  float* x = nullptr;
  int64_t row_stride = 0;
  int64_t n = 0;
  int32_t heads = 0;
  int32_t head_dim = 0;
  int64_t pos = 0;
  bool inverse = false;
};

void rope_ref(const RopeView&, std::span<const RopeItem>);
void rope_cpu(const RopeView&, std::span<const RopeItem>);

}  // namespace skv::kernels
