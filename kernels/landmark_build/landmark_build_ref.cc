#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/landmark_build/landmark_build.h"

namespace skv::kernels {
namespace {

// k: first element of the chunk's rows. Returns the lowest cosine of a key to the mean.
double build_chunk(const LandmarkBuildDesc& desc, const void* k, void* landmark) {
  const int64_t dim = desc.head_dim;
  std::vector<double> mean(static_cast<std::size_t>(dim), 0.0);
  for (int64_t t = 0; t < desc.chunk; ++t)
    for (int64_t d = 0; d < dim; ++d)
      mean[d] += load_f32(k, desc.dtype, t * dim + d) / static_cast<double>(desc.chunk);
  double mean2 = 0.0, lowest = 2.0;
  for (int64_t d = 0; d < dim; ++d) {
    mean2 += mean[d] * mean[d];
    store_f32(landmark, desc.dtype, d, static_cast<float>(mean[d]));
  }
  for (int64_t t = 0; t < desc.chunk; ++t) {
    double dot = 0.0, norm2 = 0.0;
    for (int64_t d = 0; d < dim; ++d) {
      const double x = load_f32(k, desc.dtype, t * dim + d);
      dot += x * mean[d];
      norm2 += x * x;
    }
    const double norms = std::sqrt(norm2) * std::sqrt(mean2);
    if (!std::isfinite(dot) || !std::isfinite(norms)) return -1.0;
    lowest = std::min(lowest, norms > 0.0 ? dot / norms : 0.0);
  }
  return lowest;
}

}  // namespace

void landmark_build_ref(const LandmarkBuildDesc& desc, std::span<const LandmarkBuildItem> items) {
  const int64_t chunk_bytes = static_cast<int64_t>(desc.chunk) * desc.head_dim * dtype_bytes(desc.dtype);
  for (const LandmarkBuildItem& item : items) {
    int32_t j = 0;
    for (int32_t s = 0; s < item.n_spans; ++s)
      for (int32_t c = 0; c < item.spans[s].n / desc.chunk; ++c, ++j)
        item.min_cosine[j] = static_cast<float>(build_chunk(desc, offset_bytes(item.spans[s].k, c * chunk_bytes),
                                                            item.landmarks.row(item.first_chunk + j)));
  }
}

}  // namespace skv::kernels
