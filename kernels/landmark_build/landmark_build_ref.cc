#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/common/hadamard.h"
#include "kernels/common/row_codec.h"
#include "kernels/landmark_build/landmark_build.h"

namespace skv::kernels {
namespace {

using Row = std::vector<double>;

constexpr uint16_t kNanF16 = 0x7e00u;

// The keys of one chunk, weighted once their cosines are known, and the places of its digest.
struct Chunk {
  const DigestFormat& format;
  Row k;  // [C, D]
  void* row = nullptr;
  uint16_t* scales = nullptr;
  uint16_t* variance = nullptr;

  double key(int64_t t, int64_t d) const { return k[static_cast<std::size_t>(t * format.head_dim + d)]; }
};

Row mean_of(const Chunk& chunk) {
  Row mean(static_cast<std::size_t>(chunk.format.head_dim), 0.0);
  for (int64_t t = 0; t < chunk.format.chunk; ++t)
    for (std::size_t d = 0; d < mean.size(); ++d)
      mean[d] += chunk.key(t, static_cast<int64_t>(d)) / chunk.format.chunk;
  return mean;
}

double lowest_cosine(const Chunk& chunk, const Row& mean) {
  double mean2 = 0.0, lowest = 2.0;
  for (double m : mean) mean2 += m * m;
  for (int64_t t = 0; t < chunk.format.chunk; ++t) {
    double dot = 0.0, norm2 = 0.0;
    for (std::size_t d = 0; d < mean.size(); ++d) {
      const double x = chunk.key(t, static_cast<int64_t>(d));
      dot += x * mean[d];
      norm2 += x * x;
    }
    const double norms = std::sqrt(norm2) * std::sqrt(mean2);
    if (!std::isfinite(dot) || !std::isfinite(norms)) return -1.0;
    lowest = std::min(lowest, norms > 0.0 ? dot / norms : 0.0);
  }
  return lowest;
}

double nan_unless_finite(double x) { return std::isfinite(x) ? x : std::numeric_limits<double>::quiet_NaN(); }

void write_mean(const Chunk& chunk, const Row& mean) {
  std::vector<float> row;
  for (double m : mean) row.push_back(static_cast<float>(nan_unless_finite(m)));
  const auto n = static_cast<int64_t>(row.size());
  if (chunk.format.codec == BlockCodec::int8) {
    *chunk.scales = encode_int8_row_ref(row.data(), n, static_cast<int8_t*>(chunk.row));
  } else {
    for (int64_t d = 0; d < n; ++d) store_f32(chunk.row, chunk.format.dtype, d, row[static_cast<std::size_t>(d)]);
  }
}

void write_variance(const Chunk& chunk, const Row& mean) {
  double sum = 0.0;
  for (int64_t t = 0; t < chunk.format.chunk; ++t)
    for (std::size_t d = 0; d < mean.size(); ++d) {
      const double x = chunk.key(t, static_cast<int64_t>(d)) - mean[d];
      sum += x * x;
    }
  const double variance = sum / static_cast<double>(chunk.k.size());
  *chunk.variance = std::isfinite(variance) ? f32_to_f16(static_cast<float>(std::min(variance, 65504.0))) : kNanF16;
}

void write_box(const Chunk& chunk) {
  const int64_t dim = chunk.format.head_dim;
  for (int64_t d = 0; d < dim; ++d) {
    double largest = chunk.key(0, d), smallest = largest;
    bool finite = true;
    for (int64_t t = 0; t < chunk.format.chunk; ++t) {
      largest = std::max(largest, chunk.key(t, d));
      smallest = std::min(smallest, chunk.key(t, d));
      finite = finite && std::isfinite(chunk.key(t, d));
    }
    if (!finite) largest = smallest = std::numeric_limits<double>::quiet_NaN();
    store_f32(chunk.row, chunk.format.dtype, d, static_cast<float>(largest));
    store_f32(chunk.row, chunk.format.dtype, dim + d, static_cast<float>(smallest));
  }
}

// Returns the f16 scale of the rotated key y.
uint16_t write_codes(const std::vector<float>& y, uint8_t* codes) {
  const std::size_t dim = y.size();
  double norm2 = 0.0, energy = 0.0;
  for (float x : y) norm2 += double{x} * x;
  const double t = 0.9957 * std::sqrt(norm2 / static_cast<double>(dim));
  std::fill_n(codes, dim / 4, uint8_t{0});
  for (std::size_t i = 0; i < dim; ++i) {
    const int code = y[i] < -t ? 0 : y[i] < 0 ? 1 : y[i] < t ? 2 : 3;
    energy += (code - 1.5) * (code - 1.5);
    codes[i % (dim / 4)] |= static_cast<uint8_t>(code << (2 * (i / (dim / 4))));
  }
  if (norm2 == 0.0) return 0;
  const uint16_t scale = f32_to_f16(static_cast<float>(std::min(std::sqrt(norm2 / energy), 1e30)));
  return std::isfinite(f16_to_f32(scale)) ? scale : kNanF16;
}

void write_keys(const Chunk& chunk) {
  const int64_t dim = chunk.format.head_dim;
  std::vector<float> y(static_cast<std::size_t>(dim));
  for (int64_t t = 0; t < chunk.format.chunk; ++t) {
    for (int64_t d = 0; d < dim; ++d) y[static_cast<std::size_t>(d)] = static_cast<float>(chunk.key(t, d));
    hadamard_rows_ref(y.data(), 1, chunk.format.head_dim, false);
    chunk.scales[t] = write_codes(y, static_cast<uint8_t*>(chunk.row) + t * dim / 4);
  }
}

Chunk chunk_at(const DigestFormat& format, const LandmarkBuildItem& item, const KvSpan& span, int64_t in_span,
               int64_t in_item) {
  Chunk chunk{format, {}};
  const int64_t n = int64_t{format.chunk} * format.head_dim;
  for (int64_t i = 0; i < n; ++i) chunk.k.push_back(load_f32(span.k, format.dtype, in_span * n + i));
  const int64_t row = item.first_chunk + in_item;
  chunk.row = item.digest.rows.row(row);
  if (format.scale_bytes() > 0) chunk.scales = static_cast<uint16_t*>(item.digest.scales.row(row));
  if (format.variance_bytes() > 0) chunk.variance = static_cast<uint16_t*>(item.digest.variances.row(row));
  return chunk;
}

}  // namespace

void landmark_build_ref(const DigestFormat& format, std::span<const LandmarkBuildItem> items) {
  for (const LandmarkBuildItem& item : items) {
    int64_t j = 0;
    for (int32_t s = 0; s < item.n_spans; ++s)
      for (int64_t c = 0; c < item.spans[s].n / format.chunk; ++c, ++j) {
        Chunk chunk = chunk_at(format, item, item.spans[s], c, j);
        if (item.min_cosine != nullptr) item.min_cosine[j] = static_cast<float>(lowest_cosine(chunk, mean_of(chunk)));
        for (std::size_t i = 0; i < chunk.k.size() && item.inverse_weights != nullptr; ++i)
          chunk.k[i] *= item.inverse_weights[i % static_cast<std::size_t>(format.head_dim)];
        const Row mean = mean_of(chunk);
        switch (format.kind) {
          case DigestKind::mean: write_mean(chunk, mean); break;
          case DigestKind::mean_variance: write_mean(chunk, mean), write_variance(chunk, mean); break;
          case DigestKind::box: write_box(chunk); break;
          case DigestKind::keys_2bit: write_keys(chunk); break;
        }
      }
  }
}

}  // namespace skv::kernels
