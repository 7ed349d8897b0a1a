#include "kernels/landmark_build/landmark_build.h"

#include "kernels/common/hadamard.h"
#include "tests/kernels/landmark_build_cases.h"

namespace skv::test {
namespace {

using Op = kernels::LandmarkBuildFn;
constexpr Op kOps[] = {tested_landmark_build, kernels::landmark_build_ref};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

void expect_same_digest(const Digest& a, const Digest& b, const std::string& params) {
  ASSERT_EQ(a.rows.size(), b.rows.size()) << params;
  expect_same_bytes(a.rows.data(), b.rows.data(), a.rows.size(), params + " rows");
  expect_same_bytes(a.scales.data(), b.scales.data(), 2 * a.scales.size(), params + " scales");
  expect_same_bytes(a.variances.data(), b.variances.data(), 2 * a.variances.size(), params + " variances");
}

// Equal, both NaN, or f16 neighbours of one sign.
void expect_f16_neighbours(uint16_t got, uint16_t want, const std::string& params) {
  const bool both_nan = std::isnan(f16_to_f32(got)) && std::isnan(f16_to_f32(want));
  ASSERT_TRUE(both_nan || std::abs(int{got} - int{want}) <= 1)
      << f16_to_f32(got) << " " << f16_to_f32(want) << params;
}

// Checks of finite chunks, each given the chunk's keys k [C, D] in double.
struct ChunkCheck {
  const DigestFormat& format;
  std::span<const double> k;
  std::string params;
  bool rounded_weights = false;  // weights are no powers of two

