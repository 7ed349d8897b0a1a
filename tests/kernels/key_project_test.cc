#include "kernels/key_project/key_project.h"

#include <memory>

#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::KeyProjectArgs;
using kernels::KeyProjectDesc;

using Op = void (*)(const KeyProjectDesc&, const KeyProjectArgs&, void*);

struct Result {
  std::vector<float> a, residual, energy;
};

// Keys, an orthonormal-ish projection p, b = round(p^T) by head, and pages of 3 chunks of A.
struct Segment {
  KeyProjectDesc desc;
  int64_t n, m;
  int32_t first_chunk = 2;
  Buffer<float> x, mu, p;
  Buffer<unsigned char> b;
  std::vector<std::unique_ptr<Buffer<unsigned char>>> pages;
  std::vector<void*> page_pointers;

  Segment(Random& rng, const KeyProjectDesc& desc_, int64_t n_, Fill fill)
      : desc(desc_), n(n_), m(int64_t{desc.kv_heads} * desc.head_dim), x(n * m), mu(m), p(m * desc.rank),
        b(m * desc.rank * dtype_bytes(desc.dtype)) {
    fill_rows(rng, fill, DType::f32, x.data(), n, m);
    for (int64_t d = 0; d < m; ++d) mu[d] = n > 0 ? bf16_to_f32(f32_to_bf16(x[d])) : 0.0f;
    for (float& value : p.span()) value = rng.normal() / std::sqrt(static_cast<float>(m));
    for (int64_t h = 0; h < desc.kv_heads; ++h)
      for (int64_t j = 0; j < desc.rank; ++j)
        for (int64_t d = 0; d < desc.head_dim; ++d)
          store_f32(b.data(), desc.dtype, (h * desc.rank + j) * desc.head_dim + d,
                    p[(h * desc.head_dim + d) * desc.rank + j]);
    for (int64_t c = 0; c < first_chunk + n / desc.chunk; c += 3) {
      pages.push_back(std::make_unique<Buffer<unsigned char>>(16 + 3 * row_bytes()));
      page_pointers.push_back(pages.back()->data());
    }
  }
  int64_t row_bytes() const { return int64_t{desc.chunk} * desc.rank * dtype_bytes(desc.dtype); }

  Result run(Op op) {
    const int64_t chunks = n / desc.chunk;
    Buffer<float> residual(chunks * desc.kv_heads), energy(chunks * desc.kv_heads);
    Buffer<char> workspace(static_cast<int64_t>(kernels::key_project_workspace_bytes(desc, n)), 64);
    const KeyProjectArgs args{x.data(), n, mu.data(), p.data(), b.data(),
                              {page_pointers.data(), 16, 3, static_cast<int32_t>(row_bytes())}, first_chunk,
                              residual.data(), energy.data()};
    op(desc, args, workspace.data());
    Result result;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < desc.rank; ++j)
        result.a.push_back(
            load_f32(args.a.row(first_chunk + i / desc.chunk), desc.dtype, i % desc.chunk * desc.rank + j));
    result.residual.assign(residual.data(), residual.data() + residual.size());
    result.energy.assign(energy.data(), energy.data() + energy.size());
    return result;
  }
};

KeyProjectDesc random_desc(Random& rng) {
  const int32_t kv_heads = static_cast<int32_t>(rng.integer(1, 4)), head_dim = rng.pick({16, 32, 80, 128});
  return {rng.pick({DType::f32, DType::bf16}), kv_heads, head_dim,
          static_cast<int32_t>(rng.integer(1, kv_heads * head_dim / 2)), rng.pick({4, 8, 16, 32})};
}

TEST(KeyProject, matches_reference) {
  Random rng;
  for_each_target([&] {
    for (Fill fill : {Fill::normal, Fill::biased, Fill::ties, Fill::zeros}) {
      const KeyProjectDesc desc = random_desc(rng);
      ASSERT_TRUE(kernels::key_project_supports(desc));
      Segment segment(rng, desc, rng.integer(0, 12) * desc.chunk, fill);
      const Result got = segment.run(kernels::key_project_cpu), want = segment.run(kernels::key_project_ref);
      const std::string params = std::string(fill_name(fill)) + " m=" + std::to_string(segment.m) +
                                 " r=" + std::to_string(desc.rank) + " n=" + std::to_string(segment.n);
      const float scale = max_abs(want.a);
      for (std::size_t i = 0; i < want.a.size(); ++i) {
        const float tolerance =
            desc.dtype == DType::bf16 ? std::fabs(want.a[i]) * 0x1p-7f + 1e-5f * scale : 1e-5f * scale;
        ASSERT_NEAR(got.a[i], want.a[i], tolerance) << params;
      }
      for (std::size_t i = 0; i < want.residual.size(); ++i) {
        ASSERT_NEAR(got.energy[i], want.energy[i], 1e-5f * want.energy[i]) << params;
        ASSERT_NEAR(got.residual[i], want.residual[i], 1e-3f * want.residual[i] + 1e-6f * want.energy[i]) << params;
      }
    }
  });
}

