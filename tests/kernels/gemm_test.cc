#include "kernels/gemm/gemm.h"

#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::gemm_ref;
using kernels::gemm_workspace_bytes;
using kernels::GemmArgs;
using kernels::GemmDesc;
using kernels::kGemmDecodeRows;

constexpr float kUntouched = 1234.5f;  // stands in the gap between a row's end and ldc

// Operands of one product, with rows further apart than they are long.
struct Problem {
  GemmDesc desc;
  int64_t m, lda, ldc;
  bool accumulate;
  Buffer<float> a, bias, c_before;
  Buffer<char> w;
  bool with_bias;

  Problem(Random& rng, DType dtype, int64_t m_, int64_t n, int64_t k, bool bias_, bool accumulate_,
          Fill fill = Fill::normal)
      : desc{dtype, n, k}, m(m_), lda(k + rng.integer(0, 5)), ldc(n + rng.integer(0, 5)), accumulate(accumulate_),
        a(std::max<int64_t>(0, (m - 1) * lda + k), 4), bias(n, 4),
        c_before(std::max<int64_t>(0, (m - 1) * ldc + n), 4), w(n * k * dtype_bytes(dtype), 2), with_bias(bias_) {
    fill_rows(rng, fill, DType::f32, a.data(), 1, a.size());
    fill_rows(rng, Fill::normal, dtype, w.data(), n, k);
    fill_rows(rng, Fill::normal, DType::f32, bias.data(), 1, n);
    std::fill_n(c_before.data(), c_before.size(), kUntouched);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) c_before[i * ldc + j] = rng.normal();
    }
  }
  GemmArgs args(float* c) const {
    return GemmArgs{a.data(), lda, w.data(), with_bias ? bias.data() : nullptr, c, ldc, m, accumulate};
  }
  std::string name() const {
    return "m=" + std::to_string(m) + " n=" + std::to_string(desc.n) + " k=" + std::to_string(desc.k) + " dtype=" +
           std::to_string(static_cast<int>(desc.w_dtype)) + " bias=" + std::to_string(with_bias) + " accumulate=" +
           std::to_string(accumulate) + " lda=" + std::to_string(lda) + " ldc=" + std::to_string(ldc);
  }
};

// Exactly the bytes that the op asked for, between canaries.
void run(const GemmDesc& desc, const GemmArgs& args) {
  Buffer<char> workspace(static_cast<int64_t>(gemm_workspace_bytes(desc, args.m)), 64);
  tested_ops().gemm(desc, args, workspace.data());
}

// bf16 rounds an activation by 0.0016 of its size in the mean square (0.0039 at most): eight standard deviations of a sum,
// for millions of sums are compared in a run.
constexpr double kRounding = 1.3e-2;

void expect_matches(const Problem& p, const float* got, const float* want) {
  const bool may_round = (p.m > kGemmDecodeRows || tested_rounds_products()) && p.desc.w_dtype != DType::f32;
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.desc.n; ++j) {
      double magnitude = 0.0, squares = 0.0;
      for (int64_t k = 0; k < p.desc.k; ++k) {
        const double product = static_cast<double>(p.a[i * p.lda + k]) *
                               static_cast<double>(load_f32(p.w.data(), p.desc.w_dtype, j * p.desc.k + k));
        magnitude += std::fabs(product);
        squares += product * product;
      }
      const double rounding = 1e-5 * magnitude + 1e-6 * (1.0 + std::fabs(static_cast<double>(want[i * p.ldc + j])));
      const double tolerance = rounding + (may_round ? kRounding * std::sqrt(squares) : 0.0);
      ASSERT_NEAR(got[i * p.ldc + j], want[i * p.ldc + j], tolerance)
          << "row " << i << " column " << j << " " << p.name();
    }
    for (int64_t j = p.desc.n; j < p.ldc && i + 1 < p.m; ++j) ASSERT_EQ(got[i * p.ldc + j], kUntouched) << p.name();
  }
}