  double largest_key() const {
    double m = 0.0;
    for (double x : k) m = std::max(m, std::fabs(x));
    return m;
  }
  double mean(int64_t d) const {
    double sum = 0.0;
    for (int32_t t = 0; t < format.chunk; ++t) sum += k[static_cast<std::size_t>(t * format.head_dim + d)];
    return sum / format.chunk;
  }
  void raw_mean(const unsigned char* row) const {
    for (int64_t d = 0; d < format.head_dim; ++d) {
      const double want = mean(d), rounding = format.dtype == DType::bf16 ? 0x1p-8 * std::fabs(want) : 0.0;
      ASSERT_NEAR(load_f32(row, format.dtype, d), want, 1e-5 * largest_key() + rounding) << "element " << d << params;
    }
  }
  void int8_mean(const unsigned char* row, uint16_t scale_bits) const {
    const double scale = f16_to_f32(scale_bits);
    for (int64_t d = 0; d < format.head_dim; ++d) {
      const auto code = static_cast<int8_t>(row[d]);
      if (scale == 0.0) ASSERT_EQ(code, 0) << params;
      else ASSERT_NEAR(code, mean(d) / scale, 0.5 + 1e-5 * largest_key() / scale) << "element " << d << params;
    }
  }
  void box(const unsigned char* row) const {
    const int64_t dim = format.head_dim;
    for (int64_t d = 0; d < dim; ++d) {
      double high = -kInf, low = kInf;
      for (int64_t t = 0; t < format.chunk; ++t) {
        high = std::max(high, k[static_cast<std::size_t>(t * dim + d)]);
        low = std::min(low, k[static_cast<std::size_t>(t * dim + d)]);
      }
      const double rounding = !rounded_weights ? 0.0 : format.dtype == DType::bf16 ? 0x1p-8 : 0x1p-24;
      ASSERT_NEAR(load_f32(row, format.dtype, d), high, rounding * std::fabs(high)) << "element " << d << params;
      ASSERT_NEAR(load_f32(row, format.dtype, dim + d), low, rounding * std::fabs(low)) << "element " << d << params;
    }
  }
  // Levels by the formula from y = H k, and the scale that belongs to the stored codes.
  void two_bit_key(int64_t t, const unsigned char* codes, uint16_t scale_bits) const {
    const int64_t dim = format.head_dim;
    std::vector<float> y(static_cast<std::size_t>(dim));
    for (int64_t d = 0; d < dim; ++d) y[d] = static_cast<float>(k[static_cast<std::size_t>(t * dim + d)]);
    kernels::hadamard_rows_ref(y.data(), 1, format.head_dim, false);
    double norm2 = 0.0, energy = 0.0;
    for (float x : y) norm2 += double{x} * x;
    const double scale = f16_to_f32(scale_bits), rms = std::sqrt(norm2 / static_cast<double>(dim));
    const double step = 0.9957 * rms;
    if (scale == 0.0) {
      ASSERT_LT(rms, 0x1p-24) << params;
      return;
    }
    for (int64_t d = 0; d < dim; ++d) {
      const int code = (codes[d % (dim / 4)] >> (2 * (d / (dim / 4)))) & 3;
      const double slack = 1e-5 * rms, low = (code - 2) * step - slack, high = (code - 1) * step + slack;
      ASSERT_TRUE((code == 0 || y[d] >= low) && (code == 3 || y[d] <= high)) << "element " << d << " " << y[d] / step
                                                                              << " code " << code << params;
      energy += (code - 1.5) * (code - 1.5);
    }
    if (std::isnan(scale)) ASSERT_GT(std::sqrt(norm2 / energy), 0.999 * 65504) << params;
    else ASSERT_NEAR(scale, std::sqrt(norm2 / energy), 1e-3 * scale + 0x1p-25) << params;
  }
};

void check_chunk(const ChunkCheck& check, const Digest& digest, std::size_t j) {
  const DigestFormat& format = check.format;
  const unsigned char* row = digest.rows.data() + j * static_cast<std::size_t>(format.row_bytes());
  if (format.kind == DigestKind::box) check.box(row);
  else if (format.kind == DigestKind::keys_2bit) {
    const uint16_t* scales = &digest.scales[j * static_cast<std::size_t>(format.chunk)];
    for (int64_t t = 0; t < format.chunk; ++t) check.two_bit_key(t, row + t * format.head_dim / 4, scales[t]);
  } else if (format.codec == BlockCodec::int8) check.int8_mean(row, digest.scales[j]);
  else check.raw_mean(row);
}

// got against want (the reference) and, chunk by chunk, against the definitions.
void compare(const Head& head, const Digest& got, const Digest& want, const std::string& params,
             bool rounded_weights = false) {
  const DigestFormat& format = head.format;
  expect_close(got.cosine, want.cosine, 1e-4f, params + " cosine");
  for (std::size_t j = 0; j < got.variances.size(); ++j)
    expect_f16_neighbours(got.variances[j], want.variances[j], params + " variance");
  for (std::size_t j = 0; j < got.scales.size() && format.kind != DigestKind::keys_2bit; ++j)
    expect_f16_neighbours(got.scales[j], want.scales[j], params + " scale");
  const std::vector<double> keys = head.weighted_keys();
  const std::size_t n = static_cast<std::size_t>(format.chunk) * static_cast<std::size_t>(format.head_dim);
  for (std::size_t j = 0; j < static_cast<std::size_t>(head.n_chunks); ++j) {
    const std::span<const double> k = std::span(keys).subspan(j * n, n);
    for (const Digest* digest : {&got, &want}) {
      const std::string which = (digest == &got ? " chunk " : " (reference) chunk ") + std::to_string(j);
      check_chunk({format, k, params + which, rounded_weights}, *digest, j);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(LandmarkBuild, every_digest_matches_its_definition_and_the_reference) {
  Random rng;
  for_each_target([&] {
    for (const Choice& choice : kChoices)
      for (DType dtype : {DType::f32, DType::bf16})
        for (int32_t chunk : {4, 8, 16, 32})
          for (int32_t dim : {32, 64, 80, 96, 128, 256}) {
            if (tested_slowly() && !rng.chance(0.15)) continue;
            const DigestFormat format{choice.kind, choice.codec, dtype, chunk, dim};
            ASSERT_TRUE(kernels::landmark_build_supports(format));
            const Fill fill = rng.pick({Fill::normal, Fill::ties, Fill::extremes, Fill::biased, Fill::zeros});
            const float size = rng.pick({1.0f, 1.0f, 1e-4f, 0.5f});
            const int32_t unit = tested_slowly() ? 8 : 64;  // chunks of a unit of work
            const int32_t max_chunks = chunk * dim <= 1024 && rng.chance(0.3) ? unit + 6 : 2;
            Head head(rng, format, fill, static_cast<int32_t>(rng.integer(0, 4)), max_chunks,
                      static_cast<int32_t>(rng.integer(0, 9)), size);
            const std::string params = std::string(" ") + choice.name + " " + fill_name(fill) +
                                       " chunk=" + std::to_string(chunk) + " dim=" + std::to_string(dim) +
                                       " size=" + std::to_string(size) + (dtype == DType::f32 ? " f32" : " bf16");
            const int weights = rng.pick({0, 0, 1, 2});  // none, powers of two, any
            if (weights > 0) head.add_weights(rng, weights == 1);
            compare(head, head.run(tested_landmark_build), head.run(kernels::landmark_build_ref),
                    params + " weights " + std::to_string(weights), weights == 2);
            if (::testing::Test::HasFatalFailure()) return;
          }
  });
}

TEST(LandmarkBuild, power_of_two_weights_give_the_bits_of_weighted_keys_and_leave_cosines) {
  Random rng;
  for_each_target([&] {
    for (const Choice& choice : kChoices)
      for (int32_t dim : {32, 64, 80, 96, 128, 256}) {
        const DigestFormat format{choice.kind, choice.codec, rng.pick({DType::f32, DType::bf16}), 8, dim};
        Head plain(format), weighted(format), scaled(format);
        std::vector<float> keys(static_cast<std::size_t>(4 * 8 * dim));
        for (float& x : keys) x = bf16_to_f32(f32_to_bf16(rng.normal()));
        plain.add_span(keys);
        weighted.add_span(keys);
        weighted.add_weights(rng, true);
        const std::vector<double> products = weighted.weighted_keys();
        scaled.add_span(std::vector<float>(products.begin(), products.end()));
        const Digest got = weighted.run(tested_landmark_build);
        expect_same_digest(got, scaled.run(tested_landmark_build), choice.name);
        const Digest cosines = plain.run(tested_landmark_build);
        expect_same_bytes(got.cosine.data(), cosines.cosine.data(), got.cosine.size() * 4, "cosines");
      }
  });
}

TEST(LandmarkBuild, serves_the_codecs_of_digest_format_only) {
  EXPECT_FALSE(kernels::landmark_build_supports({DigestKind::box, BlockCodec::int8, DType::bf16, 8, 128}));
  EXPECT_FALSE(kernels::landmark_build_supports({DigestKind::mean, BlockCodec::int4, DType::bf16, 8, 128}));
  EXPECT_FALSE(kernels::landmark_build_supports({DigestKind::keys_2bit, BlockCodec::int8, DType::bf16, 8, 128}));
  EXPECT_FALSE(kernels::landmark_build_supports({DigestKind::mean, BlockCodec::raw, DType::f16, 8, 128}));
  EXPECT_FALSE(kernels::landmark_build_supports({DigestKind::mean, BlockCodec::raw, DType::bf16, 8, 272}));
  EXPECT_FALSE(kernels::landmark_build_supports({DigestKind::mean, BlockCodec::raw, DType::bf16, 8, 72}));
  EXPECT_FALSE(kernels::landmark_build_supports({DigestKind::mean, BlockCodec::raw, DType::bf16, 33, 128}));
}

TEST(LandmarkBuild, a_chunk_depends_on_its_own_keys_only) {
  Random rng;
  for_each_target([&] {
    for (const Choice& choice : kChoices) {
      const DigestFormat format{choice.kind, choice.codec, rng.pick({DType::f32, DType::bf16}),
                                rng.pick({4, 8, 16, 32}), rng.pick({32, 64, 80, 96, 128, 256})};
      Head head(rng, format, rng.pick({Fill::normal, Fill::biased}), 3, tested_slowly() ? 4 : 80, 2, 1.0f);
      Digest all, other, alone;
      with_threads(3, [&] { all = head.run(tested_landmark_build); });
      with_threads(1, [&] { other = head.run(tested_landmark_build); });
      expect_same_digest(all, other, std::string(choice.name) + " threads");
      expect_same_bytes(all.cosine.data(), other.cosine.data(), all.cosine.size() * 4, "cosines");
      expect_same_digest(all, head.run(tested_landmark_build, false), std::string(choice.name) + " no cosine");
      const std::vector<double> keys = head.weighted_keys();
      const std::size_t n = static_cast<std::size_t>(format.chunk) * static_cast<std::size_t>(format.head_dim);
      for (std::size_t j = 0; j < static_cast<std::size_t>(head.n_chunks); ++j) {
        Head single(format, static_cast<int32_t>(rng.integer(0, 3)));
        single.add_span(std::vector<float>(keys.begin() + static_cast<int64_t>(j * n),
                                           keys.begin() + static_cast<int64_t>((j + 1) * n)));
        const Digest one = single.run(tested_landmark_build);
        alone.rows.insert(alone.rows.end(), one.rows.begin(), one.rows.end());
        alone.scales.insert(alone.scales.end(), one.scales.begin(), one.scales.end());
        alone.variances.insert(alone.variances.end(), one.variances.begin(), one.variances.end());
        alone.cosine.insert(alone.cosine.end(), one.cosine.begin(), one.cosine.end());
      }
      expect_same_digest(all, alone, std::string(choice.name) + " alone");
      expect_same_bytes(all.cosine.data(), alone.cosine.data(), all.cosine.size() * 4, "cosines alone");
    }
  });
}

TEST(LandmarkBuild, cosines_of_zero_and_nan_keys_are_as_documented) {
  for_each_target([&] {
    for (Op op : kOps) {
      std::vector<float> keys(5 * 4 * 16, 1.0f);
      std::fill_n(keys.begin() + 1 * 64, 16, 0.0f);                 // chunk 1: a zero key
      std::fill_n(keys.begin() + 2 * 64, 32, -1.0f);                // chunk 2: zero mean
      keys[3 * 64 + 20] = kNan;                                     // chunk 3
      std::fill_n(keys.begin() + 4 * 64, 16, -3.0f);                // chunk 4: opposite keys
      std::fill_n(keys.begin() + 4 * 64 + 16, 48, 2.0f);            // (mean 0.75, the first at -1)
      Head head({DigestKind::mean, BlockCodec::raw, DType::f32, 4, 16});
      head.add_span(keys);
      const Digest digest = head.run(op);
      EXPECT_NEAR(digest.cosine[0], 1.0f, 1e-6f);
      EXPECT_EQ(digest.cosine[1], 0.0f);
      EXPECT_EQ(digest.cosine[2], 0.0f);
      EXPECT_EQ(digest.cosine[3], -1.0f);
      EXPECT_TRUE(std::isnan(load_f32(digest.rows.data(), DType::f32, 3 * 16 + 4)));
      EXPECT_NEAR(digest.cosine[4], -1.0f, 1e-6f);
      EXPECT_FLOAT_EQ(load_f32(digest.rows.data(), DType::f32, 4 * 16), 0.75f);
    }
  });
}

// Chunks 1 to 3 hold a NaN, an infinity, and two that cancel, in element 5 of key 2; 0 and 4 must not notice.
TEST(LandmarkBuild, keys_that_are_not_finite_show_as_nan_in_their_chunk_only) {
  Random rng;
  for_each_target([&] {
    for (const Choice& choice : kChoices)
      for (Op op : kOps) {
        SCOPED_TRACE(choice.name);
        const DigestFormat format{choice.kind, choice.codec, rng.pick({DType::f32, DType::bf16}), 4, 32};
        std::vector<float> keys(5 * 128);
        for (float& x : keys) x = rng.normal();
        Head clean(format), damaged(format);
        clean.add_span(keys);
        keys[1 * 128 + 69] = kNan, keys[2 * 128 + 69] = kInf, keys[3 * 128 + 69] = kInf, keys[3 * 128 + 37] = -kInf;
        damaged.add_span(keys);
        const Digest want = clean.run(op), got = damaged.run(op);
        const auto row_bytes = static_cast<std::size_t>(format.row_bytes());
        for (std::size_t j : {0, 4})
          expect_same_bytes(&got.rows[j * row_bytes], &want.rows[j * row_bytes], row_bytes, "neighbour");
        for (std::size_t j : {1, 2, 3}) {
          EXPECT_EQ(got.cosine[j], -1.0f);
          const unsigned char* row = &got.rows[j * row_bytes];
          const auto lost = [&](int64_t d) { return std::isnan(load_f32(row, format.dtype, d)); };
          if (format.kind == DigestKind::keys_2bit) {
            EXPECT_TRUE(std::isnan(f16_to_f32(got.scales[4 * j + 2])));
            EXPECT_EQ(got.scales[4 * j], want.scales[4 * j]);
          } else if (format.codec == BlockCodec::int8) {
            EXPECT_TRUE(std::isnan(f16_to_f32(got.scales[j])));
          } else {
            EXPECT_TRUE(lost(5) && !lost(6));
          }
          if (format.kind == DigestKind::box) {
            EXPECT_TRUE(lost(32 + 5) && !lost(32 + 6));
          }
          if (format.kind == DigestKind::mean_variance) {
            EXPECT_TRUE(std::isnan(f16_to_f32(got.variances[j])));
          }
        }
      }
  });
}

// Keys whose squares overflow f32 (1e30), or vanish in it (1e-30).
TEST(LandmarkBuild, sizes_beyond_squares_of_f32_keep_their_cosines_and_means) {
  Random rng;
  for_each_target([&] {
    for (float size : {1e19f, 1e30f, 1e38f, 1e-20f, 1e-30f})
      for (const Choice& choice : kChoices) {
        const std::string params = std::string(" ") + choice.name + " size " + std::to_string(size);
        const DigestFormat plain{choice.kind, choice.codec, DType::f32, 8, 64};
        std::vector<float> keys(2 * 8 * 64), scaled;
        for (float& x : keys) x = std::clamp(rng.normal(), -3.0f, 3.0f);
        for (float x : keys) scaled.push_back(x * size);
        Head unit(plain), head(plain);
        unit.add_span(keys);
        head.add_span(scaled);
        const Digest got = head.run(tested_landmark_build), want = head.run(kernels::landmark_build_ref);
        expect_close(got.cosine, unit.run(kernels::landmark_build_ref).cosine, 1e-4f, "cosine" + params);
        expect_close(want.cosine, got.cosine, 1e-4f, "cosine of the reference" + params);
        for (std::size_t j = 0; j < got.variances.size(); ++j) {
          EXPECT_EQ(f16_to_f32(got.variances[j]), size > 1.0f ? 65504.0f : 0.0f) << params;
          EXPECT_EQ(got.variances[j], want.variances[j]) << params;
        }
        for (std::size_t j = 0; j < got.scales.size(); ++j) {
          expect_f16_neighbours(got.scales[j], want.scales[j], params);
          EXPECT_EQ(std::isnan(f16_to_f32(got.scales[j])), size > 1.0f) << params;
        }
        if (plain.codec == BlockCodec::raw && plain.kind != DigestKind::keys_2bit) compare(head, got, want, params);
      }
  });
}

// v = sum over pairs of |k_s - k_t|^2 / (2 C^2 D), which needs no mean.
TEST(LandmarkBuild, variance_is_half_the_mean_squared_distance_of_pairs) {
  Random rng;
  for_each_target([&] {
    for (Fill fill : {Fill::normal, Fill::biased, Fill::ties, Fill::zeros})
      for (Op op : kOps) {
        const BlockCodec codec = rng.pick({BlockCodec::raw, BlockCodec::int8});
        const DigestFormat format{DigestKind::mean_variance, codec, DType::f32, rng.pick({4, 8, 16, 32}),
                                  rng.pick({32, 64, 80, 96, 128, 256})};
        Head head(rng, format, fill, 2, 5, 0, 1.0f);
        const Digest digest = head.run(op);
        const std::vector<double> k = head.weighted_keys();
        const int64_t n = format.chunk, dim = format.head_dim;
        for (int64_t j = 0; j < head.n_chunks; ++j) {
          double sum = 0.0;
          for (int64_t s = 0; s < n; ++s)
            for (int64_t t = 0; t < n; ++t)
              for (int64_t d = 0; d < dim; ++d) {
                const double x = k[((j * n + s) * dim) + d] - k[((j * n + t) * dim) + d];
                sum += x * x;
              }
          const double want = sum / static_cast<double>(2 * n * n * dim);
          EXPECT_NEAR(f16_to_f32(digest.variances[j]), want, 6e-4 * want) << fill_name(fill);
        }
      }
  });
}

TEST(LandmarkBuild, a_box_bounds_every_key_for_any_query) {
  Random rng;
  for_each_target([&] {
    for (int round = 0; round < (tested_slowly() ? 6 : 60); ++round) {
      const DigestFormat format{DigestKind::box, BlockCodec::raw, rng.pick({DType::f32, DType::bf16}),
                                rng.pick({4, 8, 16, 32}), rng.pick({32, 64, 80, 96, 128, 256})};
      Head head(rng, format, rng.pick({Fill::normal, Fill::ties, Fill::extremes, Fill::biased}), 2, 6, 1, 1.0f);
      const Digest digest = head.run(tested_landmark_build);
      const std::vector<double> keys = head.weighted_keys();
      const int64_t dim = format.head_dim;
      std::vector<double> q(static_cast<std::size_t>(dim));
      for (double& x : q) x = rng.chance(0.1) ? 0.0 : rng.normal();
      for (int64_t j = 0; j < head.n_chunks; ++j) {
        const unsigned char* row = digest.rows.data() + j * format.row_bytes();
        double bound = 0.0;
        for (int64_t d = 0; d < dim; ++d)
          bound += std::max(q[d] * load_f32(row, format.dtype, d), q[d] * load_f32(row, format.dtype, dim + d));
        for (int64_t t = 0; t < format.chunk; ++t) {
          double product = 0.0;
          for (int64_t d = 0; d < dim; ++d) product += q[d] * keys[((j * format.chunk + t) * dim) + d];
          ASSERT_GE(bound, product);  // sums of one order, and rounding is monotone: exactly
        }
      }
    }
  });
}

// A random rotation of a pair |q| = 3, |k| = 20 of the given cosine.
void draw_pair(Random& rng, int64_t dim, double cosine, float* q, float* k) {
  double k2 = 0.0, across = 0.0, rest2 = 0.0;
  for (int64_t d = 0; d < dim; ++d) {
    k[d] = rng.normal(), q[d] = rng.normal();
    k2 += double{k[d]} * k[d], across += double{k[d]} * q[d];
  }
  for (int64_t d = 0; d < dim; ++d) {
    q[d] -= static_cast<float>(across / k2 * k[d]);
    rest2 += double{q[d]} * q[d];
  }
  const double along = 3.0 * cosine / std::sqrt(k2), aside = 3.0 * std::sqrt((1.0 - cosine * cosine) / rest2);
  for (int64_t d = 0; d < dim; ++d) {
    q[d] = static_cast<float>(along * k[d] + aside * q[d]);
    k[d] *= static_cast<float>(20.0 / std::sqrt(k2));
  }
}

struct EstimateError {  // of <H q, scale * u> against <q, k>
  double ratio = 0.0;     // of the estimates' mean to the truth's
  double constant = 0.0;  // mean of (estimate - ratio truth)^2 / (|q|^2 scale^2)
};

EstimateError measure_error(Random& rng, int32_t dim, double cosine) {
  constexpr int64_t kKeys = 16384;
  std::vector<float> keys(static_cast<std::size_t>(kKeys * dim)), queries(keys.size());
  std::vector<double> truth(kKeys);
  for (int64_t i = 0; i < kKeys; ++i) {
    draw_pair(rng, dim, cosine, &queries[i * dim], &keys[i * dim]);
    for (int64_t d = 0; d < dim; ++d) truth[i] += double{queries[i * dim + d]} * keys[i * dim + d];
  }
  Head head({DigestKind::keys_2bit, BlockCodec::raw, DType::f32, 8, dim});
  head.add_span(keys);
  const Digest digest = head.run(tested_landmark_build);
  kernels::hadamard_rows(queries.data(), kKeys, dim, false);
  EstimateError result;
  std::vector<double> estimates(truth.size()), scales(truth.size());
  double sum = 0.0, whole = 0.0;
  for (int64_t i = 0; i < kKeys; ++i) {
    const double scale = f16_to_f32(digest.scales[i]);
    double estimate = 0.0;
    for (int64_t d = 0; d < dim; ++d) {
      const int code = (digest.rows[i * dim / 4 + d % (dim / 4)] >> (2 * (d / (dim / 4)))) & 3;
      estimate += queries[i * dim + d] * scale * (code - 1.5);
    }
    estimates[i] = estimate, scales[i] = scale;
    sum += estimate * truth[i], whole += truth[i] * truth[i];
  }
  result.ratio = sum / whole;
  for (int64_t i = 0; i < kKeys; ++i) {
    const double error = (estimates[i] - result.ratio * truth[i]) / scales[i];
    result.constant += error * error / 9.0 / kKeys;
  }
  return result;
}

// The part of u across y has 0.1056 D of its squares for a normal y (less for few elements), spread over the D - 1
// directions across y.
TEST(LandmarkBuild, two_bit_estimates_are_short_by_a_known_share_with_an_error_known_from_the_scale) {
  if (tested_slowly()) GTEST_SKIP() << "statistics of the codes themselves, over many keys";
  Random rng;
  for (int32_t dim : {32, 64, 80, 96, 128, 256})
    for (double cosine : {-0.9, 0.0, 0.5}) {
      const EstimateError error = measure_error(rng, dim, cosine);
      // The cosine of u and y: 0.939 for many elements. Step times u alone would be shorter, an unbiased scale 1.
      if (cosine != 0.0) {
        EXPECT_NEAR(error.ratio, 0.94, 0.01) << "dim " << dim << " cosine " << cosine;
      } else {
        EXPECT_NEAR(error.constant, 0.1056 - 0.14 / dim, 0.007) << "dim " << dim;
      }
    }
}

void bench_choice(const Choice& choice, const char* variant, bool cosine) {
  const DigestFormat format{choice.kind, choice.codec, DType::bf16, 8, 128};
  const int32_t heads = 8, n_chunks = bench_small() ? 16 : 4096;
  const int64_t head_elements = int64_t{n_chunks} * format.chunk * format.head_dim;
  const int32_t layers = bench_layers(heads * head_elements * 2);
  Random rng;
  std::vector<uint16_t> keys(static_cast<std::size_t>(layers * heads * head_elements));
  std::vector<uint16_t> pattern(4096);
  for (uint16_t& x : pattern) x = f32_to_bf16(rng.normal());
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = pattern[i % pattern.size()];
  std::vector<unsigned char> digest(static_cast<std::size_t>(heads * n_chunks * format.chunk_bytes()));
  std::vector<float> lowest(static_cast<std::size_t>(heads * n_chunks));
  const double bytes = static_cast<double>(2 * heads * head_elements + heads * n_chunks * format.chunk_bytes());
  const BenchRow row{.op = "landmark_build", .variant = variant,
                     .shape = std::string("8/128 C 8 bf16 ") + choice.name + (cosine ? "" : ", no cosine"),
                     .tokens = int64_t{n_chunks} * format.chunk, .layers = layers,
                     .working_set_bytes = static_cast<int64_t>(2 * keys.size()),
                     .bytes = bytes};
  run_bench(row, [&](int64_t sample) {
    std::vector<KvSpan> spans;
    std::vector<void*> pages;
    std::vector<LandmarkBuildItem> items;
    for (int32_t h = 0; h < heads; ++h) {
      const uint16_t* k = keys.data() + (sample % layers * heads + h) * head_elements;
      spans.push_back({k, nullptr, n_chunks * format.chunk, 0});
      pages.push_back(digest.data() + int64_t{h} * n_chunks * format.chunk_bytes());
    }
    const auto rows = [&](int32_t h, int64_t at, int64_t row_bytes) {
      void* const* page = &pages[static_cast<std::size_t>(h)];
      return kernels::PagedRows{page, at * n_chunks, n_chunks, static_cast<int32_t>(row_bytes), 1};
    };
    for (int32_t h = 0; h < heads; ++h)
      items.push_back({&spans[static_cast<std::size_t>(h)], 1,
                       {rows(h, 0, format.row_bytes()), rows(h, format.row_bytes(), format.scale_bytes()),
                        rows(h, format.row_bytes() + format.scale_bytes(), format.variance_bytes())},
                       0, cosine ? lowest.data() + int64_t{h} * n_chunks : nullptr});
    tested_ops().landmark_build(format, items);
  });
}

void bench() {
  for_each_bench_target([](const char* variant) {
    for (const Choice& choice : kChoices) bench_choice(choice, variant, true);
    for (const Choice& choice : {kChoices[0], kChoices[4], kChoices[5]}) bench_choice(choice, variant, false);
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
