#include "kernels/attn_prefill/attn_prefill.h"

#include <memory>
#include <numeric>

#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::attn_prefill_ref;
using kernels::attn_prefill_supports;
using kernels::attn_prefill_workspace_bytes;
using kernels::AttnPrefillDesc;
using kernels::AttnPrefillItem;
using kernels::KvSpan;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Keys and values of one head at positions [0, n), each span in a buffer of its own.
struct History {
  std::vector<std::unique_ptr<Buffer<char>>> k, v;
  std::vector<KvSpan> spans;

  // Spans of `lengths` tokens; between them `gap` positions are skipped.
  History(Random& rng, const AttnPrefillDesc& desc, const std::vector<int32_t>& lengths, Fill fill, int64_t gap = 0) {
    int64_t pos = 0;
    for (int32_t n : lengths) {
      const int64_t bytes = int64_t{n} * desc.head_dim * dtype_bytes(desc.dtype);
      k.push_back(std::make_unique<Buffer<char>>(bytes, 16));
      v.push_back(std::make_unique<Buffer<char>>(bytes, 16));
      fill_rows(rng, fill, desc.dtype, k.back()->data(), n, desc.head_dim);
      fill_rows(rng, Fill::normal, desc.dtype, v.back()->data(), n, desc.head_dim);
      spans.push_back(KvSpan{k.back()->data(), v.back()->data(), n, pos});
      pos += n + gap;
    }
  }
};

struct Queries {
  AttnPrefillDesc desc;
  int64_t n, q_stride, out_stride, lse_stride;
  Buffer<float> q, out, lse;

  Queries(Random& rng, const AttnPrefillDesc& desc_, int64_t n_, float scale = 1.0f)
      : desc(desc_), n(n_), q_stride(desc.group * desc.head_dim + rng.integer(0, 7)),
        out_stride(desc.group * desc.head_dim + rng.integer(0, 7)), lse_stride(desc.group + rng.integer(0, 3)),
        q(size(q_stride, desc.group * desc.head_dim), 4), out(size(out_stride, desc.group * desc.head_dim), 4),
        lse(size(lse_stride, desc.group), 4) {
    fill_rows(rng, Fill::normal, DType::f32, q.data(), 1, q.size(), scale);
    std::fill_n(out.data(), out.size(), 77.0f);
    std::fill_n(lse.data(), lse.size(), 77.0f);
  }
  int64_t size(int64_t stride, int64_t row) const { return std::max<int64_t>(0, (n - 1) * stride + row); }

  AttnPrefillItem item(const std::vector<KvSpan>& spans, int64_t pos, bool merge, float* out_to,
                       float* lse_to) const {
    return AttnPrefillItem{q.data(), q_stride, static_cast<int32_t>(n), pos, spans.data(),
                           static_cast<int32_t>(spans.size()), out_to, out_stride, lse_to, lse_stride, merge};
  }
};

// Exactly the bytes that the op asked for, between canaries.
void run(const AttnPrefillDesc& desc, std::span<const AttnPrefillItem> items) {
  Buffer<char> workspace(static_cast<int64_t>(attn_prefill_workspace_bytes(desc)), 64);
  tested_ops().attn_prefill(desc, items, workspace.data());
}

float tolerance(const AttnPrefillDesc& desc) { return desc.dtype == DType::f32 ? 2e-5f : 4e-2f; }

std::string name(const AttnPrefillDesc& desc, int64_t n_q, int64_t pos, const char* what) {
  return std::string(what) + " head_dim=" + std::to_string(desc.head_dim) + " group=" + std::to_string(desc.group) +
         " dtype=" + std::to_string(static_cast<int>(desc.dtype)) + " n_q=" + std::to_string(n_q) +
         " pos=" + std::to_string(pos);
}

