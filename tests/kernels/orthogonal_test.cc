#include "kernels/common/orthogonal.h"

#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

std::vector<float> rotation(int32_t r) {
  std::vector<float> q(static_cast<std::size_t>(r) * r);
  kernels::fixed_orthogonal(r, q.data());
  return q;
}

// Largest over smallest energy of the columns of diag(sqrt(spectrum)) q.
template <class Spectrum>
double energy_ratio(const std::vector<float>& q, int32_t r, Spectrum&& spectrum) {
  double least = 1e300, most = 0.0;
  for (int32_t j = 0; j < r; ++j) {
    double energy = 0.0;
    for (int32_t i = 0; i < r; ++i) {
      const double x = q[static_cast<std::size_t>(i) * r + j];
      energy += spectrum(i) * x * x;
    }
    least = std::min(least, energy);
    most = std::max(most, energy);
  }
  return most / least;
}

TEST(FixedOrthogonal, is_orthogonal_for_any_size) {
  for (int32_t r = 1; r <= 520; r += r < 70 ? 1 : 23) {
    const std::vector<float> q = rotation(r);
    for (int32_t i = 0; i < r; ++i) {
      for (int32_t j = i; j < r; ++j) {
        double dot = 0.0;
        for (int32_t k = 0; k < r; ++k)
          dot += static_cast<double>(q[static_cast<std::size_t>(k) * r + i]) * q[static_cast<std::size_t>(k) * r + j];
        ASSERT_NEAR(dot, i == j ? 1.0 : 0.0, 1e-6) << "r=" << r << " columns " << i << ", " << j;
      }
    }
  }
}

TEST(FixedOrthogonal, columns_share_the_energy_of_a_decaying_spectrum) {
  for (int32_t r = 2; r <= 520; r += r < 70 ? 1 : 23) {
    const std::vector<float> q = rotation(r);
    EXPECT_LT(energy_ratio(q, r, [](int32_t i) { return std::exp(-i / 8.0); }), 4.0) << "r=" << r;
    EXPECT_LT(energy_ratio(q, r, [](int32_t i) { return 1.0 / (i + 1.0); }), 4.0) << "r=" << r;
    EXPECT_LT(energy_ratio(q, r, [](int32_t i) { return std::exp(-i / 2.0); }), 4.0) << "r=" << r;
  }
}

TEST(FixedOrthogonal, is_flat_at_the_default_ranks_whatever_dominates) {
  for (int32_t r : {4, 12, 16, 20, 40, 80, 120, 160, 320, 480}) {
    const std::vector<float> q = rotation(r);
    for (float x : q) ASSERT_NEAR(std::fabs(x), 1.0 / std::sqrt(r), 1e-7) << "r=" << r;
  }
}

void bench() {
  const int32_t r = 160;
  std::vector<float> q(r * r);
  const BenchRow row{.op = "fixed_orthogonal", .variant = "scalar", .shape = "160", .working_set_bytes = 4 * r * r,
                     .bytes = 4.0 * r * r};
  run_bench(row, [&](int64_t) { kernels::fixed_orthogonal(r, q.data()); });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
