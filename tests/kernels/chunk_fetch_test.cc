#include "kernels/chunk_fetch/chunk_fetch.h"

#include <memory>

#include "tests/kernels/kernel_test.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

constexpr int32_t kChunks[] = {4, 8, 16, 32};
constexpr int32_t kDims[] = {32, 64, 80, 96, 128, 256};
constexpr BlockCodec kCodecs[] = {BlockCodec::raw, BlockCodec::int8, BlockCodec::int4};
constexpr const char* kCodecNames[] = {"raw", "int8", "int4"};

std::string text(const BlockFormat& f) {
  return std::string(kCodecNames[static_cast<int>(f.codec)]) + (f.dtype == DType::f32 ? " f32" : " bf16") +
         " C " + std::to_string(f.chunk) + " d " + std::to_string(f.width);
}

struct Case {
  BlockFormat format;
  std::vector<std::unique_ptr<Buffer<char>>> pages;
  std::vector<void*> page_list;
  std::unique_ptr<Buffer<char>> slots_data;
  std::unique_ptr<Buffer<float>> weights;  // null: none
  std::unique_ptr<Buffer<int32_t>> chunks, slots;
  Buffer<int32_t> n{1};
  ChunkFetchItem item;
};

// Every code and every kind of scale: ordinary ones of any magnitude, subnormal, zero, the largest, NaN.
void fill_block(Random& rng, const BlockFormat& format, char* block) {
  for (int64_t b = 0; b < format.block_bytes(); ++b) block[b] = static_cast<char>(rng.integer(0, 255));
  if (format.codec == BlockCodec::raw) return;
  auto* scales = reinterpret_cast<uint16_t*>(block + format.scales_at());
  for (int32_t t = 0; t < format.chunk; ++t) {
    const auto ordinary = static_cast<uint16_t>(rng.integer(0x0400, 0x7bff));
    scales[t] = rng.pick<uint16_t>({ordinary, ordinary, ordinary, 1, 0x3ff, 0, 0x7bff, 0x7e00});
  }
}

// Any positive ones, or powers of two.
std::unique_ptr<Buffer<float>> random_weights(Random& rng, int32_t width) {
  auto weights = std::make_unique<Buffer<float>>(width, 4);
  const bool powers = rng.chance(0.5);
  for (float& w : weights->span()) w = std::exp2(powers ? std::round(rng.uniform(-9, 9)) : rng.uniform(-9, 9));
  return weights;
}

// Pages hold two heads' blocks, this item's second; the last page is exactly as long as it must be.
std::unique_ptr<Case> make_case(Random& rng, const BlockFormat& format, int32_t n_chunks, int32_t n_slots,
                                int32_t n) {
  auto c = std::make_unique<Case>();
  c->format = format;
  const int64_t block_bytes = format.block_bytes();
  const auto per_page = static_cast<int32_t>(rng.pick({1, 4, 32}));
  for (int32_t first = 0; first < n_chunks; first += per_page) {
    const int64_t rows = std::min(per_page, n_chunks - first);
    c->pages.push_back(std::make_unique<Buffer<char>>((per_page + rows) * block_bytes));
    for (int64_t b = 0; b < per_page + rows; ++b) fill_block(rng, format, c->pages.back()->data() + b * block_bytes);
    c->page_list.push_back(c->pages.back()->data());
  }
  c->slots_data = std::make_unique<Buffer<char>>(n_slots * format.decoded_bytes());
  c->chunks = std::make_unique<Buffer<int32_t>>(n);
  c->slots = std::make_unique<Buffer<int32_t>>(n);
  std::vector<int32_t> order(static_cast<std::size_t>(n_slots));
  for (int32_t i = 0; i < n_slots; ++i) order[static_cast<std::size_t>(i)] = i;
  const bool in_order = rng.chance(0.25);
  for (int32_t i = n_slots - 1; i > 0 && !in_order; --i) std::swap(order[i], order[rng.integer(0, i)]);
  std::copy_n(order.begin(), n, c->slots->data());
  for (int32_t& id : c->chunks->span()) id = static_cast<int32_t>(rng.integer(0, n_chunks - 1));
  c->n[0] = n;
  if (format.codec != BlockCodec::raw && rng.chance(0.5)) c->weights = random_weights(rng, format.width);
  const auto n_pages = static_cast<int32_t>(c->page_list.size());
  c->item = {{c->page_list.data(), per_page * block_bytes, per_page, static_cast<int32_t>(block_bytes), n_pages},
             c->slots_data->data(), c->chunks->data(), in_order ? nullptr : c->slots->data(), c->n.data(),
             n + static_cast<int32_t>(rng.integer(0, 2)), c->weights ? c->weights->data() : nullptr};
  return c;
}

