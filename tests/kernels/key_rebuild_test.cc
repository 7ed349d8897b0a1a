#include "kernels/key_rebuild/key_rebuild.h"

#include <memory>
#include <numeric>

#include "kernels/common/row_codec.h"
#include "kernels/rope/rope_tables.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::BasisSegment;
using kernels::BlockCodec;
using kernels::BlockFormat;
using kernels::KeyRebuildDesc;
using kernels::KeyRebuildItem;
using kernels::RopeView;

struct Tables {
  std::vector<float> lo, hi;
  RopeView view;
  Tables(int32_t rotary_dim, bool interleaved, float factor, int64_t positions) {
    std::vector<double> inv_freq;
    for (int32_t i = 0; i < rotary_dim / 2; ++i) inv_freq.push_back(std::pow(1e4, -2.0 * i / rotary_dim));
    const int32_t hi_rows = kernels::rope_hi_rows(positions);
    lo.resize(static_cast<std::size_t>(kernels::rope_lo_floats(rotary_dim / 2)));
    hi.resize(static_cast<std::size_t>(kernels::rope_hi_floats(rotary_dim / 2, hi_rows)));
    kernels::rope_fill_tables(inv_freq, hi_rows, lo.data(), hi.data());
    view = {lo.data(), hi.data(), hi_rows, rotary_dim, interleaved, factor};
  }
};

// Blocks of A with rows of the fill, in the codec of the desc.
void fill_blocks(Random& rng, Fill fill, const BlockFormat& format, unsigned char* blocks, int64_t n) {
  if (format.codec == BlockCodec::raw)
    return fill_rows(rng, fill, format.dtype, blocks, n * format.chunk, format.width);
  std::vector<float> rows(static_cast<std::size_t>(n * format.chunk * format.width));
  fill_rows(rng, fill, DType::f32, rows.data(), n * format.chunk, format.width);
  for (int64_t i = 0; i < n * format.chunk; ++i) {
    unsigned char* block = blocks + i / format.chunk * format.block_bytes();
    const int64_t t = i % format.chunk;
    const uint16_t scale = kernels::encode_int8_row_ref(
        rows.data() + i * format.width, format.width, reinterpret_cast<int8_t*>(block + t * format.width));
    std::memcpy(block + format.scales_at() + 2 * t, &scale, sizeof(scale));
  }
}

using Op = void (*)(const KeyRebuildDesc&, std::span<const KeyRebuildItem>);

void tested(const KeyRebuildDesc& desc, std::span<const KeyRebuildItem> items) {
  tested_ops().key_rebuild(desc, items);
}

// One KV head: A in pages (with a gap of other bytes before the rows), segments, a chunk list shorter than its bound,
// slots between canaries.
struct Head {
  int32_t n_chunks, n_slots;
  std::vector<std::unique_ptr<Buffer<unsigned char>>> pages, bases;
  std::vector<void*> page_pointers;
  std::vector<BasisSegment> segments;
  std::vector<int32_t> chunks, slots;
  std::vector<int32_t> n;  // one number: data, like the lists
  std::unique_ptr<Buffer<unsigned char>> region;
  KeyRebuildItem item;

