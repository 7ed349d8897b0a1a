#include "kernels/landmark_score/landmark_score.h"

#include <cfloat>
#include <numeric>

#include "tests/kernels/digest_case.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

constexpr float kExcluded = -std::numeric_limits<float>::infinity();
constexpr ScoreReduce kReduces[] = {ScoreReduce::softmax_max, ScoreReduce::raw_max};

LandmarkScoreDesc make_desc(const DigestFormat& format, int32_t group,
                            ScoreReduce reduce = ScoreReduce::softmax_max) {
  return {format, group, 1.0f / std::sqrt(static_cast<float>(format.head_dim)), reduce};
}

void run_tested(const LandmarkScoreDesc& desc, const std::vector<LandmarkScoreItem>& items) {
  int64_t total = 0;
  for (const LandmarkScoreItem& item : items) total += item.n;
  Buffer<char> workspace(static_cast<int64_t>(landmark_score_workspace_bytes(desc, total)), 64);
  tested_ops().landmark_score(desc, items, workspace.data());
}

struct Result {
  std::vector<float> scores;
  std::vector<std::vector<float>> mass;  // [G][n]
};

Result reference_of(const DigestCase& c) {
  const auto n = static_cast<std::size_t>(c.item.n);
  std::vector<float> mass(n * static_cast<std::size_t>(c.desc.group));
  Result want{std::vector<float>(n), {}};
  LandmarkScoreItem item = c.item;
  item.scores = want.scores.data();
  item.log_mass = mass.data();
  item.log_mass_stride = c.item.n;
  landmark_score_ref(c.desc, std::span(&item, 1), nullptr);
  for (int32_t g = 0; g < c.desc.group; ++g) want.mass.emplace_back(mass.data() + n * g, mass.data() + n * (g + 1));
  return want;
}

void compare_with_reference(const DigestCase& c, const char* what) {
  run_tested(c.desc, {c.item});
  const Result want = reference_of(c);
  const std::string params = std::string(what) + " " + c.name();
  expect_close(c.scores->span(), want.scores, score_tolerance(c, want.scores), params);
  for (int32_t g = 0; c.log_mass && g < c.desc.group; ++g) {
    const auto got = c.log_mass->span().subspan(static_cast<std::size_t>(g * c.item.log_mass_stride),
                                                static_cast<std::size_t>(c.item.log_mass_stride));
    for (int32_t j = 0; j < c.item.n; ++j) {
      const auto at = static_cast<std::size_t>(j);
      const float m = want.mass[static_cast<std::size_t>(g)][at];
      expect_close(got.subspan(at, 1), std::span(&m, 1), static_cast<float>(mass_tolerance(c, m)),
                   "log mass of head " + std::to_string(g) + " row " + std::to_string(j) + " " + params);
      if (::testing::Test::HasFatalFailure()) return;
    }
    for (std::size_t j = static_cast<std::size_t>(c.item.n); j < got.size(); ++j) ASSERT_EQ(got[j], -7.0f) << params;
  }
}