void compare(Queries& queries, const std::vector<KvSpan>& spans, int64_t pos, bool merge, const char* what) {
  const AttnPrefillDesc& desc = queries.desc;
  Buffer<float> out(queries.out.size(), 4), lse(queries.lse.size(), 4);
  std::copy_n(queries.out.data(), out.size(), out.data());
  std::copy_n(queries.lse.data(), lse.size(), lse.data());
  const AttnPrefillItem want = queries.item(spans, pos, merge, out.data(), lse.data());
  attn_prefill_ref(desc, {&want, 1}, nullptr);
  const AttnPrefillItem got = queries.item(spans, pos, merge, queries.out.data(), queries.lse.data());
  run(desc, {&got, 1});
  expect_close(queries.out.span(), out.span(), tolerance(desc), "out " + name(desc, queries.n, pos, what));
  expect_close(queries.lse.span(), lse.span(), tolerance(desc) * 10.0f, "lse " + name(desc, queries.n, pos, what));
}

std::vector<int32_t> random_lengths(Random& rng, int64_t total) {
  std::vector<int32_t> lengths;
  while (total > 0) {
    const int64_t n = std::min(total, rng.pick({rng.integer(0, 9), int64_t{8}, int64_t{64}, rng.integer(60, 140)}));
    lengths.push_back(static_cast<int32_t>(n));
    total -= n;
  }
  return lengths;
}

TEST(AttnPrefill, matches_the_reference_for_every_shape) {
  Random rng;
  for_each_target([&] {
    for (int32_t head_dim : {8, 32, 64, 80, 96, 100, 128, 256}) {
      for (DType dtype : {DType::f32, DType::bf16}) {
        const int32_t group = rng.pick({1, 2, 3, 4, 7, 8});
        const AttnPrefillDesc desc{dtype, head_dim, group, 1.0f / std::sqrt(static_cast<float>(head_dim))};
        ASSERT_TRUE(attn_prefill_supports(desc));
        const int64_t total = rng.integer(1, tested_slowly() ? 150 : 300);
        const int64_t n_q = rng.integer(1, std::min<int64_t>(total, tested_slowly() ? 20 : 90));
        const History history(rng, desc, random_lengths(rng, total), rng.pick({Fill::normal, Fill::ties}));
        Queries queries(rng, desc, n_q);
        compare(queries, history.spans, rng.integer(0, total - n_q), false, "random");
        if (HasFatalFailure()) return;
      }
    }
  });
}

TEST(AttnPrefill, biased_keys_and_sharp_scores_stay_accurate) {
  Random rng;
  for_each_target([&] {
    const AttnPrefillDesc desc{DType::f32, 64, 2, 0.125f};
    const int64_t n = tested_slowly() ? 12 : 50;
    const History biased(rng, desc, {64, 64, 40}, Fill::biased);
    Queries queries(rng, desc, n, 0.01f);
    compare(queries, biased.spans, 168 - n, false, "biased");
    const History history(rng, desc, {64, 64, 40}, Fill::normal);
    Queries sharp(rng, desc, n, 3.0f);
    compare(sharp, history.spans, 168 - n, false, "sharp");
  });
}

TEST(AttnPrefill, rows_that_see_no_key_are_empty_and_unchanged_by_a_merge) {
  Random rng;
  for_each_target([&] {
    const AttnPrefillDesc desc{DType::bf16, 32, 2, 0.2f};
    History history(rng, desc, {20}, Fill::normal);
    history.spans[0].pos = 5;
    Queries queries(rng, desc, 9);
    compare(queries, history.spans, 0, false, "rows 0..4 empty");
    for (int64_t t = 0; t < 5; ++t) {
      EXPECT_EQ(queries.lse[t * queries.lse_stride], -kInf);
      EXPECT_EQ(queries.out[t * queries.out_stride + 31], 0.0f);
    }
    Queries merged(rng, desc, 5);
    compare(merged, history.spans, 0, true, "merge of nothing");
    EXPECT_EQ(merged.out[0], 77.0f);
    EXPECT_EQ(merged.lse[0], 77.0f);
    Queries none(rng, desc, 3);
    compare(none, {}, 10, false, "no spans");
    EXPECT_EQ(none.out[0], 0.0f);
    const AttnPrefillItem no_queries = none.item(history.spans, 10, false, nullptr, nullptr);
    AttnPrefillItem empty = no_queries;
    empty.n_q = 0;
    run(desc, {&empty, 1});
    run(desc, {});
  });
}