  Head(Random& rng, const KeyRebuildDesc& desc, int32_t n_chunks_, int32_t n_, int32_t n_segments, Fill fill)
      : n_chunks(n_chunks_), n_slots(n_ + 3), n{n_} {
    const int64_t element = dtype_bytes(desc.dtype), row = desc.a_format().block_bytes();
    const int32_t rows_per_page = 3;
    for (int32_t first = 0; first < n_chunks; first += rows_per_page) {
      pages.push_back(std::make_unique<Buffer<unsigned char>>(64 + rows_per_page * row, 64));
      fill_blocks(rng, fill, desc.a_format(), pages.back()->data() + 64, rows_per_page);
      page_pointers.push_back(pages.back()->data());
    }
    for (int32_t s = 0; s < n_segments; ++s) {
      bases.push_back(std::make_unique<Buffer<unsigned char>>(desc.rank * desc.head_dim * element));
      fill_rows(rng, Fill::normal, desc.dtype, bases.back()->data(), desc.rank, desc.head_dim, 0.1f);
      const void* b = bases.back()->data();
      bases.push_back(std::make_unique<Buffer<unsigned char>>(desc.head_dim * element));
      fill_rows(rng, Fill::normal, desc.dtype, bases.back()->data(), 1, desc.head_dim, 3.0f);
      segments.push_back({b, bases.back()->data(), s * n_chunks / n_segments});
    }
    std::vector<int32_t> all_slots(static_cast<std::size_t>(n_slots));
    std::iota(all_slots.begin(), all_slots.end(), 0);
    const bool in_order = rng.chance(0.25);
    for (int32_t i = 0; i < n_; ++i) {
      chunks.push_back(static_cast<int32_t>(rng.integer(0, n_chunks - 1)));
      if (!in_order) std::swap(all_slots[i], all_slots[static_cast<std::size_t>(rng.integer(i, n_slots - 1))]);
      slots.push_back(all_slots[i]);
    }
    region = std::make_unique<Buffer<unsigned char>>(n_slots * slot_bytes(desc));
    item = {{page_pointers.data(), 64, rows_per_page, static_cast<int32_t>(row),
             static_cast<int32_t>(page_pointers.size())},
            segments.data(), n_segments, chunks.data(), in_order ? nullptr : slots.data(), n.data(),
            n_ + static_cast<int32_t>(rng.integer(0, 20)), region->data()};
  }
  static int64_t slot_bytes(const KeyRebuildDesc& desc) {
    return int64_t{desc.chunk} * desc.head_dim * dtype_bytes(desc.dtype);
  }
  std::vector<unsigned char> run(Op op, const KeyRebuildDesc& desc) {
    std::memset(region->data(), 0x5a, static_cast<std::size_t>(region->size()));
    op(desc, {&item, 1});
    return {region->data(), region->data() + region->size()};
  }
};

std::string describe(const KeyRebuildDesc& desc) {
  return "rank=" + std::to_string(desc.rank) + " chunk=" + std::to_string(desc.chunk) +
         " dim=" + std::to_string(desc.head_dim) + " rotary=" + std::to_string(desc.rope.rotary_dim) +
         (desc.rope.interleaved ? " interleaved" : "") + (desc.dtype == DType::f32 ? " f32" : " bf16") +
         (desc.a_codec == BlockCodec::int8 ? " int8" : " raw");
}

KeyRebuildDesc random_desc(Random& rng, BlockCodec codec) {
  KeyRebuildDesc desc;
  desc.a_codec = codec;
  desc.dtype = rng.pick({DType::f32, DType::bf16});
  desc.rank = rng.pick({1, 7, 10, 40, 160, 300});
  desc.chunk = rng.pick({4, 8, 16, 32});
  desc.head_dim = rng.pick({32, 64, 80, 96, 128, 256});
  return desc;
}

void compare(const KeyRebuildDesc& desc, const std::vector<unsigned char>& got,
             const std::vector<unsigned char>& want) {
  const int64_t dim = desc.head_dim, rows = static_cast<int64_t>(want.size()) / (dim * dtype_bytes(desc.dtype));
  std::vector<float> g(static_cast<std::size_t>(dim)), w(g);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t d = 0; d < dim; ++d) {
      g[d] = load_f32(got.data(), desc.dtype, row * dim + d);
      w[d] = load_f32(want.data(), desc.dtype, row * dim + d);
    }
    expect_close(g, w, (desc.dtype == DType::bf16 ? 1e-2f : 1e-5f) * max_abs(w), describe(desc));
  }
}

TEST(KeyRebuild, matches_reference_and_touches_only_its_slots) {
  Random rng;
  for_each_target([&] {
    for (int trial = 0; trial < (tested_slowly() ? 6 : 48); ++trial) {
      KeyRebuildDesc desc = random_desc(rng, trial % 2 == 0 ? BlockCodec::raw : BlockCodec::int8);
      const Tables tables(rng.pick({0, 2, desc.head_dim / 4, desc.head_dim / 2, desc.head_dim}), rng.chance(0.5),
                          rng.pick({1.0f, 1.19f}), 4096);
      desc.rope = tables.view;
      ASSERT_TRUE(kernels::key_rebuild_supports(desc));
      const int32_t n_chunks = static_cast<int32_t>(rng.integer(3, 4096 / desc.chunk));
      Head head(rng, desc, std::min(n_chunks, 40), static_cast<int32_t>(rng.integer(0, 20)),
                static_cast<int32_t>(rng.integer(1, 3)),
                rng.pick({Fill::normal, Fill::ties, Fill::zeros, Fill::biased, Fill::extremes}));
      // Canary bytes of slots not in the list must come back as they were: both runs start from the same ones.
      compare(desc, head.run(tested, desc), head.run(kernels::key_rebuild_ref, desc));
    }
  });
}

