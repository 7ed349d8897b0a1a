#include "kernels/block_store/block_store.h"

#include <memory>

#include "kernels/chunk_fetch/chunk_fetch.h"
#include "kernels/common/hadamard.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using namespace kernels;

constexpr int32_t kChunks[] = {4, 8, 16, 32};
constexpr int32_t kDims[] = {32, 64, 80, 96, 128, 256};
constexpr BlockCodec kCodecs[] = {BlockCodec::raw, BlockCodec::int8, BlockCodec::int4};
constexpr const char* kCodecNames[] = {"raw", "int8", "int4"};

std::string text(const BlockFormat& f) {
  return std::string(kCodecNames[static_cast<int>(f.codec)]) + (f.dtype == DType::f32 ? " f32" : " bf16") +
         " C " + std::to_string(f.chunk) + " d " + std::to_string(f.width);
}

// Blocks of one head, 4 a page, each page between canaries.
struct Blocks {
  Blocks(const BlockFormat& format, int32_t n_chunks) : format(format) {
    for (int32_t i = 0; i < n_chunks; i += 4) {
      pages.push_back(std::make_unique<Buffer<char>>(4 * format.block_bytes()));
      std::memset(pages.back()->data(), 0x5a, static_cast<std::size_t>(pages.back()->size()));
      pointers.push_back(pages.back()->data());
    }
  }
  PagedRows rows() const {
    return {pointers.data(), 0, 4, static_cast<int32_t>(format.block_bytes()), static_cast<int32_t>(pointers.size())};
  }
  uint8_t* block(int32_t i) const { return static_cast<uint8_t*>(rows().row(i)); }
  const uint16_t* scales(int32_t i) const { return reinterpret_cast<uint16_t*>(block(i) + format.scales_at()); }

  // All n blocks from the first on, decoded by the reference.
  std::vector<float> decoded(int32_t first, int32_t n) const {
    const int64_t size = format.chunk * format.width;
    std::vector<char> slots(static_cast<std::size_t>(n * format.decoded_bytes()));
    std::vector<int32_t> chunks, ids;
    for (int32_t i = 0; i < n; ++i) chunks.push_back(first + i), ids.push_back(i);
    const ChunkFetchItem item{rows(), slots.data(), chunks.data(), ids.data(), &n, n};
    chunk_fetch_ref(format, {&item, 1});
    std::vector<float> x;
    for (int64_t i = 0; i < n * size; ++i) x.push_back(load_f32(slots.data(), format.dtype, i));
    return x;
  }

  BlockFormat format;
  std::vector<std::unique_ptr<Buffer<char>>> pages;
  std::vector<void*> pointers;
};

// n chunks of rows in spans of one chunk or more; weights for every other set that is not raw.
struct Rows {
  Rows(Random& rng, Fill fill, const BlockFormat& format, int32_t n_chunks, float scale = 1.0f) : format(format) {
    for (int32_t left = n_chunks; left > 0;) {
      const auto n = static_cast<int32_t>(rng.integer(1, std::min(left, 3)));
      buffers.push_back(std::make_unique<Buffer<char>>(n * format.decoded_bytes()));
      fill_rows(rng, fill, format.dtype, buffers.back()->data(), n * format.chunk, format.width, scale);
      spans.push_back({buffers.back()->data(), nullptr, n * format.chunk, 0});
      left -= n;
    }
    if (format.codec == BlockCodec::raw || rng.chance(0.5)) return;
    weights = std::make_unique<Buffer<float>>(format.width, 4);
    for (float& w : weights->span()) w = rng.uniform(0.1f, 1.0f);
  }
  const float* inverse_weights() const { return weights ? weights->data() : nullptr; }
  std::vector<float> values() const {  // as they are coded
    std::vector<float> x;
    for (const KvSpan& s : spans) {
      for (int64_t i = 0; i < int64_t{s.n} * format.width; ++i) {
        x.push_back(load_f32(s.k, format.dtype, i) * (weights ? (*weights)[i % format.width] : 1.0f));
      }
    }
    return x;
  }
  BlockStoreItem item(const Blocks& blocks, int32_t first) const {
    return {spans.data(), static_cast<int32_t>(spans.size()), blocks.rows(), first, inverse_weights()};
  }
  BlockFormat format;
  std::vector<std::unique_ptr<Buffer<char>>> buffers;
  std::vector<KvSpan> spans;
  std::unique_ptr<Buffer<float>> weights;
};

