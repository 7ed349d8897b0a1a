#include "kernels/key_project/key_project.h"

#include <memory>
#include <utility>

#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::BlockCodec;
using kernels::BlockFormat;
using kernels::KeyProjectArgs;
using kernels::KeyProjectDesc;

struct Result {
  std::vector<unsigned char> blocks;  // of all chunks, one after another
  std::vector<float> a;               // decoded
  std::vector<float> residual, energy;
};

uint16_t scale_bits(const BlockFormat& format, const unsigned char* block, int64_t t) {
  uint16_t bits;
  std::memcpy(&bits, block + format.scales_at() + 2 * t, sizeof(bits));
  return bits;
}

// From the formula of block_format.h, not by the library's codec.
float decoded(const BlockFormat& format, const unsigned char* block, int64_t t, int64_t j) {
  const int64_t at = t * format.width + j;
  if (format.codec == BlockCodec::raw) return load_f32(block, format.dtype, at);
  return static_cast<float>(static_cast<int8_t>(block[at])) * f16_to_f32(scale_bits(format, block, t));
}

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
      pages.push_back(std::make_unique<Buffer<unsigned char>>(16 + 3 * block_bytes()));
      page_pointers.push_back(pages.back()->data());
    }
  }
  int64_t block_bytes() const { return desc.a_format().block_bytes(); }
  kernels::PagedRows a_rows() {
    return {page_pointers.data(), 16, 3, static_cast<int32_t>(block_bytes()),
            static_cast<int32_t>(page_pointers.size())};
  }

  // Projects the n tokens from `begin` on into chunks first_chunk, first_chunk + 1, ...
  Result run(const kernels::Ops& ops, int64_t begin = 0) {
    const int64_t chunks = n / desc.chunk;
    const BlockFormat format = desc.a_format();
    Buffer<float> residual(chunks * desc.kv_heads), energy(chunks * desc.kv_heads);
    Buffer<char> workspace(static_cast<int64_t>(kernels::key_project_workspace_bytes(desc, n)), 64);
    const KeyProjectArgs args{x.data() + begin * m, n, mu.data(), p.data(), b.data(),
                              a_rows(), first_chunk, residual.data(), energy.data()};
    for (auto& page : pages) std::memset(page->data(), 0x5a, static_cast<std::size_t>(page->size()));
    ops.key_project(desc, args, workspace.data());
    Result result;
    for (int64_t c = 0; c < chunks; ++c) {
      const auto* block = static_cast<const unsigned char*>(args.a.row(first_chunk + c));
      result.blocks.insert(result.blocks.end(), block, block + block_bytes());
      for (int64_t t = 0; t < desc.chunk; ++t)
        for (int64_t j = 0; j < desc.rank; ++j) result.a.push_back(decoded(format, block, t, j));
    }
    result.residual.assign(residual.data(), residual.data() + residual.size());
    result.energy.assign(energy.data(), energy.data() + energy.size());
    return result;
  }

  // What decoded coordinates a miss of chunk c and head h, in double.
  double missed(const std::vector<float>& a, int64_t c, int64_t h) const {
    double sum = 0.0;
    for (int64_t i = c * desc.chunk; i < (c + 1) * desc.chunk; ++i)
      for (int64_t d = 0; d < desc.head_dim; ++d) {
        double rest = static_cast<double>(x[i * m + h * desc.head_dim + d]) - mu[h * desc.head_dim + d];
        for (int64_t j = 0; j < desc.rank; ++j)
          rest -= static_cast<double>(a[i * desc.rank + j]) *
                  load_f32(b.data(), desc.dtype, (h * desc.rank + j) * desc.head_dim + d);
        sum += rest * rest;
      }
    return sum;
  }
};

