#include <cmath>
#include <limits>
#include <vector>

#include "kernels/landmark_score/landmark_score.h"

namespace skv::kernels {
namespace {

bool is_excluded(const LandmarkScoreItem& item, int32_t j) {
  return item.excluded != nullptr && ((item.excluded[j / 64] >> (j % 64)) & 1u) != 0;
}

void score_head(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item, const float* q) {
  const double none = -std::numeric_limits<double>::infinity();
  std::vector<double> logits(static_cast<std::size_t>(item.n), none);
  double max = none, sum = 0;
  for (int32_t j = 0; j < item.n; ++j) {
    if (is_excluded(item, j)) continue;
    double dot = 0;
    for (int32_t d = 0; d < desc.head_dim; ++d) {
      dot += static_cast<double>(q[d]) * load_f32(item.landmarks.row(j), desc.dtype, d);
    }
    logits[static_cast<std::size_t>(j)] = desc.scale * dot;
    max = std::fmax(max, desc.scale * dot);
  }
  for (double w : logits) sum += w == none ? 0.0 : std::exp(w - max);
  for (int32_t j = 0; j < item.n; ++j) {
    if (is_excluded(item, j)) continue;
    const double w = logits[static_cast<std::size_t>(j)];
    const double p = w == none && !std::isnan(sum) ? 0.0 : std::exp(w - max) / sum;
    float& s = item.scores[j];
    if (std::isnan(p) || p > s) s = static_cast<float>(p);  // a NaN stays: no p is greater than it
  }
}

}  // namespace

void landmark_score_ref(const LandmarkScoreDesc& desc, std::span<const LandmarkScoreItem> items, void*) {
  for (const LandmarkScoreItem& item : items) {
    for (int32_t j = 0; j < item.n; ++j) item.scores[j] = is_excluded(item, j) ? -1.0f : 0.0f;
    for (int32_t g = 0; g < desc.group; ++g) score_head(desc, item, item.q + int64_t{g} * desc.head_dim);
  }
}

}  // namespace skv::kernels
