// Synthetic digests for the tests of landmark_score: one item of random rows, written as digest_format.h says,
// without landmark_build.
#pragma once

#include <memory>

#include "kernels/common/hadamard.h"
#include "kernels/landmark_score/landmark_score.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {

using kernels::BlockCodec;
using kernels::DigestFormat;
using kernels::DigestKind;
using kernels::LandmarkScoreDesc;
using kernels::LandmarkScoreItem;
using kernels::PagedRows;
using kernels::ScoreReduce;

// One array of a digest on separately placed pages, each exactly as long as its rows.
struct Pages {
  static constexpr int64_t kOffset = 32;
  std::vector<std::unique_ptr<Buffer<char>>> buffers;
  std::vector<void*> list;

  PagedRows make(int32_t n, int32_t rows_per_page, int64_t row_bytes) {
    if (row_bytes == 0) return {};
    for (int32_t left = n; left > 0; left -= rows_per_page) {
      buffers.push_back(std::make_unique<Buffer<char>>(std::min(left, rows_per_page) * row_bytes + kOffset));
      list.push_back(buffers.back()->data());
    }
    return {list.data(), kOffset, rows_per_page, static_cast<int32_t>(row_bytes),
            static_cast<int32_t>(list.size())};
  }
};

struct DigestCase {
  LandmarkScoreDesc desc;
  Pages rows, scales, variances;
  std::unique_ptr<Buffer<uint64_t>> excluded;
  std::unique_ptr<Buffer<float>> q, scores, log_mass;
  LandmarkScoreItem item;
  double key_norm = 0;   // the largest |k| that a digest stands for
  double variance = 0;   // the largest
  double amplitude = 0;  // the largest scale |q| |k|: no logit is larger
  double error = 0;      // what rounding, and q in 16 bits where digests are codes, can add to a log mass

  bool is_excluded(int32_t j) const {
    return item.excluded != nullptr && ((item.excluded[j / 64] >> (j % 64)) & 1u) != 0;
  }
  bool coded() const { return desc.format.codec == BlockCodec::int8 || desc.format.kind == DigestKind::keys_2bit; }
  std::string name() const {
    const DigestFormat& f = desc.format;
    const auto text = [](const char* what, auto value) { return what + std::to_string(static_cast<int>(value)); };
    return text("kind=", f.kind) + text(" codec=", f.codec) + text(" dtype=", f.dtype) + text(" C=", f.chunk) +
           text(" D=", f.head_dim) + text(" G=", desc.group) + text(" reduce=", desc.reduce) + text(" n=", item.n) +
           text(" rows_per_page=", item.digest.rows.rows_per_page);
  }
};

// Every format at one head_dim and chunk.
inline std::vector<DigestFormat> digest_formats(int32_t dim, int32_t chunk) {
  std::vector<DigestFormat> all;
  for (const DigestKind kind : {DigestKind::mean, DigestKind::mean_variance, DigestKind::box}) {
    for (const DType dtype : {DType::bf16, DType::f32}) all.push_back({kind, BlockCodec::raw, dtype, chunk, dim});
  }
  all.push_back({DigestKind::mean, BlockCodec::int8, DType::bf16, chunk, dim});
  all.push_back({DigestKind::mean_variance, BlockCodec::int8, DType::f32, chunk, dim});
  all.push_back({DigestKind::keys_2bit, BlockCodec::raw, DType::bf16, chunk, dim});
  return all;
}

inline double norm(std::span<const float> x) {
  double sum = 0;
  for (const float v : x) sum += double{v} * v;
  return std::sqrt(sum);
}

// The coders write one row and its scale, and leave in x what they stand for.
inline void code_int8(std::span<float> x, int8_t* row, uint16_t* scale) {
  *scale = f32_to_f16_scale(max_abs(x) / 127.0f);
  const float step = f16_to_f32(*scale);
  for (std::size_t i = 0; i < x.size(); ++i) {
    row[i] = static_cast<int8_t>(step == 0.0f ? 0.0f : std::nearbyint(x[i] / step));
    x[i] = step * row[i];
  }
}

inline void code_2bit(std::span<float> y, uint8_t* row, uint16_t* scale) {
  const std::size_t quarter = y.size() / 4;
  const double length = norm(y), t = 0.9957 * length / std::sqrt(static_cast<double>(y.size()));
  std::fill(row, row + quarter, uint8_t{0});
  for (std::size_t i = 0; i < y.size(); ++i) {
    const int code = (y[i] >= -t) + (y[i] >= 0) + (y[i] >= t);
    row[i % quarter] |= static_cast<uint8_t>(code << (2 * (i / quarter)));
    y[i] = static_cast<float>(code) - 1.5f;
  }
  *scale = f32_to_f16(static_cast<float>(length / norm(y)));
  for (float& v : y) v *= f16_to_f32(*scale);
}