KeyProjectDesc random_desc(Random& rng, BlockCodec codec) {
  const int32_t kv_heads = static_cast<int32_t>(rng.integer(1, tested_slowly() ? 2 : 4));
  const int32_t head_dim = rng.pick({32, 64, 80, 96, 128, 256});
  const int32_t rank = static_cast<int32_t>(rng.integer(1, std::min(kv_heads * head_dim / 2, 200)));
  return {rng.pick({DType::f32, DType::bf16}), kv_heads, head_dim, rank, rng.pick({4, 8, 16, 32}), codec};
}

std::string describe(const Segment& segment, Fill fill) {
  return std::string(fill_name(fill)) + " m=" + std::to_string(segment.m) +
         " r=" + std::to_string(segment.desc.rank) + " n=" + std::to_string(segment.n) +
         " C=" + std::to_string(segment.desc.chunk) + (segment.desc.dtype == DType::bf16 ? " bf16" : " f32") +
         (segment.desc.a_codec == BlockCodec::int8 ? " int8" : " raw");
}

// Blocks of int8 rows: scales one step of f16 from the reference's, codes within 1, zeros after them.
void compare_int8(const Segment& segment, const Result& got, const Result& want, const std::string& params) {
  const BlockFormat format = segment.desc.a_format();
  const int64_t block_bytes = format.block_bytes(), used = format.scales_at() + 2 * format.chunk;
  ASSERT_EQ(block_bytes % 16, 0) << params;
  for (int64_t at = 0; at < static_cast<int64_t>(want.blocks.size()); at += block_bytes) {
    const unsigned char *g = got.blocks.data() + at, *w = want.blocks.data() + at;
    for (int64_t t = 0; t < format.chunk; ++t) {
      ASSERT_NEAR(scale_bits(format, g, t), scale_bits(format, w, t), 1) << params;
      for (int64_t i = t * format.width; i < (t + 1) * format.width; ++i)
        ASSERT_NEAR(static_cast<int8_t>(g[i]), static_cast<int8_t>(w[i]), 1) << params;
    }
    for (int64_t i = used; i < block_bytes; ++i) {
      ASSERT_EQ(g[i], 0) << params;
      ASSERT_EQ(w[i], 0) << params;
    }
  }
}

// Decoded coordinates against exact ones, in double: half a scale, or one rounding of the dtype.
void expect_near_exact(const Segment& segment, const Result& result, const std::string& params) {
  const BlockFormat format = segment.desc.a_format();
  std::vector<double> exact(static_cast<std::size_t>(format.width)), centred(static_cast<std::size_t>(segment.m));
  for (int64_t i = 0; i < segment.n; ++i) {
    double largest = 0.0, norm = 0.0;
    for (int64_t d = 0; d < segment.m; ++d) {
      centred[d] = static_cast<double>(segment.x[i * segment.m + d]) - segment.mu[d];
      norm += centred[d] * centred[d];
    }
    for (int64_t j = 0; j < format.width; ++j) {
      exact[j] = 0.0;
      for (int64_t d = 0; d < segment.m; ++d) exact[j] += centred[d] * segment.p[d * format.width + j];
      largest = std::max(largest, std::fabs(exact[j]));
    }
    const unsigned char* block = result.blocks.data() + i / format.chunk * format.block_bytes();
    const double rounding = 1e-6 * std::sqrt(norm);  // of f32 sums; p's columns have norm 1
    for (int64_t j = 0; j < format.width; ++j) {
      double tolerance = rounding;
      if (format.codec == BlockCodec::int8)
        tolerance += f16_to_f32(scale_bits(format, block, i % format.chunk)) / 2.0;
      else if (format.dtype == DType::bf16) tolerance += std::fabs(exact[j]) * 0x1p-8;
      ASSERT_NEAR(result.a[i * format.width + j], exact[j], tolerance) << params << " row " << i << " column " << j;
    }
    if (format.codec == BlockCodec::int8) {  // the smallest f16 that serves
      const double scale = f16_to_f32(scale_bits(format, block, i % format.chunk));
      ASSERT_LE(scale, largest / 127.0 * (1.0 + 0x1p-10) + 0x1p-24 + rounding) << params;
    }
  }
}