// Row by row, NaN only where NaN is wanted: 1e-6 of the row's largest before its weights, and the rounding of bf16.
void expect_close_rows(const BlockFormat& format, const float* weights, const char* got, const char* want,
                       const std::string& params) {
  for (int64_t t = 0; t < format.chunk; ++t) {
    const auto weight = [&](int64_t i) { return weights == nullptr ? 1.0f : weights[i]; };
    float largest = 0.0f;
    for (int64_t i = 0; i < format.width; ++i) {
      const float value = load_f32(want, format.dtype, t * format.width + i) / weight(i);
      largest = std::max(largest, std::fabs(value));
    }
    for (int64_t i = 0; i < format.width; ++i) {
      const float g = load_f32(got, format.dtype, t * format.width + i);
      const float w = load_f32(want, format.dtype, t * format.width + i);
      const float rounding = format.dtype == DType::bf16 ? 0x1p-7f * std::fabs(w) : 0.0f;
      ASSERT_TRUE((std::isnan(g) && std::isnan(w)) || std::fabs(g - w) <= 1e-6f * largest * weight(i) + rounding)
          << params << " row " << t << " element " << i << ": got " << g << ", want " << w;
    }
  }
}

// Runs both from the same slot contents, so that slots which must not be touched are compared too.
void compare_with_reference(std::vector<std::unique_ptr<Case>>& cases) {
  std::vector<ChunkFetchItem> items, refs;
  std::vector<std::vector<char>> want;
  for (const auto& c : cases) want.emplace_back(c->slots_data->data(), c->slots_data->data() + c->slots_data->size());
  const std::vector<std::vector<char>> before = want;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    items.push_back(cases[i]->item);
    refs.push_back(cases[i]->item);
    refs.back().slot_region = want[i].data();
  }
  const BlockFormat& format = cases[0]->format;
  tested_ops().chunk_fetch(format, items);
  chunk_fetch_ref(format, refs);
  for (std::size_t c = 0; c < cases.size(); ++c) {
    const std::string params = text(format) + " n " + std::to_string(cases[c]->n[0]);
    char* got = cases[c]->slots_data->data();
    if (format.codec == BlockCodec::int4) {
      for (int32_t i = 0; i < cases[c]->n[0]; ++i) {
        const int64_t at = (*cases[c]->slots)[i] * format.decoded_bytes();
        expect_close_rows(format, cases[c]->item.weights, got + at, want[c].data() + at, params);
        if (testing::Test::HasFatalFailure()) return;
        std::memcpy(want[c].data() + at, got + at, static_cast<std::size_t>(format.decoded_bytes()));
      }
    }
    expect_same_bytes(got, want[c].data(), want[c].size(), params);
    std::copy(before[c].begin(), before[c].end(), got);
  }
}

