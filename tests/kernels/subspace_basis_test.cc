#include "kernels/subspace_basis/subspace_basis.h"

#include "kernels/subspace_basis/symmetric_eigen.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::BasisMethod;

struct Spectrum {
  const char* name;
  double (*value)(int64_t i, int64_t m);
};
constexpr Spectrum kSpectra[] = {
    {"exponential", [](int64_t i, int64_t) { return std::exp(-static_cast<double>(i) / 8.0); }},
    {"power law 1", [](int64_t i, int64_t) { return 1.0 / static_cast<double>(i + 1); }},
    {"power law 0.5", [](int64_t i, int64_t) { return 1.0 / std::sqrt(static_cast<double>(i + 1)); }},
    {"power law 0.1", [](int64_t i, int64_t) { return std::pow(static_cast<double>(i + 1), -0.1); }},
    {"flat", [](int64_t, int64_t) { return 1.0; }},
    {"low rank", [](int64_t i, int64_t m) { return i < m / 16 ? 1.0 : 0.0; }},
    {"rank one", [](int64_t i, int64_t) { return i == 0 ? 3.0 : 0.0; }},
    {"zero", [](int64_t, int64_t) { return 0.0; }},
    {"dominant", [](int64_t i, int64_t) { return i == 0 ? 1e4 : std::exp(-static_cast<double>(i) / 50.0); }},
    {"huge", [](int64_t i, int64_t) { return 1e36 / static_cast<double>(i + 1); }},
    {"tiny", [](int64_t i, int64_t) { return 1e-30 / static_cast<double>(i + 1); }},
};

// U diag(spectrum) U^T for a random orthogonal U made of Householder reflections: the eigenvalues are known exactly.
std::vector<float> with_spectrum(Random& rng, const Spectrum& spectrum, int64_t m) {
  std::vector<double> g(static_cast<std::size_t>(m * m), 0.0), v(static_cast<std::size_t>(m)), p(v);
  for (int64_t i = 0; i < m; ++i) g[i * m + i] = spectrum.value(i, m);
  for (int reflection = 0; reflection < 5; ++reflection) {
    double norm2 = 0.0, vp = 0.0;
    for (double& x : v) {
      x = rng.normal();
      norm2 += x * x;
    }
    for (double& x : v) x *= std::sqrt(2.0 / norm2);
    for (int64_t i = 0; i < m; ++i) {
      p[i] = 0.0;
      for (int64_t j = 0; j < m; ++j) p[i] += g[i * m + j] * v[j];
      vp += v[i] * p[i];
    }
    for (int64_t i = 0; i < m; ++i) p[i] -= 0.5 * vp * v[i];
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < m; ++j) g[i * m + j] -= v[i] * p[j] + p[i] * v[j];
  }
  return {g.begin(), g.end()};
}

struct Basis {
  bool ok = false;
  std::vector<float> v, eigenvalues;
};

Basis solve(const kernels::Ops& ops, const std::vector<float>& g, int32_t m, int32_t rank,
            BasisMethod method = BasisMethod::subspace_iteration) {
  Basis basis;
  Buffer<float> v(static_cast<int64_t>(m) * rank), eigenvalues(rank);
  Buffer<char> workspace(static_cast<int64_t>(kernels::subspace_basis_workspace_bytes(m, rank, method)), 64);
  basis.ok = ops.subspace_basis({g.data(), m, rank, method, v.data(), eigenvalues.data()}, workspace.data());
  basis.v.assign(v.data(), v.data() + v.size());
  basis.eigenvalues.assign(eigenvalues.data(), eigenvalues.data() + rank);
  return basis;
}

void expect_orthonormal(const Basis& basis, int64_t m, int64_t rank, const std::string& params) {
  std::vector<double> dots(static_cast<std::size_t>(rank));
  for (int64_t i = 0; i < rank; ++i) {
    std::fill(dots.begin(), dots.end(), 0.0);
    for (int64_t k = 0; k < m; ++k)
      for (int64_t j = i; j < rank; ++j)
        dots[j] += static_cast<double>(basis.v[k * rank + i]) * basis.v[k * rank + j];
    for (int64_t j = i; j < rank; ++j) ASSERT_NEAR(dots[j], i == j ? 1.0 : 0.0, 1e-5) << params;
  }
}

// What the columns of v really hold of g, whatever the reported eigenvalues say.
double held_energy(const Basis& basis, const std::vector<float>& g, int64_t m, int64_t rank) {
  double held = 0.0;
  std::vector<double> gv(static_cast<std::size_t>(rank));
  for (int64_t i = 0; i < m; ++i) {
    std::fill(gv.begin(), gv.end(), 0.0);
    for (int64_t k = 0; k < m; ++k)
      for (int64_t j = 0; j < rank; ++j) gv[j] += static_cast<double>(g[i * m + k]) * basis.v[k * rank + j];
    for (int64_t j = 0; j < rank; ++j) held += gv[j] * basis.v[i * rank + j];
  }
  return held;
}