// The reference from first principles: one token, angle computed in double.
TEST(KeyRebuildRef, is_the_formula_at_a_far_position) {
  Random rng;
  KeyRebuildDesc desc{.dtype = DType::f32, .rank = 3, .chunk = 4, .head_dim = 16, .rope = {}};
  const Tables tables(16, false, 1.0f, 1 << 20);
  desc.rope = tables.view;
  const std::vector<int32_t> chunk = {200000}, slot = {1}, n = {1};
  std::vector<float> a(4 * 3), b(3 * 16), mu(16), region(2 * 4 * 16);
  for (auto* x : {&a, &b, &mu})
    for (float& value : *x) value = rng.normal();
  std::vector<void*> pages(static_cast<std::size_t>(chunk[0]) + 1, a.data());
  const BasisSegment segment{b.data(), mu.data(), 0};
  const KeyRebuildItem item{{pages.data(), 0, 1, 48, static_cast<int32_t>(pages.size())}, &segment, 1, chunk.data(),
                            slot.data(), n.data(), 1, region.data()};
  for (auto op : {Op{kernels::key_rebuild_ref}, Op{tested}}) {
    op(desc, {&item, 1});
    for (int64_t t = 0; t < 4; ++t) {
      double k[16];
      for (int d = 0; d < 16; ++d) {
        k[d] = mu[d];
        for (int j = 0; j < 3; ++j) k[d] += static_cast<double>(a[t * 3 + j]) * b[j * 16 + d];
      }
      for (int i = 0; i < 8; ++i) {
        const double angle = static_cast<double>(chunk[0] * int64_t{4} + t) * std::pow(1e4, -2.0 * i / 16);
        const float* out = region.data() + 64 + t * 16;
        EXPECT_NEAR(out[i], k[i] * std::cos(angle) - k[i + 8] * std::sin(angle), 1e-4);
        EXPECT_NEAR(out[i + 8], k[i + 8] * std::cos(angle) + k[i] * std::sin(angle), 1e-4);
      }
    }
  }
}

TEST(KeyRebuild, a_chunk_is_the_same_bytes_in_any_list_slot_item_and_thread_count) {
  Random rng;
  for_each_target([&] {
    for (int trial = 0; trial < (tested_slowly() ? 2 : 12); ++trial) {
      KeyRebuildDesc desc = random_desc(rng, trial % 2 == 0 ? BlockCodec::raw : BlockCodec::int8);
      const Tables tables(desc.head_dim, false, 1.0f, 4096);
      desc.rope = tables.view;
      Head head(rng, desc, 30, 25, 2, Fill::normal), other(rng, desc, 10, 9, 1, Fill::normal);
      std::vector<unsigned char> many;
      with_threads(3, [&] {
        const KeyRebuildItem both[] = {other.item, head.item};
        tested(desc, both);
        many.assign(head.region->data(), head.region->data() + head.region->size());
      });
      const int64_t bytes = Head::slot_bytes(desc);
      const std::vector<int32_t> one = {1}, slot = {0};
      for (int32_t i = 0; i < head.n[0]; ++i) {
        KeyRebuildItem alone = head.item;
        alone.chunks += i;
        alone.slots = slot.data();
        alone.n = one.data();
        alone.max_n = 1;
        with_threads(1, [&] { tested(desc, {&alone, 1}); });
        expect_same_bytes(head.region->data(), many.data() + head.slots[i] * bytes, static_cast<std::size_t>(bytes),
                          describe(desc));
      }
    }
  });
}

// Work that *n leaves empty does nothing, and how much there is, which decides how rows are shared out among threads,
// changes no bit.
TEST(KeyRebuild, bound_of_the_list_changes_no_bit) {
  Random rng;
  for_each_target([&] {
    for (BlockCodec codec : {BlockCodec::raw, BlockCodec::int8}) {
      KeyRebuildDesc desc = random_desc(rng, codec);
      desc.dtype = DType::bf16;
      desc.chunk = 32;
      desc.rank = rng.pick({37, 160});
      const Tables tables(desc.head_dim, false, 1.0f, 4096);
      desc.rope = tables.view;
      Head head(rng, desc, 12, 5, 2, Fill::normal);
      head.item.max_n = head.n[0];
      const std::vector<unsigned char> tight = head.run(tested, desc);
      head.item.max_n = 1100;
      const std::vector<unsigned char> loose = head.run(tested, desc);
      expect_same_bytes(loose.data(), tight.data(), tight.size(), describe(desc));
      head.n[0] = 0;
      head.item.max_n = 4;
      const std::vector<unsigned char> none = head.run(tested, desc);
      EXPECT_TRUE(std::all_of(none.begin(), none.end(), [](unsigned char c) { return c == 0x5a; }));
    }
  });
}

