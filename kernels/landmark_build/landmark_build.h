// landmark_build: one landmark and one outlier score per chunk.
//
// Computes   mean_j = (1/C) sum_t k_{j,t}; landmark_j = round(mean_j); cos_j = min_t cosine(k_{j,t}, mean_j) (f32 mean)
// Shapes     per item (KV head, a run of n chunks): k chunk rows by span list: spans hold whole chunks, n * C rows in all;
//            landmarks paged rows, row (first_chunk + j); min_cosine [n] f32
// Types      k and landmarks bf16 or f32; sums f32
// Edges      a zero key or zero mean: cosine = 0; NaN key: NaN landmark, cosine -1 (an outlier, kept exact)
// Tolerance  mean 1e-5 f32, one rounding bf16; cosine 1e-4
// Cost       reads n C D elements once
// Source     ShadowKV Alg. 1; facts 1.1 items 3 and 4
#pragma once

#include <span>

#include "kernels/common/paged.h"

namespace skv::kernels {

struct LandmarkBuildDesc {
  DType dtype = DType::bf16;
  int32_t chunk = 0;
  int32_t head_dim = 0;
};

struct LandmarkBuildItem {
  const KvSpan* spans = nullptr;  // only k and n are read; every n is a multiple of chunk
  int32_t n_spans = 0;
  PagedRows landmarks;
  int32_t first_chunk = 0;
  float* min_cosine = nullptr;
};

bool landmark_build_supports(const LandmarkBuildDesc& desc);
using LandmarkBuildFn = void (*)(const LandmarkBuildDesc&, std::span<const LandmarkBuildItem>);
void landmark_build_ref(const LandmarkBuildDesc&, std::span<const LandmarkBuildItem>);
void landmark_build_cpu(const LandmarkBuildDesc&, std::span<const LandmarkBuildItem>);

}  // namespace skv::kernels