TEST(KeyProject, matches_reference) {
  Random rng;
  for_each_target([&] {
    for (BlockCodec codec : {BlockCodec::raw, BlockCodec::int8})
      for (Fill fill : kAllFills) {
        const KeyProjectDesc desc = random_desc(rng, codec);
        ASSERT_TRUE(kernels::key_project_supports(desc));
        Segment segment(rng, desc, rng.integer(0, 96 / desc.chunk) * desc.chunk, fill);
        const Result got = segment.run(tested_ops()), want = segment.run(kernels::ref_ops());
        const std::string params = describe(segment, fill);
        if (codec == BlockCodec::int8) {
          compare_int8(segment, got, want, params);
        } else {
          const float scale = max_abs(want.a);
          for (std::size_t i = 0; i < want.a.size(); ++i) {
            const float tolerance =
                desc.dtype == DType::bf16 ? std::fabs(want.a[i]) * 0x1p-7f + 1e-5f * scale : 1e-5f * scale;
            ASSERT_NEAR(got.a[i], want.a[i], tolerance) << params;
          }
        }
        for (const Result* result : {&got, &want}) {
          expect_near_exact(segment, *result, params);
          for (int64_t c = 0; c < segment.n / desc.chunk; ++c)
            for (int64_t h = 0; h < desc.kv_heads; ++h) {
              const std::size_t i = static_cast<std::size_t>(c * desc.kv_heads + h);
              const double missed = segment.missed(result->a, c, h);
              ASSERT_NEAR(result->energy[i], want.energy[i], 1e-4f * want.energy[i]) << params;
              ASSERT_NEAR(result->residual[i], missed, 1e-3 * missed + 1e-6 * want.energy[i]) << params;
            }
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
  for (const kernels::Ops* ops : {&tested_ops(), &kernels::ref_ops()}) {
    const Result result = segment.run(*ops);
    EXPECT_EQ(result.residual, (std::vector<float>{0, 0, 0, 72}));
    EXPECT_EQ(result.energy, (std::vector<float>{32, 0, 0, 72}));
    EXPECT_EQ(result.a[1], 2.0f);
  }
}

// One element that is not finite (or too large for an int8 row's scale) costs its own row, and its chunk's residual.
TEST(KeyProject, damage_stays_in_its_row) {
  Random rng;
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for_each_target([&] {
    for (BlockCodec codec : {BlockCodec::raw, BlockCodec::int8})
      for (float bad : {nan, inf, -inf, 1e15f}) {
        if (codec == BlockCodec::raw && std::isfinite(bad)) continue;
        const KeyProjectDesc desc = random_desc(rng, codec);
        Segment segment(rng, desc, 5 * desc.chunk, Fill::normal);
        const int64_t row = rng.integer(0, segment.n - 1), chunk = row / desc.chunk;
        for (const kernels::Ops* ops : {&tested_ops(), &kernels::ref_ops()}) {
          const float before = std::exchange(segment.x[row * segment.m + segment.m - 1], 0.0f);
          Result clean = segment.run(*ops);
          segment.x[row * segment.m + segment.m - 1] = bad;
          Result damaged = segment.run(*ops);
          segment.x[row * segment.m + segment.m - 1] = before;
          const std::string params = describe(segment, Fill::normal) + " x " + std::to_string(bad);
          for (int64_t j = 0; j < desc.rank; ++j) {
            const float a = damaged.a[row * desc.rank + j];
            ASSERT_TRUE(codec == BlockCodec::int8 || std::isnan(bad) ? std::isnan(a) : !std::isfinite(a)) << params;
            damaged.a[row * desc.rank + j] = clean.a[row * desc.rank + j];
          }
          for (int64_t h = 0; h < desc.kv_heads; ++h) {
            const std::size_t i = static_cast<std::size_t>(chunk * desc.kv_heads + h);
            ASSERT_FALSE(std::isfinite(damaged.residual[i])) << params;
            damaged.residual[i] = clean.residual[i];
          }
          expect_same_bytes(damaged.a.data(), clean.a.data(), clean.a.size() * sizeof(float), params);
          expect_same_bytes(damaged.residual.data(), clean.residual.data(), clean.residual.size() * sizeof(float),
                            params);
        }
      }
  });
}

TEST(KeyProject, a_chunk_is_the_same_bytes_among_any_others_at_any_place_on_any_threads) {
  Random rng;
  for (BlockCodec codec : {BlockCodec::raw, BlockCodec::int8}) {
    const KeyProjectDesc desc{DType::bf16, 2, tested_slowly() ? 32 : 64, 23, 8, codec};
    Segment segment(rng, desc, 4112, Fill::normal);  // past a block of the workspace, on a GPU too
    Result all;  // its last block is short enough for another algorithm of a product
    with_threads(3, [&] { all = segment.run(tested_ops()); });
    segment.n = 24;
    for (int64_t begin : {0, 8, 1016, 1024, 2040, 4080, 4088}) {
      segment.first_chunk = static_cast<int32_t>(rng.integer(0, 9));
      Result few;
      with_threads(1, [&] { few = segment.run(tested_ops(), begin); });
      const std::string params = "from " + std::to_string(begin);
      expect_same_bytes(few.blocks.data(), all.blocks.data() + begin / 8 * segment.block_bytes(), few.blocks.size(),
                        params);
      expect_same_bytes(few.residual.data(), all.residual.data() + begin / 8 * 2, few.residual.size() * sizeof(float),
                        params);
      expect_same_bytes(few.energy.data(), all.energy.data() + begin / 8 * 2, few.energy.size() * sizeof(float),
                        params);
    }
    EXPECT_LE(kernels::key_project_workspace_bytes(desc, 1 << 20),
              kernels::key_project_workspace_bytes(desc, 1 << 12));
  }
}

TEST(KeyProject, serves_raw_and_int8_rows) {
  KeyProjectDesc desc{DType::bf16, 2, 64, 24, 8, BlockCodec::int8};
  EXPECT_TRUE(kernels::key_project_supports(desc));
  desc.a_codec = BlockCodec::int4;
  EXPECT_FALSE(kernels::key_project_supports(desc));
  desc.a_codec = BlockCodec::raw;
  EXPECT_TRUE(kernels::key_project_supports(desc));
  desc.dtype = DType::f16;
  EXPECT_FALSE(kernels::key_project_supports(desc));
}

void bench() {
  Random rng;
  const int64_t n = bench_small() ? 64 : 4096;
  for (BlockCodec codec : {BlockCodec::raw, BlockCodec::int8}) {
    const KeyProjectDesc desc{DType::bf16, 8, 128, 160, 8, codec};
    Segment segment(rng, desc, n, Fill::normal);
    std::vector<float> residual(static_cast<std::size_t>(n)), energy(residual);
    Buffer<char> workspace(static_cast<int64_t>(kernels::key_project_workspace_bytes(desc, n)), 64);
    const KeyProjectArgs args{segment.x.data(), n, segment.mu.data(), segment.p.data(), segment.b.data(),
                              segment.a_rows(), segment.first_chunk, residual.data(), energy.data()};
    for_each_bench_target([&](const char* variant) {
      const double m = static_cast<double>(segment.m), tokens = static_cast<double>(n);
      const BenchRow row{.op = "key_project", .variant = variant,
                         .shape = codec == BlockCodec::raw ? "8/128 r 160 bf16" : "8/128 r 160 bf16, a int8",
                         .tokens = n, .working_set_bytes = 4 * n * segment.m,
                         .bytes = 4 * tokens * m + tokens / desc.chunk * static_cast<double>(segment.block_bytes()),
                         .flops = 4 * tokens * m * desc.rank};
      run_bench(row, [&](int64_t) { tested_ops().key_project(desc, args, workspace.data()); });
    });
  }
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
