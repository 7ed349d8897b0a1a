#include "kernels/landmark_build/landmark_build.h"

#include <memory>

#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::KvSpan;
using kernels::LandmarkBuildDesc;
using kernels::LandmarkBuildItem;

using Op = void (*)(const LandmarkBuildDesc&, std::span<const LandmarkBuildItem>);

// One KV head: keys in several spans, landmarks in pages of 5 rows.
struct Head {
  int64_t n_chunks = 0;
  int32_t first_chunk;
  std::vector<std::unique_ptr<Buffer<unsigned char>>> keys;
  std::vector<KvSpan> spans;
  std::vector<std::unique_ptr<Buffer<unsigned char>>> pages;
  std::vector<void*> page_pointers;
  std::unique_ptr<Buffer<float>> cosine;
  LandmarkBuildItem item;

  Head(Random& rng, const LandmarkBuildDesc& desc, int32_t n_spans, int32_t max_chunks, Fill fill, int32_t first)
      : first_chunk(first) {
    const int64_t element = dtype_bytes(desc.dtype), row = desc.head_dim * element;
    for (int32_t s = 0; s < n_spans; ++s) {
      const auto n = static_cast<int32_t>(rng.integer(0, max_chunks)) * desc.chunk;
      keys.push_back(std::make_unique<Buffer<unsigned char>>(n * row));
      fill_rows(rng, fill, desc.dtype, keys.back()->data(), n, desc.head_dim);
      spans.push_back({keys.back()->data(), nullptr, n, 0});
      n_chunks += n / desc.chunk;
    }
    for (int64_t at = 0; at < first + n_chunks; at += 5) {
      pages.push_back(std::make_unique<Buffer<unsigned char>>(32 + 5 * row));
      page_pointers.push_back(pages.back()->data());
    }
    cosine = std::make_unique<Buffer<float>>(n_chunks);
    item = {spans.data(), n_spans, {page_pointers.data(), 32, 5, static_cast<int32_t>(row)}, first, cosine->data()};
  }
  struct Result {
    std::vector<float> landmarks, cosine;
  };
  Result run(Op op, const LandmarkBuildDesc& desc) {
    op(desc, {&item, 1});
    Result result;
    for (int64_t j = 0; j < n_chunks; ++j) {
      for (int64_t d = 0; d < desc.head_dim; ++d)
        result.landmarks.push_back(load_f32(item.landmarks.row(first_chunk + j), desc.dtype, d));
      result.cosine.push_back(item.min_cosine[j]);
    }
    return result;
  }
};

TEST(LandmarkBuild, matches_reference) {
  Random rng;
  for_each_target([&] {
    for (Fill fill : kAllFills) {
      for (DType dtype : {DType::f32, DType::bf16}) {
        const LandmarkBuildDesc desc{dtype, rng.pick({4, 8, 16, 32}), rng.pick({32, 64, 80, 96, 128, 256})};
        ASSERT_TRUE(kernels::landmark_build_supports(desc));
        Head head(rng, desc, static_cast<int32_t>(rng.integer(0, 4)), 70, fill,
                  static_cast<int32_t>(rng.integer(0, 9)));
        const Head::Result got = head.run(kernels::landmark_build_cpu, desc);
        const Head::Result want = head.run(kernels::landmark_build_ref, desc);
        const std::string params = std::string(fill_name(fill)) + " chunk=" + std::to_string(desc.chunk) +
                                   " dim=" + std::to_string(desc.head_dim);
        // One bf16 rounding of means that differ by 1e-5 at most: a unit in the last place where they straddle a tie.
        expect_close(got.landmarks, want.landmarks, (dtype == DType::bf16 ? 8e-3f : 1e-5f) * max_abs(want.landmarks),
                     params);
        expect_close(got.cosine, want.cosine, 1e-4f, params);
      }
    }
  });
}