// Digest j from source: head_dim elements, or as many of every key.
inline void write_digest(Random& rng, std::span<const float> source, int32_t j, DigestCase* c) {
  const DigestFormat& f = c->desc.format;
  const auto dim = static_cast<std::size_t>(f.head_dim);
  const float spread = max_abs(source) == 0.0f ? 0.0f : 0.3f;
  std::vector<float> x(source.begin(), source.end());
  void* row = c->item.digest.rows.row(j);
  auto* scales = f.scale_bytes() > 0 ? static_cast<uint16_t*>(c->item.digest.scales.row(j)) : nullptr;
  if (f.kind == DigestKind::keys_2bit) {
    for (int32_t t = 0; t < f.chunk; ++t) {
      code_2bit(std::span(x).subspan(static_cast<std::size_t>(t) * dim, dim),
                static_cast<uint8_t*>(row) + t * f.head_dim / 4, scales + t);
    }
  } else if (f.codec == BlockCodec::int8) {
    code_int8(x, static_cast<int8_t*>(row), scales);
  } else {
    if (f.kind == DigestKind::box) {
      x.insert(x.end(), source.begin(), source.end());
      for (std::size_t i = 0; i < dim; ++i) {
        x[i] += spread * rng.uniform(0, 1);
        x[dim + i] -= spread * rng.uniform(0, 1);
      }
    }
    for (std::size_t i = 0; i < x.size(); ++i) {
      store_f32(row, f.dtype, static_cast<int64_t>(i), x[i]);
      x[i] = load_f32(row, f.dtype, static_cast<int64_t>(i));
    }
  }
  for (std::size_t at = 0; at < x.size(); at += dim) {
    c->key_norm = std::max(c->key_norm, norm(std::span(x).subspan(at, dim)) * (f.kind == DigestKind::box ? 2 : 1));
  }
  if (f.kind == DigestKind::mean_variance) {
    auto* variance = static_cast<uint16_t*>(c->item.digest.variances.row(j));
    *variance = f32_to_f16(spread * rng.uniform(0, 1));
    c->variance = std::max(c->variance, double{f16_to_f32(*variance)});
  }
}

// error: sums in f32; where tensor cores take bf16 digests, q is two bf16 and sums are cut off instead of rounded.
// |dq . k| <= (half a step of q) sqrt(D) |k|.
inline void bound_errors(DigestCase* c) {
  const DigestFormat& f = c->desc.format;
  const auto dim = static_cast<std::size_t>(f.head_dim);
  const bool halves = tested_rounds_products() && !c->coded() && f.dtype == DType::bf16;
  const double rounding = halves ? 0x1p-18 : 0x1p-20;
  for (int32_t g = 0; g < c->desc.group; ++g) {
    const auto head = c->q->span().subspan(static_cast<std::size_t>(g) * dim, dim);
    std::vector<float> q(head.begin(), head.end());
    if (f.kind == DigestKind::keys_2bit) kernels::hadamard_rows_ref(q.data(), 1, f.head_dim, false);
    const double logit = c->desc.scale * norm(q) * c->key_norm, half_step = max_abs(q) / 65534.0;
    const double spread = std::pow(c->desc.scale * norm(q), 2) * c->variance;
    const double of_q = c->coded() ? c->desc.scale * half_step * std::sqrt(f.head_dim) * c->key_norm : 0.0;
    c->amplitude = std::max(c->amplitude, logit);
    c->error = std::max(c->error, rounding * (4 + logit + spread) + of_q);
  }
}

