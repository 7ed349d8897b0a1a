#include "kernels/key_basis/key_basis.h"

#include "kernels/common/orthogonal.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::KeyBasisDesc;

std::string describe(const KeyBasisDesc& desc) {
  return std::to_string(desc.kv_heads) + "x" + std::to_string(desc.head_dim) + " r=" + std::to_string(desc.rank) +
         (desc.dtype == DType::bf16 ? " bf16" : " f32");
}

// Vectors that are orthogonal enough, a rotation, a spectrum and the moments that mu comes from.
struct Factors {
  KeyBasisDesc desc;
  Buffer<float> vectors, rotation, eigenvalues, center;
  Buffer<double> sum;

  Factors(Random& rng, const KeyBasisDesc& desc_)
      : desc(desc_),
        vectors(int64_t{desc.width()} * desc.rank),
        rotation(int64_t{desc.rank} * desc.rank),
        eigenvalues(desc.rank),
        center(desc.width()),
        sum(desc.width()) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(desc.width()));
    fill_rows(rng, Fill::normal, DType::f32, vectors.data(), desc.width(), desc.rank, scale);
    kernels::fixed_orthogonal(desc.rank, rotation.data());
    for (int32_t j = 0; j < desc.rank; ++j) eigenvalues[j] = 100.0f / static_cast<float>(j + 1);
    fill_rows(rng, Fill::normal, DType::f32, center.data(), 1, desc.width(), 100.0f);
    for (double& s : sum.span()) s = 50.0 * rng.normal();
  }
  void store(const kernels::Ops& ops, void* basis, bool centered = true) const {
    ops.basis_store(desc, {vectors.data(), rotation.data(), eigenvalues.data(), 0.125f,
                           centered ? center.data() : nullptr, centered ? sum.data() : nullptr, 77, basis});
  }
};

// Buffers are aligned as a segment's memory is.
struct Stored {
  Buffer<unsigned char> bytes;
  Stored(const Factors& factors, const kernels::Ops& ops, bool centered = true) : bytes(factors.desc.bytes(), 64) {
    factors.store(ops, bytes.data(), centered);
  }
  const float* eigenvalues(const KeyBasisDesc& desc) const {
    return static_cast<const float*>(offset_bytes(bytes.data(), desc.eigenvalues_at()));
  }
};

KeyBasisDesc random_desc(Random& rng) {
  const int32_t kv_heads = static_cast<int32_t>(rng.integer(1, 3)), head_dim = rng.pick({32, 64, 80, 96, 128});
  return {rng.pick({DType::f32, DType::bf16}), kv_heads, head_dim,
          static_cast<int32_t>(rng.integer(1, std::min(kv_heads * head_dim / 2, 100)))};
}

// One rounding of each other: f32 sums of double may fall on two sides of a tie.
void expect_rounded(DType dtype, const void* got, const void* want, int64_t begin, int64_t end, float scale,
                    const std::string& params) {
  const float step = dtype == DType::bf16 ? 0x1p-7f : 0x1p-23f;
  for (int64_t i = begin; i < end; ++i) {
    const float w = load_f32(want, dtype, i);
    ASSERT_NEAR(load_f32(got, dtype, i), w, step * std::fabs(w) + 1e-7f * scale) << params << " element " << i;
  }
}

TEST(BasisStore, matches_reference) {
  Random rng;
  for_each_target([&] {
    for (int i = 0; i < 4; ++i) {
      const KeyBasisDesc desc = random_desc(rng);
      const Factors factors(rng, desc);
      const bool centered = i % 2 == 0;
      const Stored got(factors, tested_ops(), centered), want(factors, kernels::ref_ops(), centered);
      const int64_t n = int64_t{desc.width()} * desc.rank;
      expect_rounded(desc.dtype, got.bytes.data(), want.bytes.data(), 0, n, 1.0f, describe(desc));
      expect_rounded(desc.dtype, got.bytes.data(), want.bytes.data(), n, n + desc.width(), 0.0f, describe(desc));
      expect_same_bytes(got.eigenvalues(desc), want.eigenvalues(desc), sizeof(float) * desc.rank, describe(desc));
      for (int64_t c = n; c < n + desc.width() && !centered; ++c)
        ASSERT_EQ(load_f32(got.bytes.data(), desc.dtype, c), 0.0f) << describe(desc);
    }
  });
}

TEST(BasisLoad, gives_what_is_stored) {
  Random rng;
  for_each_target([&] {
    for (int i = 0; i < 3; ++i) {
      const KeyBasisDesc desc = random_desc(rng);
      const int64_t m = desc.width(), n = m * desc.rank;
      const Factors factors(rng, desc);
      const Stored stored(factors, kernels::ref_ops());
      Buffer<float> p(n), mu(m), want_p(n), want_mu(m);
      tested_ops().basis_load(desc, {stored.bytes.data(), p.data(), mu.data()});
      kernels::ref_ops().basis_load(desc, {stored.bytes.data(), want_p.data(), want_mu.data()});
      expect_same_bytes(p.data(), want_p.data(), sizeof(float) * n, describe(desc));
      expect_same_bytes(mu.data(), want_mu.data(), sizeof(float) * m, describe(desc));
      for (int64_t c = 0; c < m; ++c)  // what the formula says of one row
        ASSERT_EQ(p[c * desc.rank], load_f32(stored.bytes.data(), desc.dtype,
                                             c / desc.head_dim * desc.rank * desc.head_dim + c % desc.head_dim));
    }
  });
}