TEST(LandmarkBuild, cosines_of_zero_and_nan_keys_are_as_documented) {
  const LandmarkBuildDesc desc{DType::f32, 4, 16};
  for_each_target([&] {
    for (Op op : {Op{kernels::landmark_build_cpu}, Op{kernels::landmark_build_ref}}) {
      std::vector<float> keys(5 * 4 * 16, 1.0f);
      std::fill_n(keys.begin() + 1 * 64, 16, 0.0f);                             // chunk 1: a zero key
      std::fill_n(keys.begin() + 2 * 64, 32, -1.0f);                            // chunk 2: zero mean
      keys[3 * 64 + 20] = std::numeric_limits<float>::quiet_NaN();              // chunk 3
      std::fill_n(keys.begin() + 4 * 64, 16, -3.0f);                            // chunk 4: mean 0, opposite keys
      std::fill_n(keys.begin() + 4 * 64 + 16, 48, 2.0f);                        // (mean 0.75, the first at -1)
      std::vector<float> landmarks(5 * 16), cosine(5);
      void* page = landmarks.data();
      const KvSpan span{keys.data(), nullptr, 20, 0};
      const LandmarkBuildItem item{&span, 1, {&page, 0, 5, 64}, 0, cosine.data()};
      op(desc, {&item, 1});
      EXPECT_NEAR(cosine[0], 1.0f, 1e-6f);
      EXPECT_EQ(cosine[1], 0.0f);
      EXPECT_EQ(cosine[2], 0.0f);
      EXPECT_EQ(cosine[3], -1.0f);
      EXPECT_TRUE(std::isnan(landmarks[3 * 16 + 4]));
      EXPECT_NEAR(cosine[4], -1.0f, 1e-6f);
      EXPECT_FLOAT_EQ(landmarks[4 * 16], 0.75f);
    }
  });
}

TEST(LandmarkBuild, a_chunk_does_not_depend_on_the_other_spans_or_threads) {
  Random rng;
  const LandmarkBuildDesc desc{DType::bf16, 8, 128};
  Head head(rng, desc, 3, 100, Fill::normal, 2);
  Head::Result all, alone;
  with_threads(3, [&] { all = head.run(kernels::landmark_build_cpu, desc); });
  with_threads(1, [&] { alone = head.run(kernels::landmark_build_cpu, desc); });
  expect_same_bytes(all.landmarks.data(), alone.landmarks.data(), all.landmarks.size() * 4, "landmarks");
  expect_same_bytes(all.cosine.data(), alone.cosine.data(), all.cosine.size() * 4, "cosines");
}

void bench() {
  const LandmarkBuildDesc desc{DType::bf16, 8, 128};
  const int32_t heads = 8, n_chunks = bench_small() ? 16 : 4096;
  const int64_t head_elements = int64_t{n_chunks} * desc.chunk * desc.head_dim;
  const int32_t layers = bench_layers(heads * head_elements * 2);
  std::vector<uint16_t> keys(static_cast<std::size_t>(layers * heads * head_elements), f32_to_bf16(0.5f)),
      landmarks(static_cast<std::size_t>(heads * n_chunks * desc.head_dim));
  std::vector<float> cosine(static_cast<std::size_t>(heads * n_chunks));
  for_each_bench_target([&](const char* variant) {
    const BenchRow row{.op = "landmark_build", .variant = variant, .shape = "8/128 C 8 bf16",
                       .tokens = int64_t{n_chunks} * desc.chunk, .layers = layers,
                       .working_set_bytes = static_cast<int64_t>(2 * keys.size()),
                       .bytes = 2.0 * static_cast<double>(heads * head_elements) * (1 + 1.0 / desc.chunk)};
    run_bench(row, [&](int64_t sample) {
      std::vector<KvSpan> spans;
      std::vector<void*> pages;
      std::vector<LandmarkBuildItem> items;
      for (int32_t h = 0; h < heads; ++h) {
        spans.push_back(
            {keys.data() + (sample % layers * heads + h) * head_elements, nullptr, n_chunks * desc.chunk, 0});
        pages.push_back(landmarks.data() + int64_t{h} * n_chunks * desc.head_dim);
      }
      for (std::size_t h = 0; h < spans.size(); ++h)
        items.push_back({&spans[h], 1, {&pages[h], 0, n_chunks, 256}, 0,
                         cosine.data() + static_cast<int64_t>(h) * n_chunks});
      kernels::landmark_build_cpu(desc, items);
    });
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