TEST(AttnPrefill, lse_may_be_null_without_merge) {
  Random rng;
  for_each_target([&] {
    const AttnPrefillDesc desc{DType::bf16, 64, 4, 0.125f};
    const History history(rng, desc, {64, 64}, Fill::normal);
    Queries queries(rng, desc, 30);
    Buffer<float> out(queries.out.size(), 4);
    std::fill_n(out.data(), out.size(), 77.0f);
    const AttnPrefillItem with = queries.item(history.spans, 90, false, queries.out.data(), queries.lse.data());
    const AttnPrefillItem without = queries.item(history.spans, 90, false, out.data(), nullptr);
    run(desc, {&with, 1});
    run(desc, {&without, 1});
    expect_same_bytes(out.data(), queries.out.data(), static_cast<std::size_t>(out.size()) * 4, "null lse");
  });
}

TEST(AttnPrefill, merging_tiles_of_history_equals_one_pass) {
  Random rng;
  for_each_target([&] {
    for (DType dtype : {DType::f32, DType::bf16}) {
      const AttnPrefillDesc desc{dtype, 64, 2, 0.125f};
      const History history(rng, desc, {64, 64, 64, 64, 64}, Fill::normal);
      const int64_t n = tested_slowly() ? 25 : 100, pos = 300 - n;
      Queries queries(rng, desc, n);
      Buffer<float> out(queries.out.size(), 4), lse(queries.lse.size(), 4);
      std::fill_n(out.data(), out.size(), 77.0f);
      std::fill_n(lse.data(), lse.size(), 77.0f);
      const AttnPrefillItem whole = queries.item(history.spans, pos, false, out.data(), lse.data());
      attn_prefill_ref(desc, {&whole, 1}, nullptr);
      for (std::size_t i = 0; i < history.spans.size(); ++i) {
        const std::vector<KvSpan> part = {history.spans[history.spans.size() - 1 - i]};
        compare(queries, part, pos, i > 0, "one tile");
      }
      expect_close(queries.out.span(), out.span(), tolerance(desc), "merged out");
      expect_close(queries.lse.span(), lse.span(), tolerance(desc), "merged lse");
    }
  });
}

TEST(AttnPrefill, spans_out_of_order_and_with_gaps_are_seen_by_position) {
  Random rng;
  for_each_target([&] {
    for (const AttnPrefillDesc& desc : {AttnPrefillDesc{DType::f32, 48, 3, 0.15f},
                                        AttnPrefillDesc{DType::bf16, 96, 3, 0.1f}}) {
      History history(rng, desc, {30, 5, 0, 64, 17, 40}, Fill::normal, 3);
      const int64_t n = tested_slowly() ? 20 : 60, pos = 120 - n;
      Queries queries(rng, desc, n);
      compare(queries, history.spans, pos, false, "gaps");
      std::swap(history.spans[0], history.spans[3]);
      std::swap(history.spans[1], history.spans[5]);
      Queries again(rng, desc, n);
      compare(again, history.spans, pos, false, "out of order");
    }
  });
}