inline std::unique_ptr<DigestCase> make_digest_case(Random& rng, const LandmarkScoreDesc& desc, Fill fill, int32_t n,
                                                    double exclude) {
  constexpr int64_t kStrideSlack = 5;  // heads of log_mass lie further apart than they are long
  auto c = std::make_unique<DigestCase>();
  const DigestFormat& f = desc.format;
  c->desc = desc;
  c->q = std::make_unique<Buffer<float>>(int64_t{desc.group} * f.head_dim);
  c->scores = std::make_unique<Buffer<float>>(n);
  fill_rows(rng, Fill::normal, DType::f32, c->q->data(), desc.group, f.head_dim);
  c->item.q = c->q->data();
  c->item.n = n;
  c->item.scores = c->scores->data();
  if (rng.chance(0.5)) {
    c->item.log_mass_stride = n + kStrideSlack;
    c->log_mass = std::make_unique<Buffer<float>>(desc.group * c->item.log_mass_stride);
    std::fill(c->log_mass->span().begin(), c->log_mass->span().end(), -7.0f);
    c->item.log_mass = c->log_mass->data();
  }
  const auto pages = [&] { return static_cast<int32_t>(n > 200 ? rng.pick({64, 100}) : rng.pick({1, 7, 64, 100})); };
  c->item.digest.rows = c->rows.make(n, pages(), f.row_bytes());
  c->item.digest.scales = c->scales.make(n, pages(), f.scale_bytes());
  c->item.digest.variances = c->variances.make(n, pages(), f.variance_bytes());
  const int64_t keys = f.kind == DigestKind::keys_2bit ? f.chunk : 1;
  std::vector<float> source(static_cast<std::size_t>(n * keys * f.head_dim));
  const float scale = fill == Fill::extremes ? 1e-3f : fill == Fill::biased ? 0.1f : 1.0f;
  fill_rows(rng, fill, DType::f32, source.data(), n, keys * f.head_dim, scale);
  for (int32_t j = 0; j < n; ++j) {
    const auto size = static_cast<std::size_t>(keys * f.head_dim);
    write_digest(rng, std::span(source).subspan(static_cast<std::size_t>(j) * size, size), j, c.get());
  }
  if (exclude > 0) {
    c->excluded = std::make_unique<Buffer<uint64_t>>((n + 63) / 64);
    for (uint64_t& word : c->excluded->span()) {
      word = 0;
      for (int b = 0; b < 64; ++b) word |= static_cast<uint64_t>(rng.chance(exclude)) << b;  // bits past n too
    }
    c->item.excluded = c->excluded->data();
  }
  bound_errors(c.get());
  return c;
}

// Makes digest `to` the same as digest `from`.
inline void copy_digest(const DigestCase& c, int32_t from, int32_t to) {
  for (const PagedRows* rows : {&c.item.digest.rows, &c.item.digest.scales, &c.item.digest.variances}) {
    if (rows->pages != nullptr && from != to) {
      std::memcpy(rows->row(to), rows->row(from), static_cast<std::size_t>(rows->row_bytes));
    }
  }
}

// A NaN where the format can carry one: an element of a raw row, else the scale; or the variance.
inline void poison_digest(Random& rng, const DigestCase& c, int32_t j) {
  const DigestFormat& f = c.desc.format;
  constexpr uint16_t kHalfNaN = 0x7e00;
  if (f.kind == DigestKind::mean_variance && rng.chance(0.5)) {
    *static_cast<uint16_t*>(c.item.digest.variances.row(j)) = kHalfNaN;
  } else if (c.coded()) {
    static_cast<uint16_t*>(c.item.digest.scales.row(j))[rng.integer(0, f.scale_bytes() / 2 - 1)] = kHalfNaN;
  } else {
    const int64_t size = f.row_bytes() / dtype_bytes(f.dtype);
    store_f32(c.item.digest.rows.row(j), f.dtype, rng.integer(0, size - 1), std::numeric_limits<float>::quiet_NaN());
  }
}

// Rows of a test that needs more than one split or unit of work.
inline int32_t some(int32_t many) { return tested_slowly() ? 300 : many; }

// Every format, or a few where every call takes long: other ones with every order of threads.
inline std::vector<DigestFormat> some_formats(Random& rng, int32_t dim, int32_t chunk) {
  std::vector<DigestFormat> formats = digest_formats(dim, chunk);
  while (tested_slowly() && formats.size() > 3) formats.erase(formats.begin() + rng.integer(0, formats.size() - 1));
  return formats;
}

// What the contract allows where logits are ordinary; for larger ones what their size makes of f32's rounding.
inline double mass_tolerance(const DigestCase& c, float want) {
  const double ordinary = c.coded() || c.desc.format.dtype != DType::f32 ? 1e-3 : 1e-4;
  return c.amplitude < 20 ? std::min(c.error, ordinary * std::max(1.0, std::fabs(double{want}))) : c.error;
}

inline float score_tolerance(const DigestCase& c, std::span<const float> want) {
  if (c.desc.reduce == ScoreReduce::raw_max) return static_cast<float>(c.error);
  float max = 0;
  for (const float s : want) max = std::max(max, s);
  const double share = 1e-5 + 2 * c.error;
  return static_cast<float>(max * (c.amplitude < 20 ? std::min(share, 2e-3) : share));
}

}  // namespace skv::test