void expect_padding_of_zeros(const Blocks& blocks, int32_t first, int32_t n, const std::string& params) {
  const BlockFormat& f = blocks.format;
  for (int32_t c = first; c < first + n && f.codec != BlockCodec::raw; ++c) {
    for (int64_t b = f.scales_at() + 2 * f.chunk; b < f.block_bytes(); ++b) {
      ASSERT_EQ(blocks.block(c)[b], 0) << params;
    }
  }
}

// In the rotated space, where int4's bound is stated; as it is for the others.
std::vector<float> coded_space(const BlockFormat& format, std::vector<float> x) {
  if (format.codec == BlockCodec::int4) {
    hadamard_rows_ref(x.data(), static_cast<int64_t>(x.size()) / format.width, format.width, false);
  }
  return x;
}

// |decoded - given| <= scale / 2 but for f32 rounding, from which bf16 rounding of the decoded rows is kept apart by
// decoding to f32.
void expect_bound(const Blocks& blocks, const Rows& rows, int32_t first, const std::string& params) {
  const BlockFormat f = blocks.format;
  Blocks as_f32(f, 0);
  as_f32.format.dtype = DType::f32;
  as_f32.pointers = blocks.pointers;
  const std::vector<float> given = rows.values(), x = coded_space(f, given);
  const auto n = static_cast<int32_t>(static_cast<int64_t>(given.size()) / (f.chunk * f.width));
  const std::vector<float> y = coded_space(f, f.codec == BlockCodec::raw ? blocks.decoded(first, n)
                                                                         : as_f32.decoded(first, n));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto row = static_cast<int32_t>(i / static_cast<std::size_t>(f.width));
    float bound = 0.0f, most = 0.0f;
    if (f.codec != BlockCodec::raw) {
      bound = f16_to_f32(blocks.scales(first + row / f.chunk)[row % f.chunk]) / 2;
      most = 2 * bound * (f.codec == BlockCodec::int8 ? 127.0f : 8.0f);
    }
    ASSERT_LE(std::fabs(x[i] - y[i]), bound + 1e-6f * most + 1e-40f) << params << " row " << row << " element " << i;
  }
}

void expect_like_reference(const Blocks& got, const Blocks& want, int32_t first, int32_t n,
                           const std::string& params) {
  const BlockFormat& f = got.format;
  if (f.codec != BlockCodec::int4) {
    for (std::size_t p = 0; p < got.pointers.size(); ++p) {
      expect_same_bytes(got.pointers[p], want.pointers[p], static_cast<std::size_t>(4 * f.block_bytes()), params);
    }
    return;
  }
  for (int32_t c = 0; c < static_cast<int32_t>(4 * got.pointers.size()); ++c) {
    if (c < first || c >= first + n) {
      expect_same_bytes(got.block(c), want.block(c), static_cast<std::size_t>(f.block_bytes()), params);
      continue;
    }
    for (int32_t t = 0; t < f.chunk; ++t) {
      const float g = f16_to_f32(got.scales(c)[t]), w = f16_to_f32(want.scales(c)[t]);
      ASSERT_NEAR(g, w, 1e-3f * w + 0x1p-24f) << params;
    }
  }
}

