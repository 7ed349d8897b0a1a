#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/common/hadamard.h"
#include "kernels/landmark_score/landmark_score.h"

namespace skv::kernels {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

bool is_excluded(const LandmarkScoreItem& item, int32_t j) {
  return item.excluded != nullptr && ((item.excluded[j / 64] >> (j % 64)) & 1u) != 0;
}

double half_at(const PagedRows& rows, int32_t j, int32_t i) { return load_f32(rows.row(j), DType::f16, i); }

double dot_mean(const DigestFormat& format, const DigestRows& digest, int32_t j, const float* q) {
  const void* row = digest.rows.row(j);
  double sum = 0;
  if (format.codec == BlockCodec::int8) {
    for (int32_t d = 0; d < format.head_dim; ++d) sum += double{q[d]} * static_cast<const int8_t*>(row)[d];
    return sum * half_at(digest.scales, j, 0);
  }
  for (int32_t d = 0; d < format.head_dim; ++d) sum += double{q[d]} * load_f32(row, format.dtype, d);
  return sum;
}

double bound_box(const DigestFormat& format, const DigestRows& digest, int32_t j, const float* q) {
  double sum = 0;
  for (int32_t d = 0; d < format.head_dim; ++d) {
    const double top = double{q[d]} * load_f32(digest.rows.row(j), format.dtype, d);
    const double bottom = double{q[d]} * load_f32(digest.rows.row(j), format.dtype, format.head_dim + d);
    sum += std::isnan(top) || top > bottom ? top : bottom;
  }
  return sum;
}

// rotated: H q.
double dot_key(const DigestFormat& format, const uint8_t* key, const float* rotated) {
  const int32_t quarter = format.head_dim / 4;
  double sum = 0;
  for (int32_t d = 0; d < format.head_dim; ++d) {
    const int code = (key[d % quarter] >> (2 * (d / quarter))) & 3;
    sum += double{rotated[d]} * (code - 1.5);
  }
  return sum;
}

double log_mass_of_keys(const LandmarkScoreDesc& desc, const DigestRows& digest, int32_t j, const float* rotated) {
  const auto* keys = static_cast<const uint8_t*>(digest.rows.row(j));
  std::vector<double> terms;
  double max = kNone, sum = 0;
  for (int32_t t = 0; t < desc.format.chunk; ++t) {
    const double a = half_at(digest.scales, j, t);
    const double w = desc.scale * a * dot_key(desc.format, keys + t * (desc.format.head_dim / 4), rotated);
    terms.push_back(w);
    max = std::fmax(max, terms.back());
  }
  for (const double x : terms) sum += std::exp(x - max);
  return max + std::log(sum);
}

double log_mass(const LandmarkScoreDesc& desc, const DigestRows& digest, int32_t j, const float* q, double norm2) {
  const double count = std::log(static_cast<double>(desc.format.chunk));
  switch (desc.format.kind) {
    case DigestKind::mean: return count + desc.scale * dot_mean(desc.format, digest, j, q);
    case DigestKind::mean_variance:
      return count + desc.scale * dot_mean(desc.format, digest, j, q) + 0.5 * norm2 * half_at(digest.variances, j, 0);
    case DigestKind::box: return desc.scale * bound_box(desc.format, digest, j, q);
    case DigestKind::keys_2bit: return log_mass_of_keys(desc, digest, j, q);
  }
  return kNone;
}

// Log masses of query head g, -inf for the excluded.
std::vector<double> mass_of_head(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item, int32_t g) {
  const float* from = item.q + int64_t{g} * desc.format.head_dim;
  std::vector<float> q(from, from + desc.format.head_dim);
  for (std::size_t d = 0; item.weights != nullptr && d < q.size(); ++d) q[d] *= item.weights[d];
  double norm2 = 0;  // scale^2 |q|^2
  for (const float x : q) norm2 += double{x} * x * desc.scale * desc.scale;
  if (desc.format.kind == DigestKind::keys_2bit) hadamard_rows_ref(q.data(), 1, desc.format.head_dim, false);
  std::vector<double> mass(static_cast<std::size_t>(item.n), kNone);
  for (int32_t j = 0; j < item.n; ++j) {
    if (!is_excluded(item, j)) mass[static_cast<std::size_t>(j)] = log_mass(desc, item.digest, j, q.data(), norm2);
  }
  return mass;
}

void softmax(std::vector<double>* mass) {
  double max = kNone, sum = 0;
  for (const double m : *mass) max = std::fmax(max, m);
  for (const double m : *mass) sum += m == kNone ? 0.0 : std::exp(m - max);
  for (double& m : *mass) m = m == kNone && !std::isnan(sum) ? 0.0 : std::exp(m - max) / sum;
}

}  // namespace

void landmark_score_ref(const LandmarkScoreDesc& desc, std::span<const LandmarkScoreItem> items, void*) {
  const bool raw = desc.reduce == ScoreReduce::raw_max;
  for (const LandmarkScoreItem& item : items) {
    for (int32_t j = 0; j < item.n; ++j) {
      item.scores[j] = is_excluded(item, j) ? -std::numeric_limits<float>::infinity() : raw ? -FLT_MAX : 0.0f;
    }
    for (int32_t g = 0; g < desc.group; ++g) {
      std::vector<double> mass = mass_of_head(desc, item, g);
      if (item.log_mass != nullptr) {
        std::transform(mass.begin(), mass.end(), item.log_mass + g * item.log_mass_stride,
                       [](double m) { return static_cast<float>(m); });
      }
      if (!raw) softmax(&mass);
      for (int32_t j = 0; j < item.n; ++j) {
        if (is_excluded(item, j)) continue;
        const double s = mass[static_cast<std::size_t>(j)];
        if (std::isnan(s) || s > item.scores[j]) item.scores[j] = static_cast<float>(s);  // a NaN stays
      }
    }
  }
}

}  // namespace skv::kernels
