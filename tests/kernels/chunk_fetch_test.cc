#include "kernels/chunk_fetch/chunk_fetch.h"

#include <memory>

#include "tests/kernels/kernel_test.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

struct Case {
  ChunkFetchDesc desc;
  std::vector<std::unique_ptr<Buffer<char>>> pages;
  std::vector<void*> page_list;
  std::unique_ptr<Buffer<char>> slots_data;
  std::unique_ptr<Buffer<int32_t>> chunks, slots;
  Buffer<int32_t> n{1};
  ChunkFetchItem item;
  int64_t block_bytes = 0;
};

// Pages hold two heads' blocks, this item's second; the last page is exactly as long as it must be.
std::unique_ptr<Case> make_case(Random& rng, const ChunkFetchDesc& desc, int32_t n_chunks, int32_t n_slots,
                                int32_t n) {
  auto c = std::make_unique<Case>();
  c->desc = desc;
  c->block_bytes = int64_t{desc.chunk} * desc.head_dim * dtype_bytes(desc.dtype);
  const auto per_page = static_cast<int32_t>(rng.pick({1, 4, 32}));
  for (int32_t first = 0; first < n_chunks; first += per_page) {
    const int64_t rows = std::min(per_page, n_chunks - first);
    c->pages.push_back(std::make_unique<Buffer<char>>((per_page + rows) * c->block_bytes));
    for (char& b : c->pages.back()->span()) b = static_cast<char>(rng.integer(0, 255));
    c->page_list.push_back(c->pages.back()->data());
  }
  c->slots_data = std::make_unique<Buffer<char>>(n_slots * c->block_bytes);
  c->chunks = std::make_unique<Buffer<int32_t>>(n);
  c->slots = std::make_unique<Buffer<int32_t>>(n);
  std::vector<int32_t> order(static_cast<std::size_t>(n_slots));
  for (int32_t i = 0; i < n_slots; ++i) order[static_cast<std::size_t>(i)] = i;
  for (int32_t i = n_slots - 1; i > 0; --i) std::swap(order[i], order[rng.integer(0, i)]);
  std::copy_n(order.begin(), n, c->slots->data());
  for (int32_t& id : c->chunks->span()) id = static_cast<int32_t>(rng.integer(0, n_chunks - 1));
  c->n[0] = n;
  c->item = {{c->page_list.data(), per_page * c->block_bytes, per_page, static_cast<int32_t>(c->block_bytes)},
             c->slots_data->data(), c->chunks->data(), c->slots->data(), c->n.data()};
  return c;
}

// Runs both from the same slot contents, so that slots which must not be touched are compared too.
void compare_with_reference(std::vector<std::unique_ptr<Case>>& cases) {
  std::vector<ChunkFetchItem> items, refs;
  std::vector<std::vector<char>> want;
  for (const auto& c : cases) want.emplace_back(c->slots_data->data(), c->slots_data->data() + c->slots_data->size());
  for (std::size_t i = 0; i < cases.size(); ++i) {
    items.push_back(cases[i]->item);
    refs.push_back(cases[i]->item);
    refs.back().slot_region = want[i].data();
  }
  const ChunkFetchDesc& desc = cases[0]->desc;
  chunk_fetch_cpu(desc, items);
  chunk_fetch_ref(desc, refs);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    expect_same_bytes(cases[i]->slots_data->data(), want[i].data(), want[i].size(),
                      "chunk=" + std::to_string(desc.chunk) + " D=" + std::to_string(desc.head_dim) +
                          " n=" + std::to_string(cases[i]->n[0]));
  }
}

TEST(ChunkFetch, copies_blocks_bit_for_bit_into_their_slots_only) {
  Random rng;
  for (const int32_t chunk : {4, 8, 16, 32}) {
    for (const int32_t dim : {32, 64, 80, 96, 128, 256}) {
      const ChunkFetchDesc desc{BlockCodec::raw, rng.pick({DType::bf16, DType::f32}), chunk, dim};
      std::vector<std::unique_ptr<Case>> cases;
      for (const int32_t n : {0, 1, 33, 100}) cases.push_back(make_case(rng, desc, 70, 120, n));
      with_threads(static_cast<int>(rng.integer(1, 3)), [&] { compare_with_reference(cases); });
      if (HasFatalFailure()) return;
    }
  }
}