// Spans that each end a tile, for their positions descend: more of them in the future than are looked at at a time.
TEST(AttnPrefill, many_spans_in_the_future_are_passed_over) {
  Random rng;
  for_each_target([&] {
    for (DType dtype : {DType::f32, DType::bf16}) {
      const AttnPrefillDesc desc{dtype, 32, 1, 0.2f};
      History history(rng, desc, std::vector<int32_t>(70, 1), Fill::normal);
      std::reverse(history.spans.begin(), history.spans.end());
      Queries queries(rng, desc, tested_slowly() ? 3 : 66);
      compare(queries, history.spans, tested_slowly() ? 1 : 2, false, "descending");
    }
  });
}

// Many items may be worked off in other shapes than one: rows of several warps, and of both halves of one.
TEST(AttnPrefill, rows_among_many_items_are_the_same) {
  Random rng;
  for_each_target([&] {
    const AttnPrefillDesc desc{DType::bf16, rng.pick({32, 64, 80}), 12, 0.15f};
    const History history(rng, desc, {40, 13}, Fill::normal);
    Queries queries(rng, desc, 3), one(rng, desc, 3);
    std::copy_n(queries.q.data(), 3 * desc.group * desc.head_dim, one.q.data());
    one.q_stride = desc.group * desc.head_dim;
    for (int64_t t = 0; t < 3; ++t) {
      std::copy_n(queries.q.data() + t * queries.q_stride, one.q_stride, one.q.data() + t * one.q_stride);
    }
    const AttnPrefillItem alone = queries.item(history.spans, 50, false, queries.out.data(), queries.lse.data());
    run(desc, {&alone, 1});
    const int64_t row = desc.group * desc.head_dim, n_items = 140;
    Buffer<float> out(n_items * 3 * row, 4);
    std::vector<AttnPrefillItem> items;
    for (int64_t i = 0; i < n_items; ++i) {
      items.push_back(one.item(history.spans, 50, false, out.data() + i * 3 * row, nullptr));
      items.back().out_stride = row;
    }
    run(desc, items);
    for (int64_t i = 0; i < n_items * 3; ++i) {
      expect_same_bytes(out.data() + i * row, queries.out.data() + i % 3 * queries.out_stride,
                        static_cast<std::size_t>(row) * 4, name(desc, 3, 50, "many items"));
      if (HasFatalFailure()) return;
    }
  });
}

TEST(AttnPrefill, how_a_prompt_is_cut_changes_no_bit) {
  Random rng;
  for_each_target([&] {
    for (DType dtype : {DType::f32, DType::bf16}) {
      const int32_t group = tested_slowly() ? rng.pick({1, 2, 3}) : rng.pick({1, 2, 3, 8});
      const AttnPrefillDesc desc{dtype, rng.pick({64, 80, 128}), group, 0.1f};
      const std::vector<int32_t> lengths = tested_slowly() ? std::vector<int32_t>{64, 56}
                                                           : std::vector<int32_t>{64, 64, 64, 64, 44};
      const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
      History history(rng, desc, lengths, Fill::normal);
      if (rng.chance(0.5)) {  // an infinity reaches the rows that see it in whatever way their block meets it
        store_f32(history.v[0]->data(), dtype, rng.integer(0, 64 * desc.head_dim - 1), rng.pick({kInf, -kInf}));
      }
      Queries queries(rng, desc, total);
      const AttnPrefillItem whole = queries.item(history.spans, 0, false, queries.out.data(), queries.lse.data());
      run(desc, {&whole, 1});
      Buffer<float> out(queries.out.size(), 4), lse(queries.lse.size(), 4);
      std::copy_n(queries.out.data(), out.size(), out.data());
      std::copy_n(queries.lse.data(), lse.size(), lse.data());
      for (int64_t begin = 0; begin < total;) {
        const int64_t wanted = rng.pick({int64_t{1}, rng.integer(1, 20), rng.integer(total / 5, total / 2)});
        const int64_t n = std::min<int64_t>(total - begin, wanted);
        std::vector<KvSpan> known = history.spans;  // only what has been computed by then: the last page is part full
        while (known.back().pos >= begin + n) known.pop_back();
        known.back().n = static_cast<int32_t>(std::min<int64_t>(known.back().n, begin + n - known.back().pos));
        AttnPrefillItem block = whole;
        block.q += begin * queries.q_stride;
        block.n_q = static_cast<int32_t>(n);
        block.pos = begin;
        block.spans = known.data();
        block.n_spans = static_cast<int32_t>(known.size());
        block.out = out.data() + begin * queries.out_stride;
        block.lse = lse.data() + begin * queries.lse_stride;
        for (int64_t t = 0; t < n; ++t) {
          std::fill_n(block.out + t * queries.out_stride, desc.group * desc.head_dim, 5.0f);
        }
        run(desc, {&block, 1});
        begin += n;
      }
      expect_same_bytes(out.data(), queries.out.data(), static_cast<std::size_t>(out.size()) * 4,
                        name(desc, total, 0, "out"));
      expect_same_bytes(lse.data(), queries.lse.data(), static_cast<std::size_t>(lse.size()) * 4,
                        name(desc, total, 0, "lse"));
      if (HasFatalFailure()) return;
    }
  });
}

