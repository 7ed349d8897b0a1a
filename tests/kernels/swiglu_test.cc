#include "kernels/swiglu/swiglu.h"

#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::swiglu_ref;

TEST(Swiglu, relative_error_is_at_most_2e_6_for_gates_within_80) {
  Random rng;
  for_each_target([&] {
    for (int64_t n : {1, 5, 16, 31, 384, 4095, 4096, 5000}) {
      const int64_t m = rng.integer(1, tested_slowly() ? 3 : 40);
      Buffer<float> gu(m * 2 * n), got(m * n), want(m * n);
      for (float& v : gu.span()) v = rng.chance(0.5) ? rng.uniform(-80.0f, 80.0f) : rng.normal();
      swiglu_ref(gu.data(), m, n, want.data());
      tested_ops().swiglu(gu.data(), m, n, got.data());
      for (int64_t i = 0; i < m * n; ++i) {
        ASSERT_LE(std::fabs(got[i] - want[i]), 2e-6f * std::fabs(want[i]) + 3e-45f)  // and two subnormal steps
            << "gate " << gu[i / n * 2 * n + i % n] << " n=" << n << " m=" << m;
      }
    }
  });
}

TEST(Swiglu, large_gates_saturate_to_zero_or_the_gate) {
  for_each_target([&] {
    const std::vector<float> gates = {-3e38f, -1e4f, -200.0f, -90.0f, -88.0f, -87.3f, -0.0f, 0.0f,
                                      87.3f,  88.0f, 89.0f,   200.0f, 1e4f,   3e38f};
    const int64_t n = static_cast<int64_t>(gates.size());
    Buffer<float> gu(2 * n), y(n);
    std::copy(gates.begin(), gates.end(), gu.data());
    std::fill_n(gu.data() + n, n, -1.0f);
    tested_ops().swiglu(gu.data(), 1, n, y.data());
    for (int64_t i = 0; i < n; ++i) {
      const float want = gu[i] > 0.0f ? -gu[i] : 0.0f;
      EXPECT_LE(std::fabs(y[i] - want), 1e-30f + 2e-6f * std::fabs(want)) << "gate " << gu[i];
    }
  });
}

TEST(Swiglu, nan_stays_in_its_element_and_no_rows_touch_nothing) {
  for_each_target([&] {
    const int64_t n = 37;
    Buffer<float> gu(2 * n), y(n);
    std::fill_n(gu.data(), 2 * n, 1.0f);
    gu[36] = std::numeric_limits<float>::quiet_NaN();
    gu[n + 3] = std::numeric_limits<float>::quiet_NaN();
    y[0] = 7.0f;
    tested_ops().swiglu(gu.data(), 0, n, y.data());
    EXPECT_EQ(y[0], 7.0f);
    tested_ops().swiglu(gu.data(), 1, n, y.data());
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(std::isnan(y[i]), i == 36 || i == 3) << i;
  });
}

TEST(Swiglu, threads_change_no_bit) {
  if (tested_slowly()) GTEST_SKIP() << "OpenMP threads";
  Random rng;
  const int64_t m = 50, n = 1000;
  Buffer<float> gu(m * 2 * n), a(m * n), b(m * n);
  fill_rows(rng, Fill::normal, DType::f32, gu.data(), m, 2 * n, 5.0f);
  with_threads(1, [&] { tested_ops().swiglu(gu.data(), m, n, a.data()); });
  with_threads(3, [&] { tested_ops().swiglu(gu.data(), m, n, b.data()); });
  expect_same_bytes(a.data(), b.data(), static_cast<std::size_t>(m * n) * 4, "1 and 3 threads");
}

void bench() {
  const int64_t m = bench_small() ? 4 : 256, n = 4096;
  const int32_t layers = bench_layers(3 * m * n * 4);
  Buffer<float> gu(layers * m * 2 * n), y(layers * m * n);
  std::fill_n(gu.data(), gu.size(), 0.5f);
  for_each_bench_target([&](const char* variant) {
    const BenchRow row{.op = "swiglu", .variant = variant, .shape = std::to_string(m) + "x" + std::to_string(n),
                       .tokens = m, .layers = layers, .working_set_bytes = int64_t{layers} * 3 * m * n * 4,
                       .bytes = 12.0 * static_cast<double>(m * n)};
    run_bench(row, [&](int64_t sample) {
      const int64_t layer = sample % layers;
      tested_ops().swiglu(gu.data() + layer * m * 2 * n, m, n, y.data() + layer * m * n);
    });
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
