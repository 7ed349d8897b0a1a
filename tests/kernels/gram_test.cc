#include "kernels/gram/gram.h"

#include "kernels/subspace_basis/symmetric_eigen.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::GramArgs;

struct Moments {
  std::vector<float> g;
  std::vector<double> sum;
  explicit Moments(int64_t m) : g(static_cast<std::size_t>(m * m), 0.0f), sum(static_cast<std::size_t>(m), 0.0) {}
};

// Rows [0, n) in calls of at most `block` rows.
void accumulate(const kernels::Ops& ops, const float* x, int64_t ldx, int64_t n, int32_t m, const float* center,
                int64_t block, Moments& moments) {
  for (int64_t t = 0; t < n; t += block) {
    const int64_t rows = std::min(block, n - t);
    Buffer<char> workspace(static_cast<int64_t>(kernels::gram_workspace_bytes(rows, m)), 64);
    ops.gram({x + t * ldx, ldx, rows, m, center, moments.g.data(), moments.sum.data()}, workspace.data());
  }
}

// before: g as it was given to both.
void expect_moments(const Moments& got, const Moments& want, const Moments& before, float tolerance,
                    const std::string& params) {
  const auto m = static_cast<int64_t>(want.sum.size());
  const auto added = [&](int64_t i) { return std::max(want.g[i * m + i] - before.g[i * m + i], 0.0f); };
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < m; ++j) {
      const float rounding = tested_rounds_products() ? 8e-3f * std::sqrt(added(i)) * std::sqrt(added(j)) : 0.0f;
      ASSERT_NEAR(got.g[i * m + j], want.g[i * m + j], tolerance * max_abs(want.g) + rounding)
          << params << " i=" << i << " j=" << j;
      ASSERT_EQ(got.g[i * m + j], got.g[j * m + i]) << params;
    }
  double largest = 1e-30;
  for (double s : want.sum) largest = std::max(largest, std::fabs(s));
  for (int64_t j = 0; j < m; ++j) ASSERT_NEAR(got.sum[j], want.sum[j], 1e-5 * largest) << params;
}

void check(Random& rng, Fill fill, int64_t n, int32_t m) {
  const int64_t ldx = m + rng.integer(0, 5);
  Buffer<float> x(n * ldx), center(m);
  fill_rows(rng, fill, DType::f32, x.data(), n, ldx);
  for (int32_t j = 0; j < m; ++j) center[j] = n > 0 ? x[j] : 1.0f;
  Moments before(m);
  for (int32_t i = 0; i < m; ++i)
    for (int32_t j = 0; j < m; ++j) before.g[i * m + j] = static_cast<float>(i * j % 7);
  before.sum[0] = 3.0;
  Moments got = before, want = before;
  accumulate(tested_ops(), x.data(), ldx, n, m, center.data(), n + 1, got);
  accumulate(kernels::ref_ops(), x.data(), ldx, n, m, center.data(), n + 1, want);
  // Equal products round the same way every time: half a unit for each of the 256 terms of a block.
  const bool repeats = fill == Fill::ties || fill == Fill::extremes;
  expect_moments(got, want, before, repeats ? 256 * 0x1p-24f : 2e-6f,
                 std::string(fill_name(fill)) + " n=" + std::to_string(n) + " m=" + std::to_string(m));
}

TEST(Gram, matches_reference) {
  Random rng;
  for_each_target([&] {
    for (Fill fill : kAllFills)
      if (tested_slowly()) check(rng, fill, rng.pick({0, 1, 5, 64, 130}), static_cast<int32_t>(rng.integer(1, 140)));
      else check(rng, fill, rng.pick({0, 1, 5, 255, 256, 300, 600}), static_cast<int32_t>(rng.integer(1, 150)));
  });
}

TEST(Gram, takes_more_rows_than_one_product) {
  Random rng;
  check(rng, Fill::normal, 4099, 9);
}

TEST(Gram, does_not_depend_on_the_number_of_threads) {
  if (tested_slowly()) GTEST_SKIP() << "no OpenMP team here";
  Random rng;
  const int32_t m = 200;
  const int64_t n = 700;
  Buffer<float> x(n * m), center(m);
  fill_rows(rng, Fill::normal, DType::f32, x.data(), n, m);
  fill_rows(rng, Fill::normal, DType::f32, center.data(), 1, m);
  Moments one(m), three(m);
  with_threads(1, [&] { accumulate(tested_ops(), x.data(), m, n, m, center.data(), 4096, one); });
  with_threads(3, [&] { accumulate(tested_ops(), x.data(), m, n, m, center.data(), 4096, three); });
  expect_same_bytes(one.g.data(), three.g.data(), one.g.size() * sizeof(float), "g");
  expect_same_bytes(one.sum.data(), three.sum.data(), one.sum.size() * sizeof(double), "sum");
}