// A NaN in a raw row, or as the scale of an int8 one, is every element of that key and of no other.
TEST(KeyRebuild, carries_a_nan_row_of_a_into_its_key_only) {
  Random rng;
  for_each_target([&] {
    for (BlockCodec codec : {BlockCodec::raw, BlockCodec::int8})
      for (auto op : {Op{tested}, Op{kernels::key_rebuild_ref}}) {
        KeyRebuildDesc desc = random_desc(rng, codec);
        const Tables tables(desc.head_dim / 2, rng.chance(0.5), 1.0f, 4096);
        desc.rope = tables.view;
        Head head(rng, desc, 12, 7, 1, Fill::normal);
        std::iota(head.chunks.begin(), head.chunks.end(), 3);
        const std::vector<unsigned char> clean = head.run(op, desc);
        const int64_t i = rng.integer(0, 6), t = rng.integer(0, desc.chunk - 1);
        auto* block = static_cast<unsigned char*>(head.item.a.row(head.chunks[i]));
        const uint16_t nan = 0x7e00;
        if (codec == BlockCodec::int8) std::memcpy(block + desc.a_format().scales_at() + 2 * t, &nan, sizeof(nan));
        else store_f32(block, desc.dtype, t * desc.rank + desc.rank - 1, std::numeric_limits<float>::quiet_NaN());
        std::vector<unsigned char> damaged = head.run(op, desc);
        const int64_t key = head.slots[i] * desc.chunk + t, bytes = desc.head_dim * dtype_bytes(desc.dtype);
        for (int64_t d = 0; d < desc.head_dim; ++d)
          ASSERT_TRUE(std::isnan(load_f32(damaged.data() + key * bytes, desc.dtype, d))) << describe(desc);
        std::memcpy(damaged.data() + key * bytes, clean.data() + key * bytes, static_cast<std::size_t>(bytes));
        expect_same_bytes(damaged.data(), clean.data(), clean.size(), describe(desc));
      }
  });
}

// An int8 block by hand: its keys are those of the f32 block with scale * code written out.
TEST(KeyRebuild, int8_rows_are_scale_times_code) {
  Random rng;
  for_each_target([&] {
    for (auto op : {Op{tested}, Op{kernels::key_rebuild_ref}})
      for (int32_t chunk : {4, 8, 16, 32}) {
        KeyRebuildDesc coded{.dtype = DType::f32, .rank = 37, .chunk = chunk, .head_dim = 80, .rope = {},
                             .a_codec = BlockCodec::int8};
        KeyRebuildDesc plain = coded;
        plain.a_codec = BlockCodec::raw;
        const BlockFormat format = coded.a_format();
        Buffer<unsigned char> block(format.block_bytes());
        Buffer<float> rows(chunk * 37), b(37 * 80), mu(80), got(chunk * 80), want(chunk * 80);
        fill_rows(rng, Fill::normal, DType::f32, b.data(), 37, 80);
        fill_rows(rng, Fill::biased, DType::f32, mu.data(), 1, 80);
        for (int64_t t = 0; t < chunk; ++t) {
          const float scale = rng.pick({0.0f, 0x1p-24f, 0.25f, 65504.0f});
          const uint16_t bits = f32_to_f16(scale);
          std::memcpy(block.data() + chunk * 37 + 2 * t, &bits, sizeof(bits));
          for (int64_t j = 0; j < 37; ++j) {
            const auto code = static_cast<int8_t>(rng.integer(-127, 127));
            block[t * 37 + j] = static_cast<unsigned char>(code);
            rows[t * 37 + j] = scale * static_cast<float>(code);
          }
        }
        const std::vector<int32_t> zero = {0}, one = {1};
        const BasisSegment segment{b.data(), mu.data(), 0};
        void* page = block.data();
        KeyRebuildItem item{{&page, 0, 1, static_cast<int32_t>(format.block_bytes()), 1}, &segment, 1, zero.data(),
                            zero.data(), one.data(), 1, got.data()};
        op(coded, {&item, 1});
        page = rows.data();
        item.slot_region = want.data();
        op(plain, {&item, 1});
        expect_same_bytes(got.data(), want.data(), static_cast<std::size_t>(chunk * 80 * 4), describe(coded));
      }
  });
}