TEST(ChunkFetch, decodes_blocks_as_the_reference_into_their_slots_only) {
  Random rng;
  for (const BlockCodec codec : kCodecs) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      for (const int32_t chunk : kChunks) {
        for (const int32_t dim : kDims) {
          if (tested_slowly() && !rng.chance(codec == BlockCodec::int4 ? 0.2 : 0.4)) continue;
          const BlockFormat format{codec, dtype, chunk, dim};
          std::vector<std::unique_ptr<Case>> cases;
          const int32_t most = tested_slowly() ? 3 : 33;
          for (const int32_t n : {0, 1, 3, 3, 3, most}) cases.push_back(make_case(rng, format, 9, 40, n));
          for_each_target([&] {
            with_threads(static_cast<int>(rng.integer(1, 3)), [&] { compare_with_reference(cases); });
          });
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Widths and chunks no head has, as the low-rank coordinates may.
TEST(ChunkFetch, decodes_other_widths_and_chunks) {
  Random rng;
  const auto compare = [&](BlockCodec codec, int32_t chunk, int32_t width) {
    std::vector<std::unique_ptr<Case>> cases;
    cases.push_back(make_case(rng, {codec, rng.pick({DType::bf16, DType::f32}), chunk, width}, 3, 5, 4));
    compare_with_reference(cases);
  };
  for_each_target([&] {
    for (const int32_t width : {1, 7, 10, 33, 100, 160, 211}) compare(BlockCodec::int8, 6, width);
    compare(BlockCodec::int8, 70, 32);
    compare(BlockCodec::int8, 40, 7);
    compare(BlockCodec::int4, 32, 80);
    for (const int32_t width : {16, 48, 128, 160, 192, 256, 320, 384, 512}) compare(BlockCodec::int4, 6, width);
  });
}

// The bytes in a slot are the block's business alone: not its place among others, its page, slot or team.
TEST(ChunkFetch, gives_a_block_the_same_bytes_wherever_it_lies) {
  Random rng;
  for (const BlockCodec codec : kCodecs) {
    for (const int32_t dim : kDims) {
      const int32_t chunk = tested_slowly() ? 4 : rng.pick({4, 8, 16, 32});
      const BlockFormat format{codec, rng.pick({DType::bf16, DType::f32}), chunk, dim};
      const auto many = make_case(rng, format, 40, 100, 70), alone = make_case(rng, format, 3, 3, 1);
      alone->item.weights = many->item.weights;
      const auto size = static_cast<std::size_t>(format.decoded_bytes());
      for_each_target([&] {
        with_threads(3, [&] { tested_ops().chunk_fetch(format, std::span(&many->item, 1)); });
        for (const int32_t i : {0, 1, 31, 32, 69}) {
          void* block = many->item.blocks.row((*many->chunks)[i]);
          void* copy = alone->item.blocks.row((*alone->chunks)[0]);
          std::memcpy(copy, block, static_cast<std::size_t>(format.block_bytes()));
          tested_ops().chunk_fetch(format, std::span(&alone->item, 1));
          expect_same_bytes(alone->slots_data->data() + (*alone->slots)[0] * format.decoded_bytes(),
                            many->slots_data->data() + (*many->slots)[i] * format.decoded_bytes(), size,
                            text(format));
        }
      });
    }
  }
}

TEST(ChunkFetch, gives_zero_scales_as_positive_zeros_and_nan_scales_as_nan) {
  Random rng;
  for_each_target([&] {
    for (const BlockCodec codec : {BlockCodec::int8, BlockCodec::int4}) {
      for (const int32_t dim : kDims) {
        const BlockFormat format{codec, rng.pick({DType::bf16, DType::f32}), 4, dim};
        const auto c = make_case(rng, format, 1, 1, 1);
        auto* block = static_cast<char*>(c->item.blocks.row(0));
        std::memset(block, 0, static_cast<std::size_t>(format.scales_at()));
        auto* scales = reinterpret_cast<uint16_t*>(block + format.scales_at());
        for (int32_t t = 0; t < 4; ++t) scales[t] = t % 2 ? rng.pick<uint16_t>({0x7e00, 0x7c01, 0x7fff, 0xffff}) : 0;
        tested_ops().chunk_fetch(format, std::span(&c->item, 1));
        for (int64_t i = 0; i < int64_t{4} * dim; ++i) {
          const float x = load_f32(c->slots_data->data(), format.dtype, i);
          if (i / dim % 2) ASSERT_TRUE(std::isnan(x)) << text(format);
          else ASSERT_EQ(std::bit_cast<uint32_t>(x), 0u) << text(format);
        }
      }
    }
  });
}

TEST(ChunkFetch, reaches_blocks_and_slots_past_two_to_the_32_bytes) {
  if (!ops_see_all_memory()) GTEST_SKIP() << "so many addresses cannot be shown to a GPU";
  constexpr int32_t kFar = 9 << 20;
  for (const BlockCodec codec : kCodecs) {
    const BlockFormat format{codec, DType::bf16, 8, 128};
    const int64_t block_bytes = format.block_bytes(), decoded_bytes = format.decoded_bytes();
    SparseRegion blocks((kFar + 1) * block_bytes), slots((kFar + 1) * decoded_bytes);
    Random rng;
    fill_block(rng, format, blocks.at(kFar * block_bytes));
    void* page = blocks.at(0);
    const std::vector<int32_t> chunk{kFar}, slot{kFar}, zero{0}, n{1};
    const ChunkFetchItem far{{&page, 0, kFar + 1, static_cast<int32_t>(block_bytes), 1}, slots.at(0),
                             chunk.data(), slot.data(), n.data(), 1};
    tested_ops().chunk_fetch(format, std::span(&far, 1));
    Buffer<char> want(decoded_bytes);
    void* near_page = blocks.at(kFar * block_bytes);
    const ChunkFetchItem near{{&near_page, 0, 1, static_cast<int32_t>(block_bytes), 1}, want.data(),
                              zero.data(), zero.data(), n.data(), 1};
    chunk_fetch_ref(format, std::span(&near, 1));
    const char* got = slots.at(kFar * decoded_bytes);
    if (codec == BlockCodec::int4) expect_close_rows(format, nullptr, got, want.data(), "far block");
    else expect_same_bytes(got, want.data(), static_cast<std::size_t>(want.size()), "far block");
  }
}

TEST(ChunkFetch, says_what_it_supports) {
  for (const BlockCodec codec : kCodecs) {
    for (const int32_t dim : kDims) {
      EXPECT_TRUE(chunk_fetch_supports({codec, DType::bf16, 8, dim}));
      EXPECT_TRUE(chunk_fetch_supports({codec, DType::f32, 32, dim}));
      EXPECT_FALSE(chunk_fetch_supports({codec, DType::f16, 8, dim}));
      EXPECT_FALSE(chunk_fetch_supports({codec, DType::bf16, 0, dim}));
      EXPECT_FALSE(chunk_fetch_supports({codec, DType::bf16, 8, -dim}));
    }
  }
  EXPECT_FALSE(chunk_fetch_supports({static_cast<BlockCodec>(7), DType::bf16, 8, 128}));
  EXPECT_TRUE(chunk_fetch_supports({BlockCodec::int8, DType::bf16, 8, 77}));
  EXPECT_FALSE(chunk_fetch_supports({BlockCodec::int8, DType::bf16, 1, 77}));
  EXPECT_FALSE(chunk_fetch_supports({BlockCodec::int4, DType::bf16, 8, 72}));
  EXPECT_FALSE(chunk_fetch_supports({BlockCodec::int4, DType::bf16, 8, 40}));
  EXPECT_FALSE(chunk_fetch_supports({BlockCodec::int4, DType::bf16, 8, 1024}));
}

// 40 % of 256 selected chunks missed, out of a 128K-token sequence's blocks.
void bench_codec(const BlockFormat& format, bool weighted) {
  constexpr int32_t kHeads = 8, kMisses = 102, kSlots = 1024;
  const int32_t chunks = bench_small() ? 512 : 16384;
  const int64_t block_bytes = format.block_bytes(), decoded_bytes = format.decoded_bytes();
  const int64_t layer_bytes = kHeads * chunks * block_bytes;
  const int32_t layers = bench_layers(layer_bytes, 2);
  SparseRegion data(static_cast<std::size_t>(layers * layer_bytes), true), slots(kHeads * kSlots * decoded_bytes);
  std::memset(data.at(0), 1, static_cast<std::size_t>(layers * layer_bytes));
  Random rng;
  constexpr int32_t kDraws = 64;  // drawn before the clock runs
  std::vector<int32_t> ids(kDraws * kHeads * kMisses), to(kMisses);
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.integer(0, chunks - 1));
  for (int32_t i = 0; i < kMisses; ++i) to[static_cast<std::size_t>(i)] = i * 10;
  const std::vector<int32_t> n{kMisses};
  std::vector<ChunkFetchItem> items(kHeads);
  const std::vector<float> weights(static_cast<std::size_t>(format.width), 0.5f);
  const BenchRow row{.op = "chunk_fetch",
      .variant = kCodecNames[static_cast<int>(format.codec)] + std::string(weighted ? " weighted" : ""),
      .shape = "8 heads, 102 blocks of " + std::to_string(block_bytes) + " bytes, " + text(format),
      .tokens = int64_t{chunks} * format.chunk, .layers = layers, .working_set_bytes = layers * layer_bytes,
      .bytes = 1.0 * kHeads * kMisses * static_cast<double>(block_bytes + decoded_bytes)};
  run_bench(row, [&](int64_t i) {
    void* page = data.at((i % layers) * layer_bytes);
    for (int32_t h = 0; h < kHeads; ++h) {
      const PagedRows blocks{&page, h * chunks * block_bytes, chunks, static_cast<int32_t>(block_bytes), 1};
      items[static_cast<std::size_t>(h)] = {blocks,
          slots.at(h * kSlots * decoded_bytes), ids.data() + (i % kDraws * kHeads + h) * kMisses, to.data(),
          n.data(), kMisses, weighted ? weights.data() : nullptr};
    }
    tested_ops().chunk_fetch(format, items);
  });
}

void bench() {
  for (const int32_t dim : {64, 80, 96, 128, 256}) {
    for (const BlockCodec codec : kCodecs) bench_codec({codec, DType::bf16, 8, dim}, false);
    if (dim != 128) continue;
    for (const BlockCodec codec : {BlockCodec::int8, BlockCodec::int4}) {
      bench_codec({codec, DType::bf16, 8, dim}, true);
    }
  }
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
