// Which chunks each digest selects, against its formula in double on the keys themselves.
#include <algorithm>
#include <cmath>

#include "kernels/common/hadamard.h"
#include "kernels/common/row_codec.h"
#include "tests/kv/kv_oracle.h"

namespace skv::test {
namespace {

constexpr kv::Geometry kGeometry = {1, 6, 2, 64, 0.0f};

// A key as two bits an element keep it: its rotated estimate.
struct CodedKey {
  std::vector<double> y;
  double scale = 0.0;
};

CodedKey code_2bit(const std::vector<double>& key) {
  std::vector<float> x(key.begin(), key.end());
  kernels::hadamard_rows_ref(x.data(), 1, static_cast<int32_t>(x.size()), false);
  double square = 0.0, codes = 0.0;
  for (const float v : x) square += double{v} * v;
  const double step = 0.9957 * std::sqrt(square / static_cast<double>(x.size()));
  CodedKey coded;
  for (const float v : x) {
    coded.y.push_back(v < -step ? -1.5 : v < 0 ? -0.5 : v < step ? 0.5 : 1.5);
    codes += coded.y.back() * coded.y.back();
  }
  coded.scale = f16_to_f32(f32_to_f16(static_cast<float>(std::sqrt(square / codes))));
  for (double& v : coded.y) v *= coded.scale;
  return coded;
}

std::vector<double> divided(std::vector<double> key, const float* weights) {
  for (std::size_t i = 0; i < key.size(); ++i) key[i] /= weights[i];
  return key;
}

// A query as digests see it: times the weights that their keys were divided by.
std::vector<float> weighed(const float* q, const float* weights) {
  std::vector<float> out(q, q + kGeometry.head_dim);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] *= weights[i];
  return out;
}

double mean_logit(const TraceHead& head, int64_t token, int32_t g, int64_t chunk, int32_t c, const float* weights) {
  std::vector<double> mean = head.mean(chunk, c).k;
  if (weights != nullptr) {  // int8
    mean = divided(mean, weights);
    std::vector<float> x(mean.begin(), mean.end());
    std::vector<int8_t> codes(x.size());
    const uint16_t scale = kernels::encode_int8_row_ref(x.data(), kGeometry.head_dim, codes.data());
    kernels::decode_int8_row_ref(codes.data(), scale, kGeometry.head_dim, x.data());
    for (std::size_t i = 0; i < x.size(); ++i) mean[i] = double{x[i]} * weights[i];
  }
  return head.dot(token, g, mean);
}

double box_logit(const TraceHead& head, int64_t token, int32_t g, int64_t chunk, int32_t c) {
  std::vector<double> low = head.row(chunk * c).k, high = low;
  for (int32_t t = 1; t < c; ++t) {
    const std::vector<double> key = head.row(chunk * c + t).k;
    for (std::size_t i = 0; i < key.size(); ++i) low[i] = std::min(low[i], key[i]), high[i] = std::max(high[i], key[i]);
  }
  const float* q = head.query(token, g);
  double bound = 0.0;
  for (std::size_t i = 0; i < low.size(); ++i) bound += std::max(q[i] * low[i], q[i] * high[i]);
  return bound;
}

double keys_2bit_logit(const TraceHead& head, int64_t token, int32_t g, int64_t chunk, int32_t c, double s,
                       const float* weights) {
  std::vector<float> q = weighed(head.query(token, g), weights);
  kernels::hadamard_rows_ref(q.data(), 1, kGeometry.head_dim, false);
  double sum = 0.0;
  for (int32_t t = 0; t < c; ++t) {
    const CodedKey key = code_2bit(divided(head.row(chunk * c + t).k, weights));
    double dot = 0.0;
    for (std::size_t i = 0; i < key.y.size(); ++i) dot += q[i] * key.y[i];
    sum += std::exp(s * dot);
  }
  return std::log(sum);
}

// Log masses up to a constant of the head: scores do not depend on it.
double logit_of(const skv_kv_params& p, const TraceHead& head, int64_t token, int32_t g, int64_t chunk, double s,
                const float* weights) {
  const int32_t c = p.chunk_tokens;
  if (p.digest == SKV_DIGEST_BOX) return s * box_logit(head, token, g, chunk, c);
  if (p.digest == SKV_DIGEST_KEYS_2BIT) return keys_2bit_logit(head, token, g, chunk, c, s, weights);
  const double mean = s * mean_logit(head, token, g, chunk, c, p.digest_codec == SKV_CODEC_INT8 ? weights : nullptr);
  if (p.digest == SKV_DIGEST_MEAN) return mean;
  double square = 0.0;
  for (const float v : weighed(head.query(token, g), weights)) square += double{v} * v;
  return mean + 0.5 * s * s * square * head.variance(chunk, c, weights);
}

TEST(KvDigest, selects_what_its_formula_says) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  struct Case {
    skv_digest digest;
    skv_codec codec;
    double tolerance;
  };
  const Case cases[] = {{SKV_DIGEST_MEAN, SKV_CODEC_RAW, 1e-4},          {SKV_DIGEST_MEAN, SKV_CODEC_INT8, 5e-3},
                        {SKV_DIGEST_MEAN_VARIANCE, SKV_CODEC_RAW, 5e-3}, {SKV_DIGEST_MEAN_VARIANCE, SKV_CODEC_INT8, 1e-2},
                        {SKV_DIGEST_BOX, SKV_CODEC_RAW, 1e-4},           {SKV_DIGEST_KEYS_2BIT, SKV_CODEC_RAW, 1e-2}};
  for (const Case& c : cases) {
    for (const int32_t chunk : {4, 8, 32}) {
      SCOPED_TRACE("digest " + std::to_string(c.digest) + " codec " + std::to_string(c.codec) + " C " +
                   std::to_string(chunk));
      skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_F32);
      p.digest = c.digest;
      p.digest_codec = c.codec;
      p.chunk_tokens = chunk;
      Bench bench(kGeometry, p);
      AttendedProbe probe(&bench);
      const Trace trace = bench.make_trace(530, {}, kv_seed());
      kv::Sequence* sequence = bench.store().open();
      bench.prefill(sequence, trace, 0, 520);
      for (int64_t t = 520; t < trace.n; ++t) {
        const auto out = bench.decode(sequence, trace, t);
        for (int32_t h = 0; h < 2; ++h) {
          const TraceHead head(bench, trace, 0, h);
          const Attended& attended = probe.of(0, h);
          const float* weights = bench.store().channel_weights(sequence, 0, h);
          const auto scores = chunk_scores(attended, chunk, kGeometry.group(), [&](int32_t g, int64_t j) {
            return logit_of(p, head, t, g, j, bench.geometry().scale, weights);
          });
          const auto room = scores.size() - attended.outliers.size();
          EXPECT_TRUE(are_best(attended.chunks, scores, std::min<std::size_t>(static_cast<std::size_t>(64 / chunk), room),
                               c.tolerance));
          const auto rows = attended_rows(head, attended, chunk, t);
          const auto want = oracle_attention(head.query(t, 2), rows, bench.geometry().scale);
          EXPECT_LT(relative_error(out[0].data() + (h * 3 + 2) * 64, want.out), 1e-5);
        }
      }
    }
  }
}