TEST(AttnPrefill, other_items_and_threads_change_no_bit) {
  Random rng;
  const AttnPrefillDesc desc{DType::bf16, 64, 4, 0.125f};
  std::vector<std::unique_ptr<History>> histories;
  std::vector<std::unique_ptr<Queries>> queries;
  std::vector<AttnPrefillItem> items;
  for (int64_t n : tested_slowly() ? std::vector<int64_t>{30, 3, 17} : std::vector<int64_t>{150, 3, 77}) {
    histories.push_back(std::make_unique<History>(rng, desc, random_lengths(rng, n + 40), Fill::normal));
    queries.push_back(std::make_unique<Queries>(rng, desc, n));
    Queries& q = *queries.back();
    items.push_back(q.item(histories.back()->spans, 40, false, q.out.data(), q.lse.data()));
  }
  with_threads(3, [&] { run(desc, items); });
  for (std::size_t i = 0; i < items.size(); ++i) {
    Queries& q = *queries[i];
    Buffer<float> out(q.out.size(), 4), lse(q.lse.size(), 4);
    std::copy_n(q.out.data(), out.size(), out.data());
    std::copy_n(q.lse.data(), lse.size(), lse.data());
    with_threads(1, [&] { run(desc, {&items[i], 1}); });
    const std::string which = "item " + std::to_string(i);
    expect_same_bytes(out.data(), q.out.data(), static_cast<std::size_t>(out.size()) * 4, which);
    expect_same_bytes(lse.data(), q.lse.data(), static_cast<std::size_t>(lse.size()) * 4, which);
  }
}

TEST(AttnPrefill, nan_reaches_only_the_rows_that_see_it) {
  Random rng;
  for_each_target([&] {
    for (DType dtype : {DType::f32, DType::bf16}) {
      for (bool in_key : {true, false}) {
        const AttnPrefillDesc desc{dtype, 64, 2, 0.125f};
        History history(rng, desc, {64, 64, 64}, Fill::normal);
        store_f32((in_key ? history.k : history.v)[1]->data(), dtype, 37 * 64 + 63, kNan);  // the key at position 101
        const int64_t n = tested_slowly() ? 25 : 150, pos = tested_slowly() ? 90 : 30;
        Queries queries(rng, desc, n);
        queries.q[5 * queries.q_stride + 64] = kNan;  // token 5, second head
        const AttnPrefillItem item = queries.item(history.spans, pos, false, queries.out.data(), queries.lse.data());
        run(desc, {&item, 1});
        for (int64_t t = 0; t < n; ++t) {
          for (int64_t g = 0; g < 2; ++g) {
            const bool hit = pos + t >= 101 || (t == 5 && g == 1);
            ASSERT_EQ(std::isnan(queries.out[t * queries.out_stride + g * 64 + 63]), hit)
                << "token " << t << " in_key " << in_key;
            ASSERT_EQ(std::isnan(queries.out[t * queries.out_stride + g * 64 + 62]),
                      in_key ? hit : t == 5 && g == 1) << "token " << t << " in_key " << in_key;
          }
        }
      }
    }
  });
}

