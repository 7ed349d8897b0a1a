#include "kernels/embed/embed.h"

#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::embed_ref;

TEST(Embed, copies_the_widened_row_of_every_id_bit_for_bit) {
  Random rng;
  for_each_target([&] {
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (int64_t n : {1, 7, 16, 33, 192, 4099}) {
        const int64_t vocab = 11, m = rng.integer(1, tested_slowly() ? 4 : 30);
        Buffer<char> table(vocab * n * dtype_bytes(dtype), rng.chance(0.5) ? 16 : 2);
        Buffer<int32_t> ids(m, 4);
        Buffer<float> got(m * n), want(m * n);
        fill_rows(rng, rng.pick({Fill::normal, Fill::extremes}), dtype, table.data(), vocab, n);
        for (int32_t& id : ids.span()) id = static_cast<int32_t>(rng.integer(0, vocab - 1));
        ids[0] = vocab - 1;
        embed_ref(table.data(), dtype, n, ids.data(), m, want.data());
        tested_ops().embed(table.data(), dtype, n, ids.data(), m, got.data());
        expect_same_bytes(got.data(), want.data(), static_cast<std::size_t>(m * n) * 4,
                          "n=" + std::to_string(n) + " dtype " + std::to_string(static_cast<int>(dtype)));
      }
    }
  });
}

TEST(Embed, widens_every_finite_16_bit_pattern_exactly) {
  for_each_target([&] {
    for (DType dtype : {DType::bf16, DType::f16}) {
      Buffer<uint16_t> table(65536, 2);
      Buffer<float> y(65536);
      for (int64_t i = 0; i < 65536; ++i) table[i] = static_cast<uint16_t>(i);
      Buffer<int32_t> id(1, 4);
      id[0] = 0;
      tested_ops().embed(table.data(), dtype, 65536, id.data(), 1, y.data());
      for (int64_t i = 0; i < 65536; ++i) {
        const float want = load_f32(table.data(), dtype, i);
        const bool same = std::bit_cast<uint32_t>(y[i]) == std::bit_cast<uint32_t>(want);
        ASSERT_TRUE(std::isnan(want) ? std::isnan(y[i]) : same)
            << "pattern " << i << " got " << y[i] << " want " << want;
      }
    }
  });
}

TEST(Embed, reaches_rows_past_2_to_the_31_elements) {
  if (!ops_see_all_memory()) GTEST_SKIP() << "so many addresses cannot be shown to a GPU";
  const int64_t n = 4096, vocab = 600000;
  SparseRegion table(static_cast<std::size_t>(vocab * n) * 2);
  Buffer<int32_t> id(1, 4);
  id[0] = static_cast<int32_t>(vocab - 1);
  Buffer<float> y(n);
  auto* row = reinterpret_cast<uint16_t*>(table.at(int64_t{id[0]} * n * 2));
  for (int64_t j = 0; j < n; ++j) row[j] = f32_to_bf16(static_cast<float>(j % 128));
  for_each_target([&] {
    tested_ops().embed(table.at(0), DType::bf16, n, id.data(), 1, y.data());
    for (int64_t j = 0; j < n; ++j) ASSERT_EQ(y[j], static_cast<float>(j % 128));
  });
}

TEST(Embed, no_ids_touch_nothing) {
  for_each_target([&] {
    Buffer<float> y(4);
    y[0] = 7.0f;
    tested_ops().embed(nullptr, DType::bf16, 4, nullptr, 0, y.data());
    EXPECT_EQ(y[0], 7.0f);
  });
}

void bench() {
  const int64_t vocab = bench_small() ? 64 : 65536, n = 4096, m = bench_small() ? 4 : 512;
  Buffer<uint16_t> table(vocab * n);
  std::fill_n(table.data(), table.size(), uint16_t{0x3f80});
  Buffer<float> y(m * n);
  Buffer<int32_t> ids(m, 4);
  for_each_bench_target([&](const char* variant) {
    const BenchRow row{.op = "embed", .variant = variant,
                       .shape = std::to_string(m) + "x" + std::to_string(n) + " bf16",
                       .tokens = m, .layers = 1, .working_set_bytes = vocab * n * 2,
                       .bytes = 6.0 * static_cast<double>(m * n)};
    run_bench(row, [&](int64_t sample) {
      for (int64_t i = 0; i < m; ++i) {
        ids[i] = static_cast<int32_t>((sample * m + i) * 7919 % vocab);
      }
      tested_ops().embed(table.data(), DType::bf16, n, ids.data(), m, y.data());
    });
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