void compare(const Problem& p) {
  Buffer<float> got(p.c_before.size(), 4), want(p.c_before.size(), 4);
  std::copy_n(p.c_before.data(), got.size(), got.data());
  std::copy_n(p.c_before.data(), got.size(), want.data());
  run(p.desc, p.args(got.data()));
  gemm_ref(p.desc, p.args(want.data()), nullptr);
  expect_matches(p, got.data(), want.data());
}

TEST(Gemm, matches_the_reference_at_every_small_row_count) {
  Random rng;
  for_each_target([&] {
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (int64_t m : {1, 2, 3, 4, 5, 7, 8, 31, 63, 64}) {
        if (tested_slowly() && m != 1 && m != 3 && m != 64) continue;
        const int64_t n = rng.integer(1, 70), k = rng.pick({int64_t{1}, rng.integer(1, 40), rng.integer(500, 1100)});
        const Fill fill = rng.pick({Fill::normal, Fill::extremes});
        compare(Problem(rng, dtype, m, n, k, rng.chance(0.5), rng.chance(0.5), fill));
        if (HasFatalFailure()) return;
      }
    }
  });
}

TEST(Gemm, matches_the_reference_at_many_rows) {
  Random rng;
  for_each_target([&] {
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (int64_t m : {65, 128, 257, 515, 1029}) {
        if (tested_slowly() && m != 65 && (m != 1029 || dtype == DType::f16)) continue;
        for (bool extra : {false, true}) {
          if (tested_slowly() && m == 1029 && !extra) continue;
          const int64_t n = rng.pick({int64_t{64}, rng.integer(1, 70)});
          const int64_t k = tested_slowly() ? rng.pick({int64_t{64}, rng.integer(1, 70)})
                                            : rng.pick({int64_t{192}, rng.integer(1, 600)});
          compare(Problem(rng, dtype, m, n, k, extra, extra && rng.chance(0.7)));
          if (HasFatalFailure()) return;
        }
      }
    }
  });
}

TEST(Gemm, shapes_of_real_layers_match_at_both_sides_of_the_row_limit) {
  Random rng;
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (int64_t m : {1, 64, 65, 300}) {
      if (tested_slowly() && (m == 64 || m == 300)) continue;
      compare(Problem(rng, dtype, m, 192, 384, false, true));
      compare(Problem(rng, dtype, m, 40, 2048, false, false));
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Gemm, a_decode_row_has_the_same_bits_whatever_rows_stand_beside_it) {
  Random rng;
  for_each_target([&] {
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const int64_t m = kGemmDecodeRows, n = rng.integer(30, 70);
      const int64_t k = rng.pick({int64_t{192}, rng.integer(1030, 2500)});
      Problem p(rng, dtype, m, n, k, true, false);
      Buffer<float> all(p.c_before.size(), 4), part(p.c_before.size(), 4);
      run(p.desc, p.args(all.data()));
      for (int64_t count : {1, 2, 3, 4, 5, 16, 17, 33}) {
        if (tested_slowly() && count != 1 && count != 17) continue;
        const int64_t first = rng.integer(0, m - count);
        GemmArgs args = p.args(part.data());
        args.a += first * p.lda;
        args.m = count;
        run(p.desc, args);
        for (int64_t i = 0; i < count; ++i) {
          expect_same_bytes(part.data() + i * p.ldc, all.data() + (first + i) * p.ldc,
                            static_cast<std::size_t>(n) * 4, "rows=" + std::to_string(count) + " " + p.name());
          if (HasFatalFailure()) return;
        }
      }
    }
  });
}

