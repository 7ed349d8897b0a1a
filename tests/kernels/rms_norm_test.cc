#include "kernels/rms_norm/rms_norm.h"

#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::rms_norm_ref;

std::string shape(int64_t m, int64_t n, Fill fill) {
  return "m=" + std::to_string(m) + " n=" + std::to_string(n) + " " + fill_name(fill);
}

void compare(Random& rng, int64_t m, int64_t n, Fill fill, float scale) {
  Buffer<float> x(m * n), w(n), got(m * n), want(m * n);
  fill_rows(rng, fill, DType::f32, x.data(), m, n, scale);
  fill_rows(rng, Fill::normal, DType::f32, w.data(), 1, n);
  rms_norm_ref(x.data(), w.data(), 1e-5f, m, n, want.data());
  tested_ops().rms_norm(x.data(), w.data(), 1e-5f, m, n, got.data());
  for (int64_t i = 0; i < m * n; ++i) {
    ASSERT_LE(std::fabs(got[i] - want[i]), 1e-6f * std::fabs(want[i]) + 3e-45f)  // and two subnormal steps
        << "index " << i << " " << shape(m, n, fill);
  }
  tested_ops().rms_norm(x.data(), w.data(), 1e-5f, m, n, x.data());
  expect_same_bytes(x.data(), got.data(), static_cast<std::size_t>(m * n) * 4, "in place " + shape(m, n, fill));
}

TEST(RmsNorm, matches_the_reference_within_1e_6_relative) {
  Random rng;
  for_each_target([&] {
    for (Fill fill : kAllFills) {
      for (int64_t n : {1, 3, 16, 33, 192, 255, 257, 4096, 14336, 16500}) {
        if (tested_slowly() && n > 4096 && fill != Fill::biased) continue;
        compare(rng, rng.integer(1, tested_slowly() ? 2 : 7), n, fill, 1.0f);
        if (!tested_slowly() || n < 4096) compare(rng, 2, n, fill, 1e-6f);
        if (HasFatalFailure()) return;
      }
    }
  });
}

TEST(RmsNorm, zero_rows_give_zeros_and_no_rows_touch_nothing) {
  for_each_target([&] {
    Buffer<float> x(64), w(64), y(64);
    std::fill_n(x.data(), 64, 0.0f);
    std::fill_n(w.data(), 64, 3.0f);
    y[5] = 7.0f;
    tested_ops().rms_norm(x.data(), w.data(), 1e-6f, 0, 64, y.data());
    EXPECT_EQ(y[5], 7.0f);
    tested_ops().rms_norm(x.data(), w.data(), 1e-6f, 1, 64, y.data());
    for (float v : y.span()) EXPECT_EQ(v, 0.0f);
  });
}

TEST(RmsNorm, nan_stays_in_its_row) {
  Random rng;
  for_each_target([&] {
    const int64_t m = 9, n = 130;
    Buffer<float> x(m * n), w(n), got(m * n), want(m * n);
    fill_rows(rng, Fill::normal, DType::f32, x.data(), m, n);
    fill_rows(rng, Fill::normal, DType::f32, w.data(), 1, n);
    x[4 * n + 129] = std::numeric_limits<float>::quiet_NaN();
    rms_norm_ref(x.data(), w.data(), 1e-5f, m, n, want.data());
    tested_ops().rms_norm(x.data(), w.data(), 1e-5f, m, n, got.data());
    for (int64_t j = 0; j < n; ++j) EXPECT_TRUE(std::isnan(got[4 * n + j])) << j;
    expect_close(got.span(), want.span(), 1e-5f, "nan row 4");
  });
}

TEST(RmsNorm, threads_and_other_rows_change_no_bit) {
  Random rng;
  const int64_t m = tested_slowly() ? 40 : 300, n = 192;
  Buffer<float> x(m * n), w(n), all(m * n), one(n);
  fill_rows(rng, Fill::biased, DType::f32, x.data(), m, n);
  fill_rows(rng, Fill::normal, DType::f32, w.data(), 1, n);
  with_threads(3, [&] { tested_ops().rms_norm(x.data(), w.data(), 1e-5f, m, n, all.data()); });
  for (int64_t i = 0; i < m; i += 37) {
    with_threads(1, [&] { tested_ops().rms_norm(x.data() + i * n, w.data(), 1e-5f, 1, n, one.data()); });
    expect_same_bytes(one.data(), all.data() + i * n, static_cast<std::size_t>(n) * 4, "row " + std::to_string(i));
  }
}

void bench() {
  const int64_t m = bench_small() ? 4 : 256, n = 4096;
  const int32_t layers = bench_layers(2 * m * n * 4);
  Buffer<float> x(layers * m * n), y(layers * m * n), w(n);
  std::fill_n(x.data(), x.size(), 0.5f);
  std::fill_n(w.data(), n, 1.0f);
  for_each_bench_target([&](const char* variant) {
    const BenchRow row{.op = "rms_norm", .variant = variant, .shape = std::to_string(m) + "x" + std::to_string(n),
                       .tokens = m, .layers = layers, .working_set_bytes = int64_t{layers} * 2 * m * n * 4,
                       .bytes = 8.0 * static_cast<double>(m * n)};
    run_bench(row, [&](int64_t sample) {
      const int64_t at = sample % layers * m * n;
      tested_ops().rms_norm(x.data() + at, w.data(), 1e-5f, m, n, y.data() + at);
    });
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
