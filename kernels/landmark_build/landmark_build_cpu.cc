#include "kernels/landmark_build/landmark_build.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/landmark_build/landmark_build_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/parallel.h"
#include "kernels/common/simd-inl.h"

#ifndef SKV_KERNELS_LANDMARK_BUILD_LIMITS
#define SKV_KERNELS_LANDMARK_BUILD_LIMITS
namespace skv::kernels {
inline constexpr int64_t kLandmarkDim = 256;    // largest head_dim
inline constexpr int64_t kLandmarkChunks = 64;  // of one unit of work
}  // namespace skv::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {  // helpers of the same name in other ops must stay apart

// Norms are products of square roots, not roots of products: large keys must not overflow to an infinite norm.
template <class T>
float lowest_cosine(const T* k, const float* mean, int64_t chunk, int64_t dim) {
  const auto n = static_cast<std::size_t>(dim);
  const float mean_norm = std::sqrt(dot(mean, mean, n));
  float lowest = 2.0f;
  for (int64_t t = 0; t < chunk; ++t) {
    const T* row = k + t * dim;
    const float product = dot(row, mean, n), norms = std::sqrt(dot(row, row, n)) * mean_norm;
    if (!std::isfinite(product) || !std::isfinite(norms)) return -1.0f;
    lowest = std::min(lowest, norms > 0.0f ? product / norms : 0.0f);
  }
  return lowest;
}

template <class T>
float build_chunk(const LandmarkBuildDesc& desc, const T* k, T* landmark) {
  HWY_ALIGN float mean[kLandmarkDim];
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t dim = desc.head_dim;
  const VF scale = hn::Set(d, 1.0f / static_cast<float>(desc.chunk));
  for (int64_t j = 0; j < dim; j += lanes) {
    VF sum = hn::Zero(d);
    for (int64_t t = 0; t < desc.chunk; ++t) sum = hn::Add(sum, load(d, k + t * dim + j));
    sum = hn::Mul(sum, scale);
    hn::Store(sum, d, mean + j);
    store(sum, d, landmark + j);
  }
  return lowest_cosine(k, mean, desc.chunk, dim);
}

// Chunks [begin, end) of an item; spans before them are skipped.
template <class T>
void build_range(const LandmarkBuildDesc& desc, const LandmarkBuildItem& item, int64_t begin, int64_t end) {
  int64_t first = 0;
  for (int32_t s = 0; s < item.n_spans && first < end; ++s) {
    const int64_t n = item.spans[s].n / desc.chunk;
    for (int64_t j = std::max(begin, first); j < std::min(end, first + n); ++j) {
      const T* k = static_cast<const T*>(item.spans[s].k) + (j - first) * desc.chunk * desc.head_dim;
      item.min_cosine[j] = build_chunk(desc, k, static_cast<T*>(item.landmarks.row(item.first_chunk + j)));
    }
    first += n;
  }
}

void landmark_build_simd(const LandmarkBuildDesc& desc, std::span<const LandmarkBuildItem> items) {
  int64_t units = 0;
  for (const LandmarkBuildItem& item : items) {
    int64_t tokens = 0;
    for (int32_t s = 0; s < item.n_spans; ++s) tokens += item.spans[s].n;
    units = std::max(units, (tokens / desc.chunk + kLandmarkChunks - 1) / kLandmarkChunks);
  }
  parallel_for(static_cast<int64_t>(items.size()) * units, [&](int64_t i, int) HWY_ATTR {
    const LandmarkBuildItem& item = items[static_cast<std::size_t>(i / units)];
    const int64_t begin = i % units * kLandmarkChunks;
    if (desc.dtype == DType::bf16) build_range<Bf16>(desc, item, begin, begin + kLandmarkChunks);
    else build_range<float>(desc, item, begin, begin + kLandmarkChunks);
  });
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
HWY_EXPORT(landmark_build_simd);

bool landmark_build_supports(const LandmarkBuildDesc& desc) {
  return desc.dtype != DType::f16 && desc.chunk >= 1 && desc.head_dim >= 16 && desc.head_dim <= kLandmarkDim &&
         desc.head_dim % 16 == 0;
}

void landmark_build_cpu(const LandmarkBuildDesc& desc, std::span<const LandmarkBuildItem> items) {
  HWY_DYNAMIC_DISPATCH(landmark_build_simd)(desc, items);
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