TEST(BlockStore, stores_as_the_reference_within_the_error_bound) {
  Random rng;
  for (const BlockCodec codec : kCodecs) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      for (const int32_t chunk : kChunks) {
        for (const int32_t dim : kDims) {
          if (tested_slowly() && !rng.chance(0.2)) continue;
          for_each_target([&] {
            const BlockFormat format{codec, dtype, chunk, dim};
            const Fill fill = rng.pick({Fill::normal, Fill::ties, Fill::extremes, Fill::biased, Fill::zeros});
            const auto n = static_cast<int32_t>(rng.integer(0, 5)), first = static_cast<int32_t>(rng.integer(0, 3));
            Blocks got(format, 9), want(format, 9);
            const Rows rows(rng, fill, format, n);
            const BlockStoreItem items[] = {rows.item(got, first), rows.item(want, first)};
            tested_ops().block_store(format, {items, 1});
            block_store_ref(format, {items + 1, 1});
            const std::string params = text(format) + " " + fill_name(fill);
            expect_like_reference(got, want, first, n, params);
            expect_padding_of_zeros(got, first, n, params);
            expect_bound(got, rows, first, params);
            expect_bound(want, rows, first, params);
          });
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Widths and chunks no head has, as the low-rank coordinates may; blocks larger than a GPU stages at a time.
TEST(BlockStore, stores_rows_of_other_widths) {
  Random rng;
  const auto compare = [&](BlockCodec codec, int32_t width) {
    const BlockFormat format{codec, rng.pick({DType::bf16, DType::f32}), 6, width};
    Blocks got(format, 4), want(format, 4);
    Rows rows(rng, Fill::normal, format, 3);
    if (width > 512) rows.weights = nullptr;
    const BlockStoreItem items[] = {rows.item(got, 1), rows.item(want, 1)};
    tested_ops().block_store(format, {items, 1});
    block_store_ref(format, {items + 1, 1});
    expect_like_reference(got, want, 1, 3, text(format));
    expect_padding_of_zeros(got, 1, 3, text(format));
    expect_bound(got, rows, 1, text(format));
  };
  for_each_target([&] {
    for (const int32_t width : {1, 7, 10, 33, 100, 160, 211, 6000}) compare(BlockCodec::int8, width);
    for (const int32_t width : {16, 48, 160, 192, 256, 320, 384, 512}) compare(BlockCodec::int4, width);
  });
}

TEST(BlockStore, keeps_the_bound_at_any_magnitude) {
  Random rng;
  for_each_target([&] {
    for (double magnitude = 1e-9; magnitude < 2e5 && !HasFatalFailure(); magnitude *= tested_slowly() ? 20 : 3.3) {
      for (const BlockCodec codec : {BlockCodec::int8, BlockCodec::int4}) {
        for (const Fill fill : {Fill::normal, Fill::biased}) {
          const int32_t dim = rng.pick({32, 64, 80, 96, 128, 256});
          const BlockFormat format{codec, rng.pick({DType::bf16, DType::f32}), 8, dim};
          Blocks got(format, 4);
          const auto scale = static_cast<float>(magnitude / (fill == Fill::biased ? 1000 : 10));
          const Rows rows(rng, fill, format, 3, scale);
          const BlockStoreItem item = rows.item(got, 0);
          tested_ops().block_store(format, {&item, 1});
          expect_bound(got, rows, 0, text(format) + " magnitude " + std::to_string(magnitude));
        }
      }
    }
  });
}

// Channels of a bias do not cost int4 its few steps: with rotation the error is spread over the row's length.
TEST(BlockStore, rotation_pays_for_rows_with_a_spike) {
  Random rng;
  for (const int32_t dim : kDims) {
    const BlockFormat format{BlockCodec::int4, DType::f32, 8, dim};
    Blocks blocks(format, 4);
    Rows rows(rng, Fill::normal, format, 1);
    auto* x = reinterpret_cast<float*>(rows.buffers[0]->data());
    for (int32_t t = 0; t < 8; ++t) x[t * dim + 3] = 100.0f;
    rows.weights = nullptr;
    const BlockStoreItem item = rows.item(blocks, 0);
    tested_ops().block_store(format, {&item, 1});
    const std::vector<float> given = rows.values(), decoded = blocks.decoded(0, 1);
    double error = 0.0;
    for (std::size_t i = 0; i < given.size(); ++i) error += std::pow(double{decoded[i]} - given[i], 2);
    const double rms = std::sqrt(error / static_cast<double>(given.size()));
    EXPECT_LT(rms, 0.35 * (100.0 / std::sqrt(dim) + 4.5) / 8) << dim;  // unrotated steps of 100 / 8 give 3 and more
  }
}

TEST(BlockStore, gives_raw_rows_back_bit_for_bit) {
  Random rng;
  for (int round = 0; round < 40; ++round) {
    const BlockFormat format{BlockCodec::raw, rng.pick({DType::f32, DType::bf16}), rng.pick({4, 8, 16, 32}),
                             rng.pick({32, 80, 128})};
    const auto n = static_cast<int32_t>(rng.integer(1, 9)), first = static_cast<int32_t>(rng.integer(0, 9));
    Blocks blocks(format, first + n);
    const Rows rows(rng, Fill::extremes, format, n);
    const BlockStoreItem store = rows.item(blocks, first);
    tested_ops().block_store(format, {&store, 1});
    Buffer<char> slots(n * format.decoded_bytes());
    std::vector<int32_t> chunks, ids;
    for (int32_t i = 0; i < n; ++i) chunks.push_back(first + i), ids.push_back(i);
    const std::vector<int32_t> count{n};
    const ChunkFetchItem fetch{blocks.rows(), slots.data(), chunks.data(), ids.data(), count.data(), n};
    tested_ops().chunk_fetch(format, {&fetch, 1});
    const char* at = slots.data();
    for (const auto& b : rows.buffers) {
      expect_same_bytes(at, b->data(), static_cast<std::size_t>(b->size()), text(format));
      at += b->size();
    }
  }
}

TEST(BlockStore, carries_damaged_rows_as_nan_and_leaves_the_others) {
  Random rng;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  for_each_target([&] {
    for (const BlockCodec codec : {BlockCodec::int8, BlockCodec::int4}) {
      for (const int32_t dim : kDims) {
        for (const float bad : {kNan, kInf, -kInf, 3e38f}) {
          const BlockFormat format{codec, rng.pick({DType::bf16, DType::f32}), 8, dim};
          Blocks blocks(format, 4);
          Rows rows(rng, Fill::normal, format, 1);
          store_f32(rows.buffers[0]->data(), format.dtype, 5 * dim + rng.integer(0, dim - 1), bad);
          const BlockStoreItem item = rows.item(blocks, 0);
          tested_ops().block_store(format, {&item, 1});
          EXPECT_EQ(blocks.scales(0)[5], 0x7e00) << text(format) << " " << bad;
          for (int64_t b = 5 * format.row_bytes(); b < 6 * format.row_bytes(); ++b) ASSERT_EQ(blocks.block(0)[b], 0);
          std::vector<char> slot(static_cast<std::size_t>(format.decoded_bytes()));
          const std::vector<int32_t> zero{0}, one{1};
          const ChunkFetchItem fetch{blocks.rows(), slot.data(), zero.data(), zero.data(), one.data(), 1};
          tested_ops().chunk_fetch(format, {&fetch, 1});
          for (int64_t i = 0; i < int64_t{8} * dim; ++i) {
            ASSERT_EQ(std::isnan(load_f32(slot.data(), format.dtype, i)), i / dim == 5) << text(format) << " " << bad;
          }
        }
      }
    }
  });
}

// Weights that are powers of two round nothing: keys come back from blocks as if their channels had been of one size,
// each within half a step of its own.
TEST(BlockStore, weights_give_each_channel_a_step_of_its_own) {
  Random rng;
  for_each_target([&] {
    for (const int32_t dim : kDims) {
      const BlockFormat format{BlockCodec::int8, DType::f32, 8, dim};
      Buffer<char> rows(format.decoded_bytes()), slot(format.decoded_bytes());
      Buffer<float> weights(dim, 4), inverse(dim, 4);
      auto* x = reinterpret_cast<float*>(rows.data());
      fill_rows(rng, Fill::normal, DType::f32, x, 8, dim);
      for (int32_t i = 0; i < dim; ++i) {
        weights[i] = std::ldexp(1.0f, static_cast<int>(rng.integer(-8, 8)));
        inverse[i] = 1.0f / weights[i];
      }
      for (int64_t i = 0; i < int64_t{8} * dim; ++i) x[i] *= weights[i % dim];
      Blocks blocks(format, 4);
      const KvSpan span{rows.data(), nullptr, 8, 0};
      const BlockStoreItem store{&span, 1, blocks.rows(), 0, inverse.data()};
      tested_ops().block_store(format, {&store, 1});
      const std::vector<int32_t> zero{0}, one{1};
      const ChunkFetchItem fetch{blocks.rows(), slot.data(), zero.data(), zero.data(), one.data(), 1, weights.data()};
      tested_ops().chunk_fetch(format, {&fetch, 1});
      for (int64_t i = 0; i < int64_t{8} * dim; ++i) {
        const float step = f16_to_f32(blocks.scales(0)[i / dim]) * weights[i % dim];
        ASSERT_LT(step, 6.0f / 127 * weights[i % dim]);
        ASSERT_LE(std::fabs(load_f32(slot.data(), DType::f32, i) - x[i]), 0.5001f * step) << dim;
      }
    }
  });
}

// A block is its rows' business alone: neither its number, its spans, the other items nor the team change a byte.
TEST(BlockStore, gives_rows_the_same_block_wherever_it_lies) {
  Random rng;
  for_each_target([&] {
    for (const BlockCodec codec : kCodecs) {
      for (const int32_t dim : kDims) {
        const BlockFormat format{codec, rng.pick({DType::bf16, DType::f32}), rng.pick({4, 8, 16, 32}), dim};
        const Rows rows(rng, Fill::biased, format, 6), other(rng, Fill::normal, format, 5);
        Blocks a(format, 8), b(format, 8), c(format, 8);
        const BlockStoreItem together[] = {rows.item(a, 1), other.item(b, 2)};
        with_threads(3, [&] { tested_ops().block_store(format, together); });
        int32_t chunk = 0;
        for (const KvSpan& span : rows.spans) {
          for (int32_t t = 0; t < span.n; t += format.chunk, ++chunk) {
            const void* k = offset_bytes(span.k, t / format.chunk * format.decoded_bytes());
            const KvSpan alone{k, nullptr, format.chunk, 0};
            const BlockStoreItem item{&alone, 1, c.rows(), 7 - chunk, rows.inverse_weights()};
            tested_ops().block_store(format, {&item, 1});
            expect_same_bytes(c.block(7 - chunk), a.block(1 + chunk), static_cast<std::size_t>(format.block_bytes()),
                              text(format));
          }
        }
      }
    }
  });
}

TEST(BlockStore, blocks_have_the_sizes_of_the_design) {
  EXPECT_EQ((BlockFormat{BlockCodec::raw, DType::bf16, 8, 128}.block_bytes()), 2048);
  EXPECT_EQ((BlockFormat{BlockCodec::int8, DType::bf16, 8, 128}.block_bytes()), 1040);
  EXPECT_EQ((BlockFormat{BlockCodec::int4, DType::bf16, 8, 128}.block_bytes()), 528);
  for (const BlockCodec codec : kCodecs) {
    for (const int32_t chunk : kChunks) {
      for (const int32_t dim : kDims) {
        const BlockFormat f{codec, DType::bf16, chunk, dim};
        EXPECT_EQ(f.block_bytes() % 16, 0) << text(f);
        EXPECT_EQ(f.scales_at() % 2, 0) << text(f);
      }
    }
  }
}

// A flush of 256 tokens of 8 heads.
void bench() {
  for (const BlockCodec codec : kCodecs) {
    const BlockFormat format{codec, DType::bf16, 8, 128};
    constexpr int32_t kHeads = 8, kFlush = 32;
    const int64_t rows_bytes = kHeads * kFlush * format.decoded_bytes();
    const int64_t to_bytes = kHeads * kFlush * format.block_bytes();
    const int32_t layers = bench_layers(rows_bytes + to_bytes, 2);
    SparseRegion rows(static_cast<std::size_t>(layers * rows_bytes), true);
    SparseRegion blocks(static_cast<std::size_t>(layers * to_bytes), true);
    Random rng;
    const int64_t filled = std::min<int64_t>(4096 * 256, layers * rows_bytes);
    fill_rows(rng, Fill::normal, DType::bf16, rows.at(0), filled / 256, 128);
    for (int64_t at = filled; at < layers * rows_bytes; ++at) *rows.at(at) = *rows.at(at - filled);
    const BenchRow row{.op = "block_store", .variant = kCodecNames[static_cast<int>(codec)],
        .shape = "8 heads, 32 blocks, " + text(format), .tokens = kFlush * 8, .layers = layers,
        .working_set_bytes = layers * (rows_bytes + to_bytes), .bytes = static_cast<double>(rows_bytes + to_bytes)};
    run_bench(row, [&](int64_t i) {
      void* page = blocks.at(i % layers * to_bytes);
      std::vector<BlockStoreItem> items;
      KvSpan spans[kHeads];
      for (int32_t h = 0; h < kHeads; ++h) {
        spans[h] = {rows.at(i % layers * rows_bytes + h * kFlush * format.decoded_bytes()), nullptr, kFlush * 8, 0};
        items.push_back({&spans[h], 1, {&page, h * kFlush * format.block_bytes(), kFlush,
            static_cast<int32_t>(format.block_bytes()), 1}, 0});
      }
      tested_ops().block_store(format, items);
    });
  }
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