TEST(KeyRebuild, refuses_what_its_registers_cannot_hold) {
  const KeyRebuildDesc good{.dtype = DType::bf16, .rank = 160, .chunk = 8, .head_dim = 128, .rope = {}};
  EXPECT_TRUE(kernels::key_rebuild_supports(good));
  KeyRebuildDesc coded = good;
  coded.a_codec = BlockCodec::int8;
  EXPECT_TRUE(kernels::key_rebuild_supports(coded));
  for (auto spoil :
       {+[](KeyRebuildDesc& d) { d.dtype = DType::f16; }, +[](KeyRebuildDesc& d) { d.rank = 0; },
        +[](KeyRebuildDesc& d) { d.chunk = 64; }, +[](KeyRebuildDesc& d) { d.head_dim = 100; },
        +[](KeyRebuildDesc& d) { d.head_dim = 512; }, +[](KeyRebuildDesc& d) { d.rope.rotary_dim = 130; },
        +[](KeyRebuildDesc& d) { d.a_codec = BlockCodec::int4; }}) {
    KeyRebuildDesc bad = good;
    spoil(bad);
    EXPECT_FALSE(kernels::key_rebuild_supports(bad));
  }
}

void bench_codec(BlockCodec codec) {
  Random rng;
  KeyRebuildDesc desc{.dtype = DType::bf16, .rank = 160, .chunk = 8, .head_dim = 128, .rope = {}, .a_codec = codec};
  const Tables tables(128, false, 1.0f, 1 << 17);
  desc.rope = tables.view;
  const int32_t heads = 8, n = bench_small() ? 8 : 128, n_chunks = bench_small() ? 64 : 16384;
  const int64_t block = desc.a_format().block_bytes(), slot = int64_t{desc.chunk} * desc.head_dim;
  const int32_t layers = bench_layers(n_chunks * block);
  // Any bytes will do: bf16 of 0.5 as raw rows, codes and finite scales as int8 ones.
  std::vector<uint16_t> a(static_cast<std::size_t>(layers * n_chunks * block / 2), f32_to_bf16(0.5f)),
      b(static_cast<std::size_t>(heads * desc.rank * desc.head_dim), f32_to_bf16(0.25f)),
      slots(static_cast<std::size_t>(heads * n * slot));
  std::vector<int32_t> chunks(static_cast<std::size_t>(4 * heads * n)), slot_ids(static_cast<std::size_t>(n)),
      count = {n};
  for (int32_t& c : chunks) c = static_cast<int32_t>(rng.integer(0, n_chunks - 1));
  std::iota(slot_ids.begin(), slot_ids.end(), 0);
  for_each_bench_target([&](const char* variant) {
    const double keys = static_cast<double>(heads) * n * desc.chunk;
    const BenchRow bench_row{.op = "key_rebuild",
                             .variant = variant,
                             .shape = std::string("8 heads x 128 chunks, r 160, d 128 bf16") +
                                      (codec == BlockCodec::int8 ? ", a int8" : ""),
                             .tokens = int64_t{n_chunks} * desc.chunk,
                             .layers = layers,
                             .working_set_bytes = static_cast<int64_t>(2 * a.size()),
                             .bytes = keys / desc.chunk * static_cast<double>(block) + 2 * keys * desc.head_dim +
                                      2.0 * static_cast<double>(b.size()),
                             .flops = 2 * keys * desc.rank * desc.head_dim};
    run_bench(bench_row, [&](int64_t sample) {
      void* page = a.data() + sample % layers * n_chunks * block / 2;
      std::vector<BasisSegment> segments;
      std::vector<KeyRebuildItem> items;
      for (int32_t h = 0; h < heads; ++h)
        segments.push_back({b.data() + h * desc.rank * desc.head_dim, b.data(), 0});
      for (int32_t h = 0; h < heads; ++h)
        items.push_back({{&page, 0, n_chunks, static_cast<int32_t>(block), 1},
                         &segments[static_cast<std::size_t>(h)],
                         1,
                         chunks.data() + (sample % 4 * heads + h) * n,
                         slot_ids.data(),
                         count.data(),
                         n,
                         slots.data() + h * n * slot});
      tested(desc, items);
    });
  });
}

void bench() {
  bench_codec(BlockCodec::raw);
  bench_codec(BlockCodec::int8);
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
