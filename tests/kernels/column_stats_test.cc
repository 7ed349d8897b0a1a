#include "kernels/column_stats/column_stats.h"

#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::ColumnEnergyArgs;
using kernels::ColumnMeanArgs;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

int64_t some_rows(Random& rng) {
  if (tested_slowly()) return rng.pick<int64_t>({0, 1, 5, 260, 1100});
  return rng.pick<int64_t>({0, 1, 5, 260, 1100, 3000});
}

struct EnergyCase {
  int32_t heads, group, head_dim;
};

void expect_energy(Random& rng, const EnergyCase& c, int64_t n, Fill fill, bool damaged) {
  const int64_t width = int64_t{c.heads} * c.head_dim, entries = c.heads / c.group * c.head_dim;
  Buffer<float> x(n * width, rng.pick({4, 16}));
  Buffer<double> got(entries), want(entries);
  fill_rows(rng, fill, DType::f32, x.data(), n, width);
  for (int64_t i = 0; damaged && i < x.size(); i += 7) x[i] = rng.pick({kNaN, kInfinity, -kInfinity, 3e38f, 1.0f});
  for (int64_t i = 0; i < entries; ++i) got[i] = want[i] = rng.uniform(0.0f, 10.0f);
  ColumnEnergyArgs args{x.data(), n, c.heads, c.group, c.head_dim, want.data()};
  kernels::column_energy_ref(args);
  args.energy = got.data();
  tested_ops().column_energy(args);
  for (int64_t i = 0; i < entries; ++i) {
    ASSERT_LE(std::fabs(got[i] - want[i]), 1e-6 * std::fabs(want[i]))
        << i << " n=" << n << " heads " << c.heads << " group " << c.group << " d " << c.head_dim << " "
        << fill_name(fill);
  }
}

TEST(ColumnMean, is_the_mean_within_1e_6_of_the_largest_element) {
  Random rng;
  for_each_target([&] {
    for (int32_t m : {1, 3, 8, 20, 31, 100, 130}) {
      const int64_t n = some_rows(rng);
      const Fill fill = rng.pick({Fill::normal, Fill::biased, Fill::extremes, Fill::zeros});
      Buffer<float> x(n * m, rng.pick({4, 16})), got(m), want(m);
      fill_rows(rng, fill, DType::f32, x.data(), n, m);
      kernels::column_mean_ref({x.data(), n, m, want.data()});
      tested_ops().column_mean({x.data(), n, m, got.data()});
      expect_close(got.span(), want.span(), 1e-6f * max_abs(x.span()),
                   "n=" + std::to_string(n) + " m=" + std::to_string(m) + " " + fill_name(fill));
      if (HasFatalFailure()) return;
    }
  });
}

TEST(ColumnEnergy, adds_the_squares_of_every_head_of_a_group) {
  Random rng;
  for_each_target([&] {
    for (const EnergyCase& c : {EnergyCase{2, 1, 64}, {4, 2, 80}, {6, 3, 32}, {1, 1, 20}, {2, 2, 9}}) {
      expect_energy(rng, c, some_rows(rng), rng.pick({Fill::normal, Fill::biased, Fill::zeros}), false);
      if (HasFatalFailure()) return;
    }
  });
}

TEST(ColumnEnergy, takes_squares_that_are_not_finite_for_zero) {
  Random rng;
  for_each_target([&] { expect_energy(rng, {2, 1, 36}, 33, Fill::normal, true); });
}

TEST(ColumnEnergy, of_no_rows_changes_nothing) {
  Random rng;
  for_each_target([&] { expect_energy(rng, {2, 1, 32}, 0, Fill::zeros, false); });
}

TEST(ColumnMean, nan_stays_in_its_column) {
  for_each_target([&] {
    Buffer<float> x(3 * 20), got(20);
    std::fill_n(x.data(), 60, 2.0f);
    x[20 + 7] = kNaN;
    tested_ops().column_mean({x.data(), 3, 20, got.data()});
    for (int64_t c = 0; c < 20; ++c) EXPECT_TRUE(c == 7 ? std::isnan(got[c]) : got[c] == 2.0f) << c;
  });
}

// Nor does the SIMD target: lanes are columns.
TEST(ColumnStats, threads_and_their_order_change_no_bit) {
  Random rng;
  const int64_t n = tested_slowly() ? 300 : 1000;
  const int32_t heads = 3, dim = 40;
  Buffer<float> x(n * heads * dim), mean(heads * dim), first_mean(heads * dim);
  Buffer<double> energy(heads * dim), first_energy(heads * dim);
  fill_rows(rng, Fill::biased, DType::f32, x.data(), n, heads * dim);
  bool first = true;
  for_each_target([&] {
    for (int threads : {1, 3}) {
      std::fill_n(energy.data(), energy.size(), 0.0);
      with_threads(threads, [&] {
        tested_ops().column_mean({x.data(), n, heads * dim, mean.data()});
        tested_ops().column_energy({x.data(), n, heads, 1, dim, energy.data()});
      });
      if (first) std::copy_n(mean.data(), mean.size(), first_mean.data());
      if (first) std::copy_n(energy.data(), energy.size(), first_energy.data());
      first = false;
      expect_same_bytes(mean.data(), first_mean.data(), static_cast<std::size_t>(mean.size()) * 4, "mean");
      expect_same_bytes(energy.data(), first_energy.data(), static_cast<std::size_t>(energy.size()) * 8, "energy");
    }
  });
}

void bench() {
  const int64_t n = bench_small() ? 64 : 4096;
  const int32_t heads = 8, dim = 128, layers = bench_layers(n * heads * dim * 4);
  Buffer<float> x(layers * n * heads * dim), mean(heads * dim);
  Buffer<double> energy(heads * dim);
  std::fill_n(x.data(), x.size(), 0.5f);
  std::fill_n(energy.data(), energy.size(), 0.0);
  for_each_bench_target([&](const char* variant) {
    BenchRow row{.op = "column_mean", .variant = variant, .shape = "1024 f32", .tokens = n, .layers = layers,
                 .working_set_bytes = x.size() * 4, .bytes = 4.0 * static_cast<double>(n * heads * dim)};
    const auto rows = [&](int64_t sample) { return x.data() + sample % layers * n * heads * dim; };
    run_bench(row, [&](int64_t sample) { tested_ops().column_mean({rows(sample), n, heads * dim, mean.data()}); });
    row.op = "column_energy";
    run_bench(row, [&](int64_t sample) {
      tested_ops().column_energy({rows(sample), n, heads, 1, dim, energy.data()});
    });
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