TEST(AttnPrefill, refuses_what_it_cannot_do) {
  EXPECT_FALSE(attn_prefill_supports({DType::f16, 64, 1, 1.0f}));
  EXPECT_FALSE(attn_prefill_supports({DType::bf16, 0, 1, 1.0f}));
  EXPECT_FALSE(attn_prefill_supports({DType::bf16, 1024, 1, 1.0f}));
  EXPECT_FALSE(attn_prefill_supports({DType::bf16, 64, 0, 1.0f}));
}

void bench_shape(const char* variant, DType dtype, int32_t head_dim, int32_t group, int64_t n_q, int64_t history) {
  if (bench_small()) history = 256, n_q = 64;
  const int64_t heads = 8, total = history + n_q, pages = (total + 63) / 64, row = head_dim * dtype_bytes(dtype);
  const int64_t head_bytes = pages * 64 * row * 2;
  const int32_t layers = 2;
  std::vector<char> kv(static_cast<std::size_t>(layers * heads * head_bytes), 0x3c);
  std::vector<float> q(static_cast<std::size_t>(heads * n_q * group * head_dim), 0.01f), out(q.size());
  const AttnPrefillDesc desc{dtype, head_dim, group, 0.1f};
  std::vector<std::vector<KvSpan>> spans(static_cast<std::size_t>(layers * heads));
  std::vector<AttnPrefillItem> items;
  for (int64_t i = 0; i < layers * heads; ++i) {
    const char* k = kv.data() + i * head_bytes;
    auto& list = spans[static_cast<std::size_t>(i)];
    for (int64_t p = 0; p < pages; ++p) {
      list.push_back(KvSpan{k + p * 128 * row, k + (p * 128 + 64) * row,
                            static_cast<int32_t>(std::min<int64_t>(64, total - p * 64)), p * 64});
    }
    const int64_t at = i % heads * n_q * group * head_dim;
    const int64_t stride = int64_t{group} * head_dim;
    items.push_back(AttnPrefillItem{q.data() + at, stride, static_cast<int32_t>(n_q), history, list.data(),
                                    static_cast<int32_t>(pages), out.data() + at, stride, nullptr, 0, false});
  }
  Buffer<char> workspace(static_cast<int64_t>(attn_prefill_workspace_bytes(desc)), 64);
  const double mean_visible = static_cast<double>(history) + 0.5 * static_cast<double>(n_q + 1);
  const double pairs = static_cast<double>(heads * n_q) * mean_visible;
  const BenchRow result{.op = "attn_prefill", .variant = variant,
                        .shape = std::to_string(heads * group) + "/" + std::to_string(heads) + "/" +
                                 std::to_string(head_dim) + (dtype == DType::f32 ? " f32" : " bf16"),
                        .tokens = total, .layers = layers, .working_set_bytes = layers * heads * head_bytes,
                        .bytes = static_cast<double>(heads * head_bytes), .flops = 4.0 * group * head_dim * pairs};
  run_bench(result, [&](int64_t sample) {
    const std::size_t first = static_cast<std::size_t>(sample % layers * heads);
    const auto layer = std::span(items).subspan(first, static_cast<std::size_t>(heads));
    tested_ops().attn_prefill(desc, layer, workspace.data());
  });
}

void bench() {
  for_each_bench_target([&](const char* variant) {
    for (int32_t head_dim : {64, 128}) {
      for (DType dtype : {DType::bf16, DType::f32}) bench_shape(variant, dtype, head_dim, 4, 128, 8192);
    }
    bench_shape(variant, DType::bf16, 64, 1, 512, 4096);
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