// Keys with a bias 100 times their spread, centre guessed from the first 64: the spectrum of the centred Gram matrix
// against the same in double. Returns the largest difference over the largest eigenvalue.
double spectral_error(Random& rng, bool guess_center) {
  const int32_t m = 96;
  const int64_t n = tested_slowly() ? 5000 : 9000;
  std::vector<float> x(n * m), center(m, 0.0f);
  fill_rows(rng, Fill::biased, DType::f32, x.data(), n, m);
  for (int64_t t = 0; t < 64 && guess_center; ++t)
    for (int32_t j = 0; j < m; ++j) center[j] += x[t * m + j] / 64.0f;
  Moments got(m);
  accumulate(tested_ops(), x.data(), m, n, m, center.data(), 4096, got);
  tested_ops().gram_center(got.g.data(), got.sum.data(), n, m);
  std::vector<double> mean(m, 0.0), difference(m * m), exact(m * m, 0.0), values(m),
      work(static_cast<std::size_t>(kernels::symmetric_eigen_workspace_doubles(m)));
  for (int64_t i = 0; i < n * m; ++i) mean[i % m] += x[i] / static_cast<double>(n);
  for (int64_t t = 0; t < n; ++t)
    for (int32_t i = 0; i < m; ++i)
      for (int32_t j = 0; j < m; ++j) exact[i * m + j] += (x[t * m + i] - mean[i]) * (x[t * m + j] - mean[j]);
  for (int32_t i = 0; i < m * m; ++i) difference[i] = got.g[i] - exact[i];
  EXPECT_TRUE(kernels::symmetric_eigen(m, exact.data(), values.data(), work.data()));
  const double norm = values[m - 1];
  EXPECT_TRUE(kernels::symmetric_eigen(m, difference.data(), values.data(), work.data()));
  return std::max(std::fabs(values[0]), std::fabs(values[m - 1])) / norm;
}

TEST(Gram, a_bias_of_100_times_the_spread_costs_little_of_the_spectrum) {
  Random rng;
  const double little = tested_rounds_products() ? 2e-3 : 1e-4;
  EXPECT_LT(spectral_error(rng, true), little);
  EXPECT_GT(spectral_error(rng, false), little)
      << "without the provisional centre nothing is lost: the test shows nothing";
}

TEST(GramCenter, matches_reference) {
  Random rng;
  for (int32_t m : {1, 31, 300}) {
    Buffer<float> got(int64_t{m} * m), want(int64_t{m} * m);
    Buffer<double> sum(m);
    fill_rows(rng, Fill::normal, DType::f32, got.data(), m, m);
    std::copy_n(got.data(), got.size(), want.data());
    for (double& s : sum.span()) s = 10.0 * rng.normal();
    tested_ops().gram_center(got.data(), sum.data(), 17, m);
    kernels::gram_center_ref(want.data(), sum.data(), 17, m);
    expect_close(got.span(), want.span(), 1e-6f * max_abs(want.span()), "m=" + std::to_string(m));
  }
}

TEST(GramCenter, of_no_rows_changes_nothing) {
  std::vector<float> g = {1, 2, 2, 5};
  const std::vector<double> sum = {0.0, 0.0};
  tested_ops().gram_center(g.data(), sum.data(), 0, 2);
  EXPECT_EQ(g, (std::vector<float>{1, 2, 2, 5}));
}

void bench() {
  const int64_t n = bench_small() ? 128 : 4096;
  const int32_t m = bench_small() ? 64 : 1024, layers = bench_layers(n * m * 4);
  std::vector<float> x(static_cast<std::size_t>(layers * n * m), 0.5f), center(m, 0.25f);
  Moments moments(m);
  Buffer<char> workspace(static_cast<int64_t>(kernels::gram_workspace_bytes(n, m)), 64);
  for_each_bench_target([&](const char* variant) {
    const BenchRow row{.op = "gram",
                       .variant = variant,
                       .shape = std::to_string(m) + " f32",
                       .tokens = n,
                       .layers = layers,
                       .working_set_bytes = int64_t{layers} * n * m * 4,
                       .bytes = 4.0 * static_cast<double>(n * m + m * m),
                       .flops = static_cast<double>(n) * m * (m + 1)};
    run_bench(row, [&](int64_t sample) {
      tested_ops().gram(
          {x.data() + sample % layers * n * m, m, n, m, center.data(), moments.g.data(), moments.sum.data()},
          workspace.data());
    });
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