TEST(GramPrior, matches_reference) {
  Random rng;
  for_each_target([&] {
    for (int i = 0; i < 3; ++i) {
      const KeyBasisDesc desc = random_desc(rng);
      const int64_t m = desc.width();
      const Factors factors(rng, desc);
      const Stored stored(factors, kernels::ref_ops());
      Buffer<float> got(m * m), want(m * m);
      Buffer<char> workspace(static_cast<int64_t>(kernels::gram_prior_workspace_bytes(desc)), 64);
      fill_rows(rng, Fill::normal, DType::f32, got.data(), m, m);
      std::copy_n(got.data(), got.size(), want.data());
      std::vector<float> before(got.data(), got.data() + got.size());
      const float weight = rng.pick({1.0f, 8192.0f});
      tested_ops().gram_prior(desc, {stored.bytes.data(), factors.rotation.data(), weight, got.data()},
                              workspace.data());
      kernels::ref_ops().gram_prior(desc, {stored.bytes.data(), factors.rotation.data(), weight, want.data()},
                                    nullptr);
      float added = 0.0f;
      for (int64_t k = 0; k < m * m; ++k) added = std::max(added, std::fabs(want[k] - before[k]));
      expect_close(got.span(), want.span(), 1e-5f * added + 1e-6f, describe(desc));
    }
  });
}

// A segment that is stored and taken as a prior gives back the moments that it was made of.
TEST(GramPrior, gives_back_the_spectrum_that_was_stored) {
  Random rng;
  const KeyBasisDesc desc{DType::f32, 2, 32, 24};
  const int64_t m = desc.width(), r = desc.rank;
  Factors factors(rng, desc);
  const Stored stored(factors, tested_ops());
  Buffer<float> gram(m * m);
  std::fill_n(gram.data(), m * m, 0.0f);
  Buffer<char> workspace(static_cast<int64_t>(kernels::gram_prior_workspace_bytes(desc)), 64);
  tested_ops().gram_prior(desc, {stored.bytes.data(), factors.rotation.data(), 8.0f, gram.data()}, workspace.data());
  double largest = 0.0;
  for (int pass = 0; pass < 2; ++pass)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t k = 0; k < m; ++k) {
        double want = 0.0;  // 8 * 0.125 cancel
        for (int64_t j = 0; j < r; ++j)
          want += double{factors.vectors[i * r + j]} * factors.eigenvalues[j] * factors.vectors[k * r + j];
        if (pass == 0)
          largest = std::max(largest, std::fabs(want));
        else
          ASSERT_NEAR(gram[i * m + k], want, 1e-5 * largest);
      }
}

TEST(KeyBasis, does_not_depend_on_the_number_of_threads) {
  if (tested_slowly()) GTEST_SKIP() << "no OpenMP team here";
  Random rng;
  const KeyBasisDesc desc{DType::bf16, 3, 64, 50};
  const int64_t m = desc.width();
  const Factors factors(rng, desc);
  Buffer<char> workspace(static_cast<int64_t>(kernels::gram_prior_workspace_bytes(desc)), 64);
  std::vector<float> gram[2] = {std::vector<float>(m * m), std::vector<float>(m * m)};
  std::vector<unsigned char> bytes[2];
  for (int i = 0; i < 2; ++i)
    with_threads(1 + 2 * i, [&] {
      const Stored stored(factors, tested_ops());
      bytes[i].assign(stored.bytes.data(), stored.bytes.data() + stored.bytes.size());
      tested_ops().gram_prior(desc, {stored.bytes.data(), factors.rotation.data(), 3.0f, gram[i].data()},
                              workspace.data());
    });
  expect_same_bytes(bytes[0].data(), bytes[1].data(), bytes[0].size(), "stored");
  expect_same_bytes(gram[0].data(), gram[1].data(), gram[0].size() * sizeof(float), "gram");
}

void bench() {
  Random rng;
  const KeyBasisDesc desc{DType::bf16, 8, bench_small() ? 32 : 128, bench_small() ? 16 : 160};
  const int64_t m = desc.width(), r = desc.rank;
  const Factors factors(rng, desc);
  Buffer<unsigned char> basis(desc.bytes(), 64);
  Buffer<float> p(m * r), mu(m), gram(m * m);
  fill_rows(rng, Fill::zeros, DType::f32, gram.data(), m, m);
  Buffer<char> workspace(static_cast<int64_t>(kernels::gram_prior_workspace_bytes(desc)), 64);
  const double mr = static_cast<double>(m * r), mm = static_cast<double>(m * m);
  for_each_bench_target([&](const char* variant) {
    BenchRow row{.op = "basis_store",
                 .variant = variant,
                 .shape = describe(desc),
                 .working_set_bytes = 6 * m * r,
                 .bytes = 6.0 * mr,
                 .flops = 2.0 * mr * static_cast<double>(r)};
    run_bench(row, [&](int64_t) { factors.store(tested_ops(), basis.data()); });
    row.op = "basis_load";
    row.flops = 0.0;
    run_bench(row, [&](int64_t) { tested_ops().basis_load(desc, {basis.data(), p.data(), mu.data()}); });
    row.op = "gram_prior";
    row.bytes = 8.0 * mm;
    row.flops = 2.0 * (mr + mm) * static_cast<double>(r);
    run_bench(row, [&](int64_t) {
      tested_ops().gram_prior(desc, {basis.data(), factors.rotation.data(), 1.0f, gram.data()}, workspace.data());
    });
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
