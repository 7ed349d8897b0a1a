#include "kernels/common/sgemm.h"

#include <type_traits>

#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::MatmulArgs;

template <class T>
void multiply(const MatmulArgs<T>& args) {
  Buffer<char> workspace(static_cast<int64_t>(kernels::matmul_workspace_bytes(args.m, args.n, sizeof(T))), 64);
  if constexpr (std::is_same_v<T, float>) kernels::sgemm(args, workspace.data());
  else kernels::dgemm(args, workspace.data());
}

template <class T>
struct Operands {
  MatmulArgs<T> args;
  Buffer<T> a, b;
  std::vector<T> c;

  Operands(Random& rng, int64_t m, int64_t n, int64_t k, bool trans_a, bool trans_b)
      : a((trans_a ? k : m) * ((trans_a ? m : k) + 3)), b((trans_b ? n : k) * ((trans_b ? k : n) + 1)) {
    args.lda = (trans_a ? m : k) + 3;
    args.ldb = (trans_b ? k : n) + 1;
    args.ldc = n + 2;
    args.m = m, args.n = n, args.k = k;
    args.trans_a = trans_a, args.trans_b = trans_b;
    for (T& x : a.span()) x = static_cast<T>(rng.normal());
    for (T& x : b.span()) x = static_cast<T>(rng.normal());
    c.resize(static_cast<std::size_t>(m * args.ldc));
    for (T& x : c) x = static_cast<T>(rng.normal());
    args.a = a.data(), args.b = b.data(), args.c = c.data();
  }
  double product(int64_t i, int64_t j, double* magnitude) const {
    double sum = 0.0;
    for (int64_t k = 0; k < args.k; ++k) {
      const double x = args.trans_a ? args.a[k * args.lda + i] : args.a[i * args.lda + k];
      const double y = args.trans_b ? args.b[j * args.ldb + k] : args.b[k * args.ldb + j];
      sum += x * y;
      *magnitude += std::fabs(x * y);
    }
    return sum;
  }
};

template <class T>
void check_shape(Random& rng, int64_t m, int64_t n, int64_t k) {
  Operands<T> x(rng, m, n, k, rng.chance(0.5), rng.chance(0.5));
  x.args.accumulate = rng.chance(0.5);
  x.args.upper_only = rng.chance(0.3);
  const std::vector<T> before = x.c;
  multiply(x.args);
  const double epsilon = std::numeric_limits<T>::epsilon();
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < x.args.ldc; ++j) {
      const T old = before[static_cast<std::size_t>(i * x.args.ldc + j)],
              got = x.c[static_cast<std::size_t>(i * x.args.ldc + j)];
      if (j >= n) {
        ASSERT_EQ(got, old) << "written past column n";
        continue;
      }
      if (x.args.upper_only && j < i) continue;
      double magnitude = std::fabs(static_cast<double>(old));
      const double want = x.product(i, j, &magnitude) + (x.args.accumulate ? static_cast<double>(old) : 0.0);
      ASSERT_NEAR(got, want, 8 * epsilon * magnitude)
          << "m=" << m << " n=" << n << " k=" << k << " at " << i << "," << j;
    }
  }
}

TEST(Matmul, matches_double_sums_for_any_shape_and_transpose) {
  Random rng;
  for_each_target([&] {
    for (int trial = 0; trial < 12; ++trial) {
      const int64_t m = rng.integer(1, 130), n = rng.integer(1, 300), k = rng.pick({0, 1, 7, 100, 256, 257, 600});
      check_shape<float>(rng, m, n, k);
      check_shape<double>(rng, m, n, k);
      if (::testing::Test::HasFatalFailure()) return;
    }
  });
}

// One row and column more than the register tiles of any target, and more terms than are packed at once.
TEST(Matmul, padding_stays_inside_the_workspace) {
  Random rng;
  for_each_target([&] {
    for (int64_t m : {1, 13})
      for (int64_t n : {1, 17, 33}) check_shape<float>(rng, m, n, kernels::kMatmulDepth + 300);
    check_shape<double>(rng, 13, 17, kernels::kMatmulDepth);
  });
}

TEST(Matmul, an_element_does_not_depend_on_the_other_rows_columns_or_threads) {
  Random rng;
  for_each_target([&] {
    Operands<float> x(rng, 113, 300, 700, false, false);
    with_threads(1, [&] { multiply(x.args); });
    const std::vector<float> alone = x.c;
    with_threads(3, [&] { multiply(x.args); });
    expect_same_bytes(x.c.data(), alone.data(), alone.size() * sizeof(float), "3 threads");
    std::vector<float> part(40 * 300);
    MatmulArgs<float> args = x.args;
    args.a += 17 * args.lda;
    args.b += 5;
    args.c = part.data();
    args.ldc = args.n = 61;
    args.m = 40;
    multiply(args);
    for (int64_t i = 0; i < 40; ++i)
      expect_same_bytes(part.data() + i * 61, alone.data() + (17 + i) * x.args.ldc + 5, 61 * sizeof(float), "part");
  });
}

void bench() {
  const int64_t m = bench_small() ? 64 : 1024, k = m;
  for (const int64_t n : {m, int64_t{192}}) {
    std::vector<float> a(static_cast<std::size_t>(m * k), 0.5f), b(static_cast<std::size_t>(k * n), 0.25f),
        c(static_cast<std::size_t>(m * n));
    Buffer<char> workspace(static_cast<int64_t>(kernels::matmul_workspace_bytes(m, n, sizeof(float))), 64);
    for_each_bench_target([&](const char* variant) {
      const BenchRow row{.op = "sgemm", .variant = variant,
                         .shape = std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + " f32",
                         .tokens = m, .working_set_bytes = 4 * (m * k + k * n + m * n),
                         .bytes = 4.0 * static_cast<double>(m * k + k * n + m * n),
                         .flops = 2.0 * static_cast<double>(m * n * k)};
      run_bench(row, [&](int64_t) {
        kernels::sgemm(
            {.a = a.data(), .lda = k, .b = b.data(), .ldb = n, .c = c.data(), .ldc = n, .m = m, .n = n, .k = k},
            workspace.data());
      });
    });
  }
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