TEST(LandmarkScore, matches_reference_for_every_format_shape_and_fill) {
  Random rng;
  for_each_target([&] {
    const std::vector<int32_t> groups = {1, 2, 3, 4, 7, 8, 9};
    const int64_t first = rng.integer(0, 6);
    for (const int32_t dim : {32, 64, 80, 96, 128, 256}) {
      for (const int32_t group : groups) {
        int64_t turn = first + dim / 16;
        for (const DigestFormat& format : digest_formats(dim, rng.pick({4, 8, 16, 32}))) {
          const LandmarkScoreDesc desc = make_desc(format, group, kReduces[rng.integer(0, 1)]);
          ASSERT_TRUE(landmark_score_supports(desc));
          if (tested_slowly() && group != groups[static_cast<std::size_t>(turn++) % groups.size()]) continue;
          const Fill fill = kAllFills[rng.integer(0, 4)];
          const auto n = static_cast<int32_t>(rng.integer(1, tested_slowly() ? 50 : 150));
          compare_with_reference(*make_digest_case(rng, desc, fill, n, rng.pick({0.0, 0.05, 0.9})), fill_name(fill));
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  });
}

TEST(LandmarkScore, matches_reference_around_tile_and_unit_lengths) {
  Random rng;
  for_each_target([&] {
    for (const DigestFormat& format : some_formats(rng, 32, 4)) {
      for (const int32_t n : tested_slowly() ? std::vector{1, 255, 256, 257, 513}
                                             : std::vector{1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025,
                                                           2048, 2049}) {
        const LandmarkScoreDesc desc = make_desc(format, rng.pick({4, 10}), kReduces[rng.integer(0, 1)]);
        compare_with_reference(*make_digest_case(rng, desc, Fill::normal, n, rng.pick({0.0, 0.1})), "lengths");
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  });
}

TEST(LandmarkScore, serves_head_dims_of_means_that_are_no_multiple_of_anything) {
  Random rng;
  for_each_target([&] {
    for (const int32_t dim : {2, 8, 20, 77, 512}) {
      for (const BlockCodec codec : {BlockCodec::raw, BlockCodec::int8}) {
        const DigestFormat format{DigestKind::mean, codec, DType::bf16, 8, dim};
        compare_with_reference(*make_digest_case(rng, make_desc(format, 5), Fill::normal, 70, 0.1), "odd head_dim");
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  });
}

TEST(LandmarkScore, refuses_what_it_cannot_read) {
  const auto served = [](DigestFormat format, int32_t group = 4) {
    return landmark_score_supports(make_desc(format, group));
  };
  EXPECT_TRUE(served({DigestKind::mean, BlockCodec::int8, DType::f32, 8, 512}));
  EXPECT_FALSE(served({DigestKind::mean, BlockCodec::int8, DType::f32, 8, 513}));
  EXPECT_FALSE(served({DigestKind::mean, BlockCodec::int4, DType::bf16, 8, 128}));
  EXPECT_FALSE(served({DigestKind::mean, BlockCodec::raw, DType::f16, 8, 128}));
  EXPECT_FALSE(served({DigestKind::mean, BlockCodec::raw, DType::bf16, 8, 128}, 0));
  EXPECT_TRUE(served({DigestKind::box, BlockCodec::raw, DType::bf16, 16, 256}));
  EXPECT_FALSE(served({DigestKind::box, BlockCodec::raw, DType::bf16, 16, 257}));
  EXPECT_FALSE(served({DigestKind::box, BlockCodec::int8, DType::bf16, 16, 128}));
  EXPECT_TRUE(served({DigestKind::keys_2bit, BlockCodec::raw, DType::bf16, 32, 256}));
  EXPECT_FALSE(served({DigestKind::keys_2bit, BlockCodec::raw, DType::bf16, 64, 128}));
  EXPECT_FALSE(served({DigestKind::keys_2bit, BlockCodec::raw, DType::bf16, 6, 128}));
  EXPECT_FALSE(served({DigestKind::keys_2bit, BlockCodec::raw, DType::bf16, 8, 112}));
  EXPECT_FALSE(served({DigestKind::keys_2bit, BlockCodec::int8, DType::bf16, 8, 128}));
}

TEST(LandmarkScore, weights_are_queries_multiplied_beforehand) {
  Random rng;
  for_each_target([&] {
    for (const DigestFormat& format : digest_formats(96, 8)) {
      const LandmarkScoreDesc desc = make_desc(format, rng.pick({3, 5}), kReduces[rng.integer(0, 1)]);
      const auto c = make_digest_case(rng, desc, Fill::normal, 70, 0.1);
      Buffer<float> weights(96), mass(int64_t{desc.group} * 70);
      for (float& w : weights.span()) w = rng.uniform(-1, 1);
      c->item.weights = weights.data();
      compare_with_reference(*c, "weights");
      if (::testing::Test::HasFatalFailure()) return;
      c->item.log_mass = mass.data();
      c->item.log_mass_stride = 70;
      run_tested(desc, {c->item});
      const std::vector<float> scores(c->scores->data(), c->scores->data() + 70);
      const std::vector<float> masses(mass.data(), mass.data() + mass.size());
      for (int64_t i = 0; i < c->q->size(); ++i) (*c->q)[i] *= weights[i % 96];
      c->item.weights = nullptr;
      run_tested(desc, {c->item});
      expect_same_bytes(c->scores->data(), scores.data(), scores.size() * 4, c->name());
      expect_same_bytes(mass.data(), masses.data(), masses.size() * 4, c->name());
    }
  });
}

// The most that the sums of the codes' products can be: int32 must hold them. Of the same sign as q, and opposed.
TEST(LandmarkScore, holds_the_largest_sums_of_codes) {
  Random rng;
  for_each_target([&] {
    for (const int32_t dim : {256, 512}) {
      const auto c = make_digest_case(
          rng, make_desc({DigestKind::mean, BlockCodec::int8, DType::bf16, 8, dim}, 3), Fill::normal, 9, 0.0);
      std::fill(c->q->span().begin(), c->q->span().end(), 1.0f);
      for (int32_t j = 0; j < c->item.n; ++j) {
        std::memset(c->item.digest.rows.row(j), j % 2 == 0 ? 127 : -127, static_cast<std::size_t>(dim));
        *static_cast<uint16_t*>(c->item.digest.scales.row(j)) = f32_to_f16(0.001f);
      }
      const Result want = reference_of(*c);
      run_tested(c->desc, {c->item});
      expect_close(c->scores->span(), want.scores, 1e-4f, c->name());
    }
  });
}

// q in 16 bits costs 2.6e-5 (rms) of a logit of standard deviation 1 at head_dim 128: step = max|q| / 32767 = 9e-5 in
// an element of size 1, uniform, so step / sqrt(12). Codes of 8 bits in the digest cost 250 times that.
TEST(LandmarkScore, rounding_q_to_16_bits_costs_less_than_1e_4_of_a_logit) {
  Random rng;
  for (const DigestKind kind : {DigestKind::mean, DigestKind::keys_2bit}) {
    const BlockCodec codec = kind == DigestKind::mean ? BlockCodec::int8 : BlockCodec::raw;
    const auto c = make_digest_case(rng, make_desc({kind, codec, DType::bf16, 8, 128}, 4), Fill::normal, 1000, 0.0);
    Buffer<float> mass(4 * 1000);
    c->item.log_mass = mass.data();
    c->item.log_mass_stride = 1000;
    run_tested(c->desc, {c->item});
    const Result want = reference_of(*c);
    double square = 0;
    for (std::size_t i = 0; i < mass.span().size(); ++i) {
      square += std::pow(mass.span()[i] - want.mass[i / 1000][i % 1000], 2);
    }
    const double rms = std::sqrt(square / static_cast<double>(mass.size()));
    EXPECT_LT(rms, 1e-4) << c->name();
    EXPECT_GT(rms, 1e-6) << "q is not rounded: the comment above is wrong; " << c->name();
  }
}

// Keys of scale 0 weigh exp(0), long ones opposite to q nothing.
TEST(LandmarkScore, sums_the_keys_of_a_chunk) {
  Random rng;
  for_each_target([&] {
    for (const int32_t chunk : {4, 8, 16, 32}) {
      const LandmarkScoreDesc desc = make_desc({DigestKind::keys_2bit, BlockCodec::raw, DType::bf16, chunk, 64}, 1);
      const auto c = make_digest_case(rng, desc, Fill::normal, chunk, 0.0);
      std::vector<float> opposite(c->q->span().begin(), c->q->span().end());
      hadamard_rows_ref(opposite.data(), 1, 64, false);
      for (float& x : opposite) x = -x;
      for (int32_t j = 0; j < chunk; ++j) {
        for (int32_t t = 0; t < chunk; ++t) {
          auto* scale = static_cast<uint16_t*>(c->item.digest.scales.row(j)) + t;
          std::vector<float> key = opposite;
          code_2bit(key, static_cast<uint8_t*>(c->item.digest.rows.row(j)) + t * 16, scale);
          *scale = f32_to_f16(t <= j ? 0.0f : 1000.0f);
        }
      }
      Buffer<float> mass(chunk);
      c->item.log_mass = mass.data();
      c->item.log_mass_stride = chunk;
      run_tested(c->desc, {c->item});
      for (int32_t j = 0; j < chunk; ++j) ASSERT_NEAR(mass[j], std::log(j + 1.0), 5e-7) << c->name();
    }
  });
}

TEST(LandmarkScore, best_chunks_are_those_of_the_reference) {
  Random rng;
  for_each_target([&] {
    for (const Fill fill : {Fill::normal, Fill::biased}) {
      for (const DigestFormat& format : some_formats(rng, 64, 8)) {
        const ScoreReduce reduce = format.kind == DigestKind::box ? ScoreReduce::raw_max : ScoreReduce::softmax_max;
        const auto c = make_digest_case(rng, make_desc(format, 4, reduce), fill, some(1500), 0.02);
        run_tested(c->desc, {c->item});
        const std::vector<float> want = reference_of(*c).scores;
        std::vector<int32_t> order(want.size()), best(want.size());
        std::iota(order.begin(), order.end(), 0);
        best = order;
        const auto got = c->scores->span();
        std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return got[a] > got[b]; });
        std::sort(best.begin(), best.end(), [&](int32_t a, int32_t b) { return want[a] > want[b]; });
        const std::size_t k = 1 + want.size() / 64;
        const float least = want[best[k - 1]], tolerance = 2 * score_tolerance(*c, want);
        for (std::size_t i = 0; i < k; ++i) {  // nothing chosen is worse than the k-th, nothing better is left out
          ASSERT_GE(want[order[i]], least - tolerance) << fill_name(fill) << " " << c->name();
          if (want[best[i]] <= least + tolerance) continue;
          ASSERT_NE(std::find(order.begin(), order.begin() + k, best[i]), order.begin() + k) << c->name();
        }
      }
    }
  });
}

TEST(LandmarkScore, writes_minus_infinity_and_nothing_else_where_all_is_excluded) {
  Random rng;
  for_each_target([&] {
    for (const DigestFormat& format : some_formats(rng, 32, 4)) {
      for (const int32_t n : {0, 1, 70, some(1500)}) {
        const LandmarkScoreDesc desc = make_desc(format, 4, kReduces[rng.integer(0, 1)]);
        const auto c = make_digest_case(rng, desc, Fill::normal, n, 1.0);
        run_tested(c->desc, {c->item});
        for (const float s : c->scores->span()) ASSERT_EQ(s, kExcluded) << c->name();
        for (int64_t i = 0; c->log_mass && i < c->log_mass->size(); ++i) {
          ASSERT_EQ((*c->log_mass)[i], i % c->item.log_mass_stride < n ? kExcluded : -7.0f) << c->name();
        }
      }
    }
  });
}

TEST(LandmarkScore, does_not_let_excluded_digests_reach_the_others) {
  Random rng;
  for_each_target([&] {
    for (const DigestFormat& format : digest_formats(64, 4)) {
      const auto n = static_cast<int32_t>(rng.pick({200, some(1100)}));
      const auto c = make_digest_case(rng, make_desc(format, 4, kReduces[rng.integer(0, 1)]), Fill::normal, n, 0.1);
      for (int32_t j = 0; j < n; ++j) {
        if (c->is_excluded(j)) poison_digest(rng, *c, j);
      }
      compare_with_reference(*c, "NaN in excluded digests");
    }
  });
}

// Of a digest: in its own log masses, and in every score that is normalised over it.
TEST(LandmarkScore, keeps_nan_in_its_item) {
  Random rng;
  for_each_target([&] {
    for (const DigestFormat& format : some_formats(rng, 64, 4)) {
      for (const bool in_q : {true, false}) {
        const ScoreReduce reduce = kReduces[rng.integer(0, 1)];
        const auto n = static_cast<int32_t>(rng.pick({90, some(1100)}));
        std::vector<std::unique_ptr<DigestCase>> cases;
        std::vector<LandmarkScoreItem> items;
        for (int i = 0; i < 3; ++i) {
          cases.push_back(make_digest_case(rng, make_desc(format, 12, reduce), Fill::normal, n, 0.1));
        }
        auto damaged = static_cast<int32_t>(rng.integer(0, n - 1));
        while (cases[1]->is_excluded(damaged)) damaged = (damaged + 1) % n;
        const int64_t head = rng.pick({0, 2, 11});
        using Limits = std::numeric_limits<float>;
        const float bad = cases[1]->coded() && rng.chance(0.5) ? Limits::infinity() : Limits::quiet_NaN();
        if (in_q) (*cases[1]->q)[64 * head + 63] = bad;
        else poison_digest(rng, *cases[1], damaged);
        for (const auto& c : cases) items.push_back(c->item);
        run_tested(cases[0]->desc, items);
        for (int32_t j = 0; j < n; ++j) {
          for (const std::size_t other : {0, 2}) {
            const float s = (*cases[other]->scores)[j];
            ASSERT_TRUE(cases[other]->is_excluded(j) ? s == kExcluded : std::isfinite(s)) << cases[1]->name();
          }
          const float s = (*cases[1]->scores)[j];
          if (cases[1]->is_excluded(j)) {
            ASSERT_EQ(s, kExcluded) << cases[1]->name();
            continue;
          }
          const bool all = in_q || reduce == ScoreReduce::softmax_max;
          ASSERT_EQ(std::isnan(s), all || j == damaged) << j << " " << s << " " << cases[1]->name();
          for (int64_t g = 0; cases[1]->log_mass && g < 12; ++g) {
            const float m = cases[1]->item.log_mass[g * cases[1]->item.log_mass_stride + j];
            ASSERT_EQ(std::isnan(m), in_q ? g == head : j == damaged) << j << " " << g << " " << cases[1]->name();
          }
        }
      }
    }
  });
}

TEST(LandmarkScore, keeps_valid_chunks_apart_from_excluded_ones_when_every_logit_is_minus_infinity) {
  Random rng;
  for_each_target([&] {
    for (const ScoreReduce reduce : kReduces) {
      const auto c = make_digest_case(
          rng, make_desc({DigestKind::mean, BlockCodec::raw, DType::f32, 8, 32}, 2, reduce), Fill::normal, some(1100),
          0.0);
      for (float& x : c->q->span()) x = std::fabs(x) + 0.1f;
      for (int32_t j = 0; j < c->item.n; ++j) {
        for (int32_t d = 0; d < 32; ++d) store_f32(c->item.digest.rows.row(j), DType::f32, d, kExcluded);
      }
      run_tested(c->desc, {c->item});
      for (const float s : c->scores->span()) ASSERT_EQ(s, reduce == ScoreReduce::raw_max ? -FLT_MAX : 0.0f);
    }
  });
}

TEST(LandmarkScore, gives_equal_scores_to_equal_digests_wherever_they_stand) {
  Random rng;
  for_each_target([&] {
    for (const DigestFormat& format : some_formats(rng, 80, 8)) {
      const LandmarkScoreDesc desc = make_desc(format, 6, kReduces[rng.integer(0, 1)]);
      const int32_t n = some(2100);
      const auto c = make_digest_case(rng, desc, Fill::normal, n, 0.0);
      std::vector<int32_t> twins = {0, 1, 15, 16, 63, 64, 255, 256};
      for (const int32_t j : {1023, 1024, n - 50, n - 3, n - 2, n - 1}) {
        if (j < n) twins.push_back(j);
      }
      for (const int32_t j : twins) copy_digest(*c, 0, j);
      run_tested(c->desc, {c->item});
      for (const int32_t j : twins) {
        ASSERT_EQ((*c->scores)[j], (*c->scores)[0]) << j << " " << c->name();
        for (int32_t g = 0; c->log_mass && g < 6; ++g) {
          const float* m = c->item.log_mass + g * c->item.log_mass_stride;
          ASSERT_EQ(m[j], m[0]) << j << " " << c->name();
        }
      }
    }
  });
}

TEST(LandmarkScore, result_depends_neither_on_threads_pages_nor_other_items) {
  Random rng;
  for_each_target([&] {
    for (const DigestFormat& format : some_formats(rng, 64, 4)) {
      const ScoreReduce reduce = kReduces[rng.integer(0, 1)];
      std::vector<std::unique_ptr<DigestCase>> cases;
      std::vector<LandmarkScoreItem> items;
      for (const int32_t n : {some(2500), 3, 0, tested_slowly() ? 256 : 1024, some(1300)}) {
        cases.push_back(make_digest_case(rng, make_desc(format, 5, reduce), Fill::normal, n, 0.02));
        items.push_back(cases.back()->item);
      }
      with_threads(3, [&] { run_tested(cases[0]->desc, items); });
      for (const auto& c : cases) {
        const int32_t n = std::max(c->item.n, 1);
        Pages rows, scales, variances;
        LandmarkScoreItem alone = c->item;
        alone.digest = {rows.make(n, n, format.row_bytes()), scales.make(n, n, format.scale_bytes()),
                        variances.make(n, n, format.variance_bytes())};
        const auto copy = [&](const PagedRows& from, const PagedRows& to) {
          for (int32_t j = 0; to.pages != nullptr && j < c->item.n; ++j) {
            std::memcpy(to.row(j), from.row(j), static_cast<std::size_t>(to.row_bytes));
          }
        };
        copy(c->item.digest.rows, alone.digest.rows);
        copy(c->item.digest.scales, alone.digest.scales);
        copy(c->item.digest.variances, alone.digest.variances);
        Buffer<float> scores(c->item.n), mass(int64_t{5} * n);
        alone.scores = scores.data();
        alone.log_mass = c->log_mass ? nullptr : mass.data();  // what else is asked for must not matter either
        alone.log_mass_stride = n;
        with_threads(1, [&] { run_tested(c->desc, {alone}); });
        expect_same_bytes(scores.data(), c->scores->data(), static_cast<std::size_t>(c->item.n) * 4, c->name());
      }
    }
  });
}

TEST(LandmarkScore, reads_pages_past_two_to_the_31_elements) {
  if (!ops_see_all_memory()) GTEST_SKIP() << "so many addresses cannot be shown to a GPU";
  Random rng;
  constexpr int64_t kOffset = (int64_t{1} << 32) + 4096;
  SparseRegion region(kOffset + (256 << 10));
  void* page = region.at(0);
  for_each_target([&] {
    for (const DigestFormat& format : some_formats(rng, 128, 8)) {
      const auto c = make_digest_case(rng, make_desc(format, 4), Fill::normal, 100, 0.0);
      int64_t at = kOffset;
      for (PagedRows* rows : {&c->item.digest.rows, &c->item.digest.scales, &c->item.digest.variances}) {
        if (rows->pages == nullptr) continue;
        for (int32_t j = 0; j < 100; ++j) {
          std::memcpy(region.at(at + j * rows->row_bytes), rows->row(j), static_cast<std::size_t>(rows->row_bytes));
        }
        *rows = {&page, at, 100, rows->row_bytes, 1};
        at += (100 * rows->row_bytes + 15) / 16 * 16;
      }
      compare_with_reference(*c, "far rows");
    }
  });
}

// Medians come out as seconds; the rows of one group follow each other, so that their ratios hold on a busy machine.
void bench_format(const char* variant, const char* name, const DigestFormat& format, int32_t group, int64_t tokens) {
  constexpr int32_t kHeads = 8, kRowsPerPage = 256;
  const auto n = static_cast<int32_t>(tokens / format.chunk);
  const int64_t head_bytes = kRowsPerPage * format.chunk_bytes(), page_bytes = kHeads * head_bytes;
  const int64_t pages = (n + kRowsPerPage - 1) / kRowsPerPage, layer_bytes = pages * page_bytes;
  const int32_t layers = bench_layers(layer_bytes, 16);
  SparseRegion data(static_cast<std::size_t>(layers * layer_bytes), true);
  // Bytes that read as f16 and bf16 of ordinary size whatever array they fall in: 0x3800 to 0x3bff, of both signs.
  for (int64_t i = 0; i < layers * layer_bytes; i += 2) {
    const auto mixed = static_cast<uint32_t>(i * 2654435761u >> 9);
    const auto half = static_cast<uint16_t>(0x3800u | (mixed & 0x83ffu));
    std::memcpy(data.at(i), &half, 2);
  }
  const LandmarkScoreDesc desc = make_desc(format, group);
  std::vector<void*> page_list;
  for (int64_t p = 0; p < layers * pages; ++p) page_list.push_back(data.at(p * page_bytes));
  std::vector<float> q(static_cast<std::size_t>(kHeads * group * format.head_dim));
  std::vector<float> scores(static_cast<std::size_t>(kHeads * n));
  std::vector<LandmarkScoreItem> items(kHeads);
  std::vector<char> workspace(landmark_score_workspace_bytes(desc, int64_t{kHeads} * n));
  Random rng;
  const BenchRow row{.op = "landmark_score", .variant = variant,
      .shape = std::string(name) + ", " + std::to_string(kHeads * group) + "/8/" + std::to_string(format.head_dim) +
               ", chunk " + std::to_string(format.chunk),
      .tokens = tokens, .layers = layers, .working_set_bytes = layers * layer_bytes,
      .bytes = static_cast<double>(kHeads) * n * static_cast<double>(format.chunk_bytes())};
  run_bench(row, [&](int64_t i) {
    for (float& x : q) x = rng.normal();
    for (int32_t h = 0; h < kHeads; ++h) {
      void* const* first = page_list.data() + (i % layers) * pages;
      const auto rows = [&](int64_t before, int64_t bytes) {  // one array of a page after another, heads within it
        const int64_t at = kRowsPerPage * (kHeads * before + h * bytes);
        if (bytes == 0) return PagedRows{};
        return PagedRows{first, at, kRowsPerPage, static_cast<int32_t>(bytes), static_cast<int32_t>(pages)};
      };
      LandmarkScoreItem& item = items[static_cast<std::size_t>(h)];
      item.q = q.data() + int64_t{h} * group * format.head_dim;
      item.digest = {rows(0, format.row_bytes()), rows(format.row_bytes(), format.scale_bytes()),
                     rows(format.row_bytes() + format.scale_bytes(), format.variance_bytes())};
      item.n = n;
      item.scores = scores.data() + int64_t{h} * n;
    }
    tested_ops().landmark_score(desc, items, workspace.data());
  });
}

void bench() {
  const int64_t tokens = bench_small() ? 4096 : 131072;
  for_each_bench_target([&](const char* variant) {
    for (const int32_t group : {4, 1, 8}) {
      const auto row = [&](const char* name, DigestKind kind, BlockCodec codec) {
        bench_format(variant, name, {kind, codec, DType::bf16, 8, 128}, group, tokens);
      };
      row("mean bf16", DigestKind::mean, BlockCodec::raw);
      row("mean int8", DigestKind::mean, BlockCodec::int8);
      row("mean + variance int8", DigestKind::mean_variance, BlockCodec::int8);
      row("keys 2-bit", DigestKind::keys_2bit, BlockCodec::raw);
      row("box bf16", DigestKind::box, BlockCodec::raw);
      if (group == 4) row("mean + variance bf16", DigestKind::mean_variance, BlockCodec::raw);
    }
  });
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