void expect_promise(const Basis& basis, const std::vector<float>& g, const Spectrum& spectrum, int32_t m,
                    int32_t rank) {
  const std::string params = std::string(spectrum.name) + " m=" + std::to_string(m) + " rank=" + std::to_string(rank);
  ASSERT_TRUE(basis.ok) << params;
  expect_orthonormal(basis, m, rank, params);
  double best = 0.0, reported = 0.0;
  for (int32_t i = 0; i < rank; ++i) {
    best += spectrum.value(i, m);
    reported += static_cast<double>(basis.eigenvalues[i]);
    ASSERT_GE(basis.eigenvalues[i], 0.0f) << params;
    ASSERT_LE(basis.eigenvalues[i], basis.eigenvalues[std::max(i - 1, 0)]) << params;
  }
  ASSERT_GE(reported, 0.999 * best) << params;
  ASSERT_LE(reported, 1.0001 * best) << params;
  ASSERT_GE(held_energy(basis, g, m, rank), 0.999 * best) << params;
}

void check_spectrum(Random& rng, const Spectrum& spectrum, int32_t m, std::initializer_list<int32_t> ranks) {
  const std::vector<float> g = with_spectrum(rng, spectrum, m);
  for (int32_t rank : ranks) {
    if (rank >= 1) expect_promise(solve(tested_ops(), g, m, rank), g, spectrum, m, rank);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

void check_all_spectra(Random& rng, int32_t m) {
  for (const Spectrum& spectrum : kSpectra) check_spectrum(rng, spectrum, m, {1, m / 8, m * 160 / 1024, m / 2});
}

// One thread: results do not depend on the team (tested below), and many small products would only wait for it.
TEST(SubspaceBasis, holds_0_999_of_the_best_energy_on_any_spectrum) {
  Random rng;
  if (tested_slowly()) {
    for (const Spectrum& spectrum : kSpectra) check_spectrum(rng, spectrum, 48, {3});
    for_each_target([&] { check_spectrum(rng, rng.pick({kSpectra[1], kSpectra[5], kSpectra[6]}), 48, {3, 24}); });
    return;
  }
  with_threads(1, [&] {
    for_each_target([&] {
      for (int32_t m : {8, 64}) check_all_spectra(rng, m);
    });
    check_all_spectra(rng, 256);
  });
}

// 33 to 130 columns: two tiles of a GPU's factorisation to five, the last one full or not.
TEST(SubspaceBasis, holds_0_999_of_the_best_energy_at_any_rank) {
  Random rng;
  if (tested_slowly()) check_spectrum(rng, kSpectra[1], 100, {32, 65});
  else check_spectrum(rng, kSpectra[1], 140, {1, 31, 32, 33, 64, 65, 98});
}

#if defined(__SANITIZE_ADDRESS__)
constexpr int32_t kLargeSize = 320;  // the same code; 1,024 takes minutes under a sanitizer
#else
constexpr int32_t kLargeSize = 1024;
#endif

TEST(SubspaceBasis, holds_0_999_of_the_best_energy_at_the_size_of_an_8b_model) {
  if (tested_slowly()) GTEST_SKIP() << "kernels are executed on the host";
  Random rng;
  const int32_t m = kLargeSize, rank = m * 160 / 1024;
  with_threads(1, [&] {
    for (const Spectrum& spectrum : kSpectra) {
      const std::vector<float> g = with_spectrum(rng, spectrum, m);
      expect_promise(solve(tested_ops(), g, m, rank), g, spectrum, m, rank);
    }
    const std::vector<float> g = with_spectrum(rng, kSpectra[2], m);
    expect_promise(solve(tested_ops(), g, m, m / 2), g, kSpectra[2], m, m / 2);
  });
}

TEST(SubspaceBasis, full_method_and_reference_find_the_exact_eigenvalues) {
  Random rng;
  for (const Spectrum& spectrum : kSpectra) {
    for (int32_t m : {1, 2, 8, 40, 96}) {
      const std::vector<float> g = with_spectrum(rng, spectrum, m);
      const int32_t rank = std::max(1, m / 2);
      for (const Basis& basis : {solve(tested_ops(), g, m, rank, BasisMethod::full),
                                 solve(kernels::ref_ops(), g, m, rank, BasisMethod::full)}) {
        expect_promise(basis, g, spectrum, m, rank);
        for (int32_t i = 0; i < rank; ++i)
          ASSERT_NEAR(basis.eigenvalues[i], spectrum.value(i, m), 2e-6 * spectrum.value(0, m)) << spectrum.name;
      }
    }
  }
}

TEST(SubspaceBasis, does_not_depend_on_the_number_of_threads) {
  if (tested_slowly()) GTEST_SKIP() << "no OpenMP team here";
  Random rng;
  const std::vector<float> g = with_spectrum(rng, kSpectra[1], 320);
  Basis one, three;
  with_threads(1, [&] { one = solve(tested_ops(), g, 320, 50); });
  with_threads(3, [&] { three = solve(tested_ops(), g, 320, 50); });
  expect_same_bytes(one.v.data(), three.v.data(), one.v.size() * sizeof(float), "v");
  expect_same_bytes(one.eigenvalues.data(), three.eigenvalues.data(), 50 * sizeof(float), "eigenvalues");
}

TEST(SubspaceBasis, refuses_nan_and_infinity) {
  Random rng;
  for (int32_t m : {16, 128}) {
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -INFINITY}) {
      std::vector<float> g = with_spectrum(rng, kSpectra[0], m);
      g[static_cast<std::size_t>(rng.integer(0, m * m - 1))] = bad;
      EXPECT_FALSE(solve(tested_ops(), g, m, 4).ok);
      EXPECT_FALSE(solve(tested_ops(), g, m, 4, BasisMethod::full).ok);
      EXPECT_FALSE(solve(kernels::ref_ops(), g, m, 4).ok);
    }
  }
}

