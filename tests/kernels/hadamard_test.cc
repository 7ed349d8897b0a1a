#include "kernels/common/hadamard.h"

#include "kernels/common/orthogonal.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

constexpr int32_t kWidths[] = {16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512};

// H by its definition: Sylvester's signs times the fixed orthogonal matrix.
std::vector<double> matrix(int32_t width, int32_t core) {
  const int32_t n = width / core;
  std::vector<float> q(static_cast<std::size_t>(core) * core);
  kernels::fixed_orthogonal(core, q.data());
  std::vector<double> h;
  for (int32_t i = 0; i < width; ++i) {
    for (int32_t j = 0; j < width; ++j) {
      const double sign = __builtin_parity(static_cast<uint32_t>(i / core & j / core)) ? -1.0 : 1.0;
      h.push_back(sign * q[static_cast<std::size_t>(i % core * core + j % core)] / std::sqrt(static_cast<double>(n)));
    }
  }
  return h;
}

int32_t core_of(int32_t width) { return width % 3 == 0 ? 12 : width % 5 == 0 ? 20 : 1; }

TEST(Hadamard, is_the_matrix_of_its_definition) {
  for (const int32_t width : kWidths) {
    const std::vector<double> h = matrix(width, core_of(width));
    for (const bool inverse : {false, true}) {
      Buffer<float> x(int64_t{width} * width);
      for (int64_t i = 0; i < x.size(); ++i) x[i] = i / width == i % width;  // row i: basis vector i
      kernels::hadamard_rows_ref(x.data(), width, width, inverse);
      for (int32_t i = 0; i < width; ++i) {
        for (int32_t j = 0; j < width; ++j) {
          const double want = h[static_cast<std::size_t>(inverse ? i * width + j : j * width + i)];
          ASSERT_NEAR(x[int64_t{i} * width + j], want, 1e-7) << width << " row " << i << " element " << j;
          ASSERT_NEAR(std::fabs(x[int64_t{i} * width + j]), 1.0 / std::sqrt(width), 1e-8) << width;
        }
      }
    }
  }
}

TEST(Hadamard, matches_the_reference) {
  Random rng;
  for_each_target([&] {
    for (const int32_t width : kWidths) {
      for (const Fill fill : kAllFills) {
        for (const bool inverse : {false, true}) {
          const int64_t n = rng.pick<int64_t>({1, 3, 8});
          Buffer<float> got(n * width, 4), want(n * width, 4);
          fill_rows(rng, fill, DType::f32, got.data(), n, width);
          std::copy_n(got.data(), n * width, want.data());
          kernels::hadamard_rows(got.data(), n, width, inverse);
          kernels::hadamard_rows_ref(want.data(), n, width, inverse);
          for (int64_t row = 0; row < n; ++row) {
            const auto of_row = [&](Buffer<float>& x) { return x.span().subspan(row * width, width); };
            expect_close(of_row(got), of_row(want), 1e-6f * max_abs(of_row(want)),
                         "width " + std::to_string(width) + " " + fill_name(fill));
          }
        }
      }
    }
  });
}

TEST(Hadamard, inverse_gives_the_row_back_and_keeps_its_length) {
  Random rng;
  for_each_target([&] {
    for (const int32_t width : kWidths) {
      Buffer<float> x(3 * width), y(3 * width);
      fill_rows(rng, Fill::biased, DType::f32, x.data(), 3, width);
      std::copy_n(x.data(), 3 * width, y.data());
      kernels::hadamard_rows(y.data(), 3, width, false);
      double before = 0.0, after = 0.0;
      for (int64_t i = 0; i < x.size(); ++i) before += double{x[i]} * x[i], after += double{y[i]} * y[i];
      EXPECT_NEAR(after / before, 1.0, 1e-6) << width;
      kernels::hadamard_rows(y.data(), 3, width, true);
      expect_close(y.span(), x.span(), 2e-6f * max_abs(x.span()), "width " + std::to_string(width));
    }
  });
}

// One element a hundred times the others no longer stands out: that is what few-bit codes need.
TEST(Hadamard, spreads_a_spike_over_the_row) {
  for (const int32_t width : kWidths) {
    Buffer<float> x(width);
    for (int32_t spike = 0; spike < width; ++spike) {
      std::fill_n(x.data(), width, 0.0f);
      x[spike] = 100.0f;
      kernels::hadamard_rows(x.data(), 1, width, false);
      for (const float y : x.span()) ASSERT_NEAR(std::fabs(y), 100.0 / std::sqrt(width), 1e-4) << width;
    }
  }
}

TEST(Hadamard, rows_do_not_depend_on_their_neighbours) {
  Random rng;
  for_each_target([&] {
    for (const int32_t width : {32, 80, 96, 128, 256}) {
      Buffer<float> x(5 * width), one(width);
      fill_rows(rng, Fill::normal, DType::f32, x.data(), 5, width);
      x[width] = std::numeric_limits<float>::quiet_NaN();
      x[3 * width + 7] = std::numeric_limits<float>::infinity();
      std::copy_n(x.data() + 2 * width, width, one.data());
      kernels::hadamard_rows(x.data(), 5, width, false);
      kernels::hadamard_rows(one.data(), 1, width, false);
      expect_same_bytes(x.data() + 2 * width, one.data(), sizeof(float) * width, std::to_string(width));
      for (int32_t i = 0; i < width; ++i) {
        ASSERT_TRUE(std::isnan(x[width + i]));
        ASSERT_FALSE(std::isfinite(x[3 * width + i]));
        ASSERT_TRUE(std::isfinite(x[4 * width + i]));
      }
    }
  });
}

TEST(Hadamard, says_which_widths_it_supports) {
  for (const int32_t width : kWidths) EXPECT_TRUE(kernels::hadamard_supports(width)) << width;
  for (const int32_t width : {-128, -1, 0, 1, 8, 12, 17, 18, 28, 36, 60, 72, 100, 120, 144, 240, 448, 640, 1024}) {
    EXPECT_FALSE(kernels::hadamard_supports(width)) << width;
  }
}

void bench() {
  for (const int32_t width : {64, 80, 96, 128, 256}) {
    const int64_t rows = 32768 / width * (bench_small() ? 1 : 16);
    Buffer<float> x(rows * width, 64);
    Random rng;
    fill_rows(rng, Fill::normal, DType::f32, x.data(), rows, width);
    const BenchRow row{.op = "hadamard", .variant = "rows", .shape = "width " + std::to_string(width),
        .tokens = rows, .working_set_bytes = 4 * rows * width, .bytes = 8.0 * static_cast<double>(rows * width)};
    run_bench(row, [&](int64_t i) { kernels::hadamard_rows(x.data(), rows, width, i % 2 == 1); });
  }
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
