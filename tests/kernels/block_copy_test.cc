#include "kernels/block_copy/block_copy.h"

#include <memory>

#include "tests/kernels/kernel_test.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

// Pairs of buffers, source and target, each between canaries; targets differ from their sources in every byte.
struct Copies {
  std::vector<std::unique_ptr<Buffer<uint8_t>>> from, to;
  std::vector<BlockCopyItem> items;

  void add(Random& rng, int64_t bytes) {
    from.push_back(std::make_unique<Buffer<uint8_t>>(bytes));
    to.push_back(std::make_unique<Buffer<uint8_t>>(bytes));
    for (uint8_t& b : from.back()->span()) b = static_cast<uint8_t>(rng.integer(0, 255));
    clear(from.size() - 1);
    items.push_back({to.back()->data(), from.back()->data(), bytes});
  }
  void clear(std::size_t i) {
    for (int64_t b = 0; b < to[i]->size(); ++b) (*to[i])[b] = static_cast<uint8_t>(~(*from[i])[b]);
  }
  void run_and_check(void (*op)(std::span<const BlockCopyItem>)) {
    for (std::size_t i = 0; i < to.size(); ++i) clear(i);
    op(items);
    for (std::size_t i = 0; i < to.size(); ++i) {
      const std::string params = "item " + std::to_string(i) + " of " + std::to_string(to.size());
      expect_same_bytes(to[i]->data(), from[i]->data(), static_cast<std::size_t>(to[i]->size()), params);
    }
  }
};

void tested(std::span<const BlockCopyItem> items) { tested_ops().block_copy(items); }

// Around the pieces that a warp copies (4 KB) and a CPU thread (256 KB), and none at all.
TEST(BlockCopy, copies_every_item_whatever_their_sizes) {
  Random rng;
  Copies copies;
  for (const int64_t bytes : {16, 0, 4080, 4096, 4112, 512, 528, 1040, 33 * 4096 + 48, 0, (256 << 10) + 16}) {
    copies.add(rng, bytes);
  }
  for (int i = 0; i < 40; ++i) copies.add(rng, 16 * rng.integer(0, 300));
  for_each_target([&] { copies.run_and_check(tested); });
  copies.run_and_check(block_copy_ref);
}

TEST(BlockCopy, copies_blocks_that_lie_side_by_side) {
  Random rng;
  for_each_target([&] {
    Buffer<uint8_t> from(64 * 48), to(64 * 48);
    for (uint8_t& b : from.span()) b = static_cast<uint8_t>(rng.integer(0, 255));
    std::fill(to.span().begin(), to.span().end(), uint8_t{7});
    std::vector<BlockCopyItem> items;
    for (int64_t i = 0; i < 64; i += 2) items.push_back({&to[(63 - i) * 48], &from[i * 48], 48});
    tested(items);
    for (int64_t i = 0; i < 64; ++i) {
      if (i % 2 == 0) expect_same_bytes(&to[(63 - i) * 48], &from[i * 48], 48, "copied");
      else EXPECT_TRUE(std::all_of(&to[(63 - i) * 48], &to[(63 - i) * 48] + 48, [](uint8_t b) { return b == 7; }));
    }
  });
}

TEST(BlockCopy, does_nothing_without_items) {
  for_each_target([] {
    tested({});
    const BlockCopyItem empty{nullptr, nullptr, 0};
    tested({&empty, 1});
  });
}

// 512 blocks of values each, as a store moves them between its tiers.
void bench() {
  for (const int64_t bytes : {528, 2048, 65536}) {
    constexpr int32_t kItems = 512;
    const int64_t layer_bytes = kItems * bytes;
    const int32_t layers = bench_layers(2 * layer_bytes, 2);
    SparseRegion from(static_cast<std::size_t>(layers * layer_bytes), true);
    SparseRegion to(static_cast<std::size_t>(layers * layer_bytes), true);
    std::memset(from.at(0), 1, static_cast<std::size_t>(layers * layer_bytes));
    std::vector<BlockCopyItem> items(kItems);
    const BenchRow row{.op = "block_copy", .variant = "", .shape = "512 of " + std::to_string(bytes) + " bytes",
                       .tokens = 0, .layers = layers, .working_set_bytes = 2 * layers * layer_bytes,
                       .bytes = 2.0 * static_cast<double>(layer_bytes)};
    run_bench(row, [&](int64_t i) {
      const int64_t at = i % layers * layer_bytes;
      for (int64_t j = 0; j < kItems; ++j) {
        items[static_cast<std::size_t>(j)] = {to.at(at + (kItems - 1 - j) * bytes), from.at(at + j * bytes), bytes};
      }
      tested(items);
    });
  }
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