TEST(Gemm, threads_change_no_bit) {
  if (tested_slowly()) GTEST_SKIP() << "OpenMP threads";
  Random rng;
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (int64_t m : {1, 20, 64, 200, 600}) {
      const Problem p(rng, dtype, m, 96, 1100, false, false);
      Buffer<float> one(p.c_before.size(), 4), more(p.c_before.size(), 4);
      std::copy_n(p.c_before.data(), one.size(), one.data());
      std::copy_n(p.c_before.data(), one.size(), more.data());
      with_threads(1, [&] { run(p.desc, p.args(one.data())); });
      with_threads(3, [&] { run(p.desc, p.args(more.data())); });
      expect_same_bytes(more.data(), one.data(), static_cast<std::size_t>(one.size()) * 4, p.name());
    }
  }
}

TEST(Gemm, no_rows_touch_nothing_and_no_depth_gives_the_bias) {
  Random rng;
  for_each_target([&] {
    for (DType dtype : {DType::f32, DType::bf16}) {
      Buffer<float> c(1);
      c[0] = kUntouched;
      const GemmDesc desc{dtype, 1, 8};
      run(desc, GemmArgs{nullptr, 8, nullptr, nullptr, c.data(), 1, 0, false});
      EXPECT_EQ(c[0], kUntouched);
      for (int64_t m : {2, 70}) {
        for (bool bias : {false, true}) {
          const Problem p(rng, dtype, m, 9, 0, bias, false);
          Buffer<float> got(p.c_before.size(), 4);
          run(p.desc, p.args(got.data()));
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < 9; ++j) ASSERT_EQ(got[i * p.ldc + j], bias ? p.bias[j] : 0.0f);
          }
        }
      }
    }
  });
}

TEST(Gemm, nan_in_a_row_stays_in_that_row) {
  Random rng;
  for_each_target([&] {
    for (int64_t m : {6, 80}) {
      Problem p(rng, DType::bf16, m, 21, 67, false, false);
      p.a[3 * p.lda + 66] = std::numeric_limits<float>::quiet_NaN();
      Buffer<float> got(p.c_before.size(), 4);
      run(p.desc, p.args(got.data()));
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < 21; ++j) ASSERT_EQ(std::isnan(got[i * p.ldc + j]), i == 3) << i << " " << j;
      }
    }
  });
}

void bench_shape(const char* variant, DType dtype, int64_t m, int64_t n, int64_t k) {
  if (bench_small()) n = k = 256;
  const int64_t w_bytes = n * k * dtype_bytes(dtype);
  const int32_t layers = bench_layers(w_bytes);
  Buffer<char> w(layers * w_bytes);
  Buffer<float> a(m * k), c(m * n);
  std::fill_n(w.data(), w.size(), char{0x3c});
  std::fill_n(a.data(), a.size(), 0.01f);
  const GemmDesc desc{dtype, n, k};
  Buffer<char> workspace(static_cast<int64_t>(gemm_workspace_bytes(desc, m)), 64);
  const double md = static_cast<double>(m), nd = static_cast<double>(n), kd = static_cast<double>(k);
  const BenchRow row{.op = "gemm", .variant = variant,
                     .shape = std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) +
                              (dtype == DType::f32 ? " f32" : dtype == DType::bf16 ? " bf16" : " f16"),
                     .tokens = m, .layers = layers, .working_set_bytes = layers * w_bytes,
                     .bytes = static_cast<double>(w_bytes) + 4.0 * md * (kd + nd),
                     .flops = m < 16 ? 0.0 : 2.0 * md * nd * kd,  // below 16 rows memory is the limit
                     .bf16_flops = dtype == DType::bf16 && m > kGemmDecodeRows};
  run_bench(row, [&](int64_t sample) {
    const char* weights = w.data() + sample % layers * w_bytes;
    tested_ops().gemm(desc, GemmArgs{a.data(), k, weights, nullptr, c.data(), n, m, false}, workspace.data());
  });
}

void bench() {
  for_each_bench_target([&](const char* variant) {
    for (int64_t m : {1, 4, 16, 64, 512}) {
      bench_shape(variant, DType::bf16, m, 4096, 4096);
      bench_shape(variant, DType::f32, m, 4096, 4096);
    }
    bench_shape(variant, DType::f16, 512, 4096, 4096);
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