// Keys that lie in the span of an orthonormal basis leave no residual; keys orthogonal to it leave all their energy.
TEST(KeyProject, residual_is_what_the_basis_misses_of_centred_keys) {
  Random rng;
  const KeyProjectDesc desc{DType::f32, 2, 16, 4, 8};
  Segment segment(rng, desc, 16, Fill::zeros);
  for (int64_t d = 0; d < 32; ++d) {
    segment.mu[d] = 50.0f;
    for (int64_t j = 0; j < 4; ++j) {
      segment.p[d * 4 + j] = d == 5 * j ? 1.0f : 0.0f;  // columns 0, 5, 10 of head 0, 15 of head 0
      store_f32(segment.b.data(), DType::f32, (d / 16 * 4 + j) * 16 + d % 16, segment.p[d * 4 + j]);
    }
  }
  for (int64_t i = 0; i < 16; ++i)
    for (int64_t d = 0; d < 32; ++d)
      segment.x[i * 32 + d] = 50.0f + (i < 8 ? (d == 5 ? 2.0f : 0.0f) : (d == 20 ? 3.0f : 0.0f));
  for (Op op : {Op{kernels::key_project_cpu}, Op{kernels::key_project_ref}}) {
    const Result result = segment.run(op);
    EXPECT_EQ(result.residual, (std::vector<float>{0, 0, 0, 72}));
    EXPECT_EQ(result.energy, (std::vector<float>{32, 0, 0, 72}));
    EXPECT_EQ(result.a[1], 2.0f);
  }
}

TEST(KeyProject, a_chunk_does_not_depend_on_how_many_others_or_threads) {
  Random rng;
  const KeyProjectDesc desc{DType::bf16, 2, 64, 24, 8};
  Segment segment(rng, desc, 2064, Fill::normal);  // past two blocks of the workspace
  Result all, few;
  with_threads(3, [&] { all = segment.run(kernels::key_project_cpu); });
  segment.n = 24;
  with_threads(1, [&] { few = segment.run(kernels::key_project_cpu); });
  expect_same_bytes(few.a.data(), all.a.data(), few.a.size() * sizeof(float), "a");
  expect_same_bytes(few.residual.data(), all.residual.data(), few.residual.size() * sizeof(float), "residual");
  EXPECT_LE(kernels::key_project_workspace_bytes(desc, 1 << 20), kernels::key_project_workspace_bytes(desc, 1 << 12));
}

void bench() {
  Random rng;
  const KeyProjectDesc desc{DType::bf16, 8, 128, 160, 8};
  const int64_t n = bench_small() ? 64 : 4096;
  Segment segment(rng, desc, n, Fill::normal);
  std::vector<float> residual(static_cast<std::size_t>(n)), energy(residual);
  Buffer<char> workspace(static_cast<int64_t>(kernels::key_project_workspace_bytes(desc, n)), 64);
  for_each_bench_target([&](const char* variant) {
    const double m = static_cast<double>(segment.m), tokens = static_cast<double>(n);
    const BenchRow row{.op = "key_project", .variant = variant, .shape = "8/128 r 160 bf16", .tokens = n,
                       .working_set_bytes = 4 * n * segment.m, .bytes = tokens * (4 * m + 2 * desc.rank),
                       .flops = 4 * tokens * m * desc.rank};
    run_bench(row, [&](int64_t) {
      kernels::key_project_cpu(desc,
                               {segment.x.data(),
                                n,
                                segment.mu.data(),
                                segment.p.data(),
                                segment.b.data(),
                                {segment.page_pointers.data(), 16, 3, static_cast<int32_t>(segment.row_bytes())},
                                segment.first_chunk,
                                residual.data(),
                                energy.data()},
                               workspace.data());
    });
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