// The solver that serves without LAPACK, tested in every build.
TEST(SymmetricEigenQl, diagonalizes_indefinite_graded_and_repeated_spectra) {
  Random rng;
  for (int32_t n : {1, 2, 3, 17, 64, 150}) {
    for (int kind = 0; kind < 4; ++kind) {
      std::vector<double> a(static_cast<std::size_t>(n * n)), values(static_cast<std::size_t>(n)),
          work(static_cast<std::size_t>(n * n + 2 * n));
      for (int32_t i = 0; i < n; ++i)
        for (int32_t j = 0; j <= i; ++j) {
          double x = rng.normal();
          if (kind == 1) x *= std::exp(-0.3 * (i + j));
          if (kind == 2) x = i == j ? 2.0 : 0.0;
          if (kind == 3) x = 1.0;
          a[i * n + j] = a[j * n + i] = x;
        }
      const std::vector<double> original = a;
      ASSERT_TRUE(kernels::symmetric_eigen_ql(n, a.data(), values.data(), work.data()));
      const double norm = std::max(std::fabs(values[0]), std::fabs(values[n - 1]));
      for (int32_t k = 0; k < n; ++k) {
        ASSERT_LE(values[std::max(k - 1, 0)], values[k]);
        for (int32_t i = 0; i < n; ++i) {
          double av = 0.0, dot = 0.0;
          for (int32_t j = 0; j < n; ++j) {
            av += original[i * n + j] * a[k * n + j];
            dot += a[i * n + j] * a[k * n + j];
          }
          ASSERT_NEAR(av, values[k] * a[k * n + i], 1e-12 * n * norm) << "n=" << n << " kind=" << kind;
          ASSERT_NEAR(dot, i == k ? 1.0 : 0.0, 1e-12 * n) << "n=" << n << " kind=" << kind;
        }
      }
    }
  }
}

void bench() {
  const int32_t m = bench_small() ? 128 : 1024, rank = bench_small() ? 16 : 160;
  Random rng;
  Buffer<char> workspace(
      static_cast<int64_t>(kernels::subspace_basis_workspace_bytes(m, rank, BasisMethod::subspace_iteration)), 64);
  std::vector<float> v(static_cast<std::size_t>(m) * rank), eigenvalues(static_cast<std::size_t>(rank));
  for (const Spectrum& spectrum : {kSpectra[0], kSpectra[2]}) {
    const std::vector<float> g = with_spectrum(rng, spectrum, m);
    for_each_bench_target([&](const char* variant) {
      const double k = rank + 32;
      const BenchRow row{.op = "subspace_basis", .variant = variant,
                         .shape = std::to_string(m) + "/" + std::to_string(rank) + " " + spectrum.name,
                         .working_set_bytes = int64_t{4} * m * m, .bytes = 4.0 * 4 * m * m,
                         .flops = 8.0 * m * m * k + 10.0 * m * k * k};
      run_bench(row, [&](int64_t) {
        tested_ops().subspace_basis(
            {g.data(), m, rank, BasisMethod::subspace_iteration, v.data(), eigenvalues.data()}, workspace.data());
      });
    });
  }
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