// What averaging loses: single keys that matter much, each in a chunk of others that point away from it. The same
// budget and no more than 272 bytes a token against 256.
TEST(KvDigest, keys_of_two_bits_find_single_keys_that_means_hide) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  const kv::Geometry geometry = {1, 4, 2, 128, 0.0f};
  double recall[2] = {};
  for (const skv_digest digest : {SKV_DIGEST_MEAN, SKV_DIGEST_KEYS_2BIT}) {
    skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_BF16);
    p.digest = digest;
    p.outlier_fraction = 0.0;
    p.budget_tokens = 128;
    Bench bench(geometry, p);
    AttendedProbe probe(&bench);
    Trace trace = bench.make_trace(1040, {}, kv_seed());
    const int64_t d = geometry.head_dim, m = geometry.key_width();
    std::mt19937_64 engine(kv_seed());
    std::vector<int64_t> needles;
    for (int64_t chunk = 3; chunk < 120; chunk += 9) needles.push_back(chunk * 8 + static_cast<int64_t>(engine() % 8));
    for (int64_t t = 1020; t < 1040; ++t) {
      // All query heads of a step look along one direction, which the needles share.
      for (int32_t h = 0; h < geometry.q_heads; ++h) {
        float* q = trace.q[0].data() + (t * geometry.q_heads + h) * d;
        for (int64_t i = 0; i < d; ++i) q[i] = 3.0f * trace.k[0][static_cast<std::size_t>(needles[0] * m + h / 2 * d + i)];
      }
    }
    for (std::size_t i = 1; i < needles.size(); ++i) {
      for (int64_t c = 0; c < m; ++c) {
        trace.k[0][static_cast<std::size_t>(needles[i] * m + c)] =
            0.8f * trace.k[0][static_cast<std::size_t>(needles[0] * m + c)] +
            0.3f * trace.k[0][static_cast<std::size_t>(needles[i] * m + c)];
      }
    }
    // Their neighbours lean the other way, so that the mean shows nothing.
    for (const int64_t needle : needles) {
      for (int64_t t = needle / 8 * 8; t < needle / 8 * 8 + 8; ++t) {
        for (int64_t c = 0; c < m && t != needle; ++c) {
          trace.k[0][static_cast<std::size_t>(t * m + c)] -= 0.12f * trace.k[0][static_cast<std::size_t>(needles[0] * m + c)];
        }
      }
    }
    kv::Sequence* sequence = bench.store().open();
    bench.prefill(sequence, trace, 0, 1020, 256);
    int found = 0;
    for (int64_t t = 1020; t < 1040; ++t) {
      bench.decode(sequence, trace, t);
      for (int32_t h = 0; h < 2; ++h) {
        const auto& chunks = probe.of(0, h).chunks;
        for (const int64_t needle : needles) {
          found += std::binary_search(chunks.begin(), chunks.end(), static_cast<int32_t>(needle / 8));
        }
      }
    }
    recall[digest == SKV_DIGEST_KEYS_2BIT] = found / (20.0 * 2 * static_cast<double>(needles.size()));
  }
  EXPECT_GT(recall[1], 0.9);
  EXPECT_LT(recall[0], 0.6) << "means find them too: the test proves nothing";
}

}  // namespace
}  // namespace skv::test