TEST(ChunkFetch, reaches_blocks_and_slots_past_two_to_the_32_bytes) {
  constexpr int64_t kBlock = 8 * 128 * 2;
  constexpr int32_t kFar = 3 << 20;
  SparseRegion blocks((kFar + 1) * kBlock), slots((kFar + 1) * kBlock);
  Random rng;
  fill_rows(rng, Fill::normal, DType::bf16, blocks.at(kFar * kBlock), 8, 128);
  void* page = blocks.at(0);
  const int32_t chunk = kFar, slot = kFar, n = 1;
  const ChunkFetchItem item{{&page, 0, kFar + 1, static_cast<int32_t>(kBlock)}, slots.at(0), &chunk, &slot, &n};
  chunk_fetch_cpu({BlockCodec::raw, DType::bf16, 8, 128}, std::span(&item, 1));
  expect_same_bytes(slots.at(kFar * kBlock), blocks.at(kFar * kBlock), kBlock, "far block");
}

TEST(ChunkFetch, says_what_it_supports) {
  EXPECT_TRUE(chunk_fetch_supports({BlockCodec::raw, DType::bf16, 8, 128}));
  EXPECT_TRUE(chunk_fetch_supports({BlockCodec::raw, DType::f32, 32, 80}));
  EXPECT_FALSE(chunk_fetch_supports({BlockCodec::raw, DType::f16, 8, 128}));
  EXPECT_FALSE(chunk_fetch_supports({static_cast<BlockCodec>(7), DType::bf16, 8, 128}));
  EXPECT_FALSE(chunk_fetch_supports({BlockCodec::raw, DType::bf16, 0, 128}));
}

// 40 % of 256 selected chunks missed, out of a 128K-token sequence's blocks.
void bench() {
  constexpr int32_t kHeads = 8, kMisses = 102, kSlots = 1024;
  const int32_t chunks = bench_small() ? 512 : 16384;
  constexpr int64_t kBlock = 8 * 128 * 2;
  const int64_t layer_bytes = kHeads * chunks * kBlock;
  const int32_t layers = bench_layers(layer_bytes, 2);
  SparseRegion data(static_cast<std::size_t>(layers * layer_bytes), true), slots(kHeads * kSlots * kBlock);
  std::memset(data.at(0), 1, static_cast<std::size_t>(layers * layer_bytes));
  Random rng;
  std::vector<int32_t> ids(kHeads * kMisses), to(kMisses);
  for (int32_t i = 0; i < kMisses; ++i) to[static_cast<std::size_t>(i)] = i * 10;
  const int32_t n = kMisses;
  std::vector<ChunkFetchItem> items(kHeads);
  const BenchRow row{.op = "chunk_fetch", .variant = "memcpy", .shape = "8 heads, 102 blocks of 2048 bytes",
      .tokens = int64_t{chunks} * 8, .layers = layers, .working_set_bytes = layers * layer_bytes,
      .bytes = 2.0 * kHeads * kMisses * kBlock};
  run_bench(row, [&](int64_t i) {
    for (int32_t& id : ids) id = static_cast<int32_t>(rng.integer(0, chunks - 1));
    void* page = data.at((i % layers) * layer_bytes);
    for (int32_t h = 0; h < kHeads; ++h) {
      items[static_cast<std::size_t>(h)] = {{&page, h * chunks * kBlock, chunks, static_cast<int32_t>(kBlock)},
          slots.at(h * kSlots * kBlock), ids.data() + h * kMisses, to.data(), &n};
    }
    chunk_fetch_cpu({BlockCodec::raw, DType::bf16, 8, 128}, items);
  });
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
