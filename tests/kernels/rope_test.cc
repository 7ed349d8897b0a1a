#include "kernels/rope/rope.h"

#include "kernels/rope/rope_tables.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::kRopeLow;
using kernels::RopeItem;
using kernels::RopeView;
using kernels::rope_ref;

constexpr int64_t kPositions = int64_t{1} << 20;

struct Tables {
  std::vector<double> inv_freq;
  Buffer<float> lo, hi;
  RopeView view;

  Tables(int32_t rotary_dim, double theta, bool interleaved = false, float factor = 1.0f)
      : lo(kernels::rope_lo_floats(rotary_dim / 2)),
        hi(kernels::rope_hi_floats(rotary_dim / 2, kernels::rope_hi_rows(kPositions))) {
    const int32_t pairs = rotary_dim / 2, hi_rows = kernels::rope_hi_rows(kPositions);
    for (int32_t i = 0; i < pairs; ++i) inv_freq.push_back(std::pow(theta, -2.0 * i / rotary_dim));
    kernels::rope_fill_tables(inv_freq, hi_rows, lo.data(), hi.data());
    view = RopeView{lo.data(), hi.data(), hi_rows, rotary_dim, interleaved, factor};
  }
};

// The definition with double angles, independent of the tables.
void rotate(const RopeView& view, const RopeItem& item) { tested_ops().rope(view, {{item}}); }

void rotate_exactly(const Tables& tables, const RopeItem& args, float* x) {
  const RopeView& view = tables.view;
  const int64_t pairs = view.rotary_dim / 2;
  for (int64_t t = 0; t < args.n; ++t) {
    for (int64_t h = 0; h < args.heads; ++h) {
      float* head = x + t * args.row_stride + h * args.head_dim;
      for (int64_t i = 0; i < pairs; ++i) {
        const double angle = static_cast<double>(args.pos + t) * tables.inv_freq[static_cast<std::size_t>(i)];
        const double a = args.inverse ? 1.0 / static_cast<double>(view.attention_factor)
                                      : static_cast<double>(view.attention_factor);
        const double c = a * std::cos(angle), s = a * std::sin(args.inverse ? -angle : angle);
        float& x0 = head[view.interleaved ? 2 * i : i];
        float& x1 = head[view.interleaved ? 2 * i + 1 : i + pairs];
        const double y0 = x0 * c - x1 * s, y1 = x1 * c + x0 * s;
        x0 = static_cast<float>(y0);
        x1 = static_cast<float>(y1);
      }
    }
  }
}

TEST(RopeTables, product_is_within_1e_6_of_the_exact_rotation_below_2_to_the_20) {
  Random rng;
  for (double theta : {1e4, 5e5, 1e6}) {
    const Tables tables(128, theta);
    for (int trial = 0; trial < 4000; ++trial) {
      const int64_t p = trial < 8 ? kPositions - 1 - trial : rng.integer(0, kPositions - 1);
      const int64_t i = rng.integer(0, 63);
      const float* lo = tables.lo.data() + (p % kRopeLow) * 128 + 2 * i;
      const float* hi = tables.hi.data() + (p / kRopeLow) * 128 + 2 * i;
      const double angle = static_cast<double>(p) * tables.inv_freq[static_cast<std::size_t>(i)];
      ASSERT_NEAR(hi[0] * lo[0] - hi[1] * lo[1], std::cos(angle), 1e-6) << "position " << p << " pair " << i;
      ASSERT_NEAR(hi[1] * lo[0] + hi[0] * lo[1], std::sin(angle), 1e-6) << "position " << p << " pair " << i;
    }
  }
}

TEST(RopeTables, sizes_cover_the_last_position) {
  EXPECT_EQ(kernels::rope_hi_rows(0), 0);
  EXPECT_EQ(kernels::rope_hi_rows(1), 1);
  EXPECT_EQ(kernels::rope_hi_rows(1024), 1);
  EXPECT_EQ(kernels::rope_hi_rows(1025), 2);
  EXPECT_EQ(kernels::rope_lo_floats(32), 64 * 1024);
  EXPECT_EQ(kernels::rope_hi_floats(32, 3), 64 * 3);
}

TEST(Rope, variants_and_reference_are_within_1e_6_of_double_angles) {
  Random rng;
  for_each_target([&] {
    for (int trial = 0; trial < (tested_slowly() ? 24 : 60); ++trial) {
      const int32_t head_dim = rng.pick({8, 32, 64, 80, 96, 128, 256});
      const int32_t heads = static_cast<int32_t>(rng.integer(1, 5));
      const int32_t rotary = trial % 3 == 0 ? head_dim / 4 * 2 : head_dim;
      const Tables tables(rotary, rng.pick({1e4, 1e6}), rng.chance(0.5), rng.pick({1.0f, 1.19f, 0.8f}));
      RopeItem args;
      args.heads = heads;
      args.head_dim = head_dim;
      args.row_stride = heads * head_dim + rng.integer(0, 9);
      args.n = rng.integer(1, 20);
      args.pos = rng.pick({int64_t{0}, kPositions - args.n, rng.integer(0, kPositions - args.n)});
      args.inverse = rng.chance(0.5);
      const int64_t size = (args.n - 1) * args.row_stride + heads * head_dim;
      Buffer<float> x(size), want(size), ref(size);
      fill_rows(rng, rng.pick({Fill::normal, Fill::biased, Fill::extremes}), DType::f32, x.data(), 1, size);
      std::copy_n(x.data(), size, want.data());
      std::copy_n(x.data(), size, ref.data());
      const float tolerance = 1e-6f * max_abs(x.span()) * 1.25f;  // 1.25: the largest factor
      const std::string name = "head_dim=" + std::to_string(head_dim) + " rotary=" + std::to_string(rotary) +
                               " interleaved=" + std::to_string(tables.view.interleaved) + " pos=" +
                               std::to_string(args.pos) + " inverse=" + std::to_string(args.inverse);
      rotate_exactly(tables, args, want.data());
      args.x = x.data();
      rotate(tables.view, args);
      args.x = ref.data();
      rope_ref(tables.view, {{args}});
      expect_close(x.span(), want.span(), tolerance, "variant " + name);
      expect_close(ref.span(), want.span(), tolerance, "ref " + name);
      if (HasFatalFailure()) return;
    }
  });
}

TEST(Rope, inverse_undoes_forward_and_dims_past_rotary_dim_pass_through) {
  Random rng;
  for_each_target([&] {
    for (bool interleaved : {false, true}) {
      const Tables tables(48, 1e4, interleaved, 1.3f);
      Buffer<float> x(5 * 2 * 80), original(5 * 2 * 80);
      fill_rows(rng, Fill::normal, DType::f32, x.data(), 5, 160);
      std::copy_n(x.data(), 800, original.data());
      RopeItem args{x.data(), 160, 5, 2, 80, 777777, false};
      rotate(tables.view, args);
      EXPECT_NE(x[0], original[0]);
      for (int64_t i = 0; i < 800; ++i) {
        ASSERT_TRUE(i % 80 < 48 || x[i] == original[i]) << i;
      }
      args.inverse = true;
      rotate(tables.view, args);
      expect_close(x.span(), original.span(), 2e-6f * max_abs(original.span()), "round trip");
    }
  });
}

TEST(Rope, no_rotation_and_no_tokens_change_nothing) {
  Random rng;
  const Tables tables(32, 1e4);
  for_each_target([&] {
    Buffer<float> x(64), before(64);
    fill_rows(rng, Fill::normal, DType::f32, x.data(), 1, 64);
    std::copy_n(x.data(), 64, before.data());
    RopeView none;
    none.attention_factor = 2.0f;
    for (bool inverse : {false, true}) rotate(none, RopeItem{x.data(), 64, 1, 2, 32, 9, inverse});
    rotate(tables.view, RopeItem{x.data(), 64, 0, 2, 32, 9, false});
    expect_same_bytes(x.data(), before.data(), 256, "identity");
  });
}

TEST(Rope, a_token_does_not_depend_on_the_others_or_on_threads) {
  Random rng;
  const Tables tables(64, 1e6);
  const int64_t n = 50, stride = 128;
  Buffer<float> all(n * stride), one(n * stride);
  fill_rows(rng, Fill::normal, DType::f32, all.data(), n, stride);
  std::copy_n(all.data(), n * stride, one.data());
  with_threads(3, [&] { rotate(tables.view, RopeItem{all.data(), stride, n, 2, 64, 1000, false}); });
  for (int64_t t = 0; t < n; ++t) {
    rotate(tables.view, RopeItem{one.data() + t * stride, stride, 1, 2, 64, 1000 + t, false});
  }
  expect_same_bytes(all.data(), one.data(), static_cast<std::size_t>(n * stride) * 4, "block and single tokens");
}

TEST(Rope, runs_of_any_length_turn_together_as_they_do_alone) {
  Random rng;
  for_each_target([&] {
    for (int trial = 0; trial < (tested_slowly() ? 2 : 10); ++trial) {
      const Tables tables(16, 1e6, rng.chance(0.5), 1.1f);
      const int64_t stride = 3 * 20 + (trial % 2 == 0 ? 4 : 1);
      const int64_t n_items = trial == 0 ? 70 : rng.integer(1, 9);
      std::vector<RopeItem> items;
      int64_t rows = 0;
      for (int64_t i = 0; i < n_items; ++i) {
        RopeItem item{nullptr, stride, i % 5 == 3 ? 0 : rng.pick<int64_t>({1, 1, 2, 9}), 0, 20, 0, rng.chance(0.3)};
        item.heads = static_cast<int32_t>(rng.integer(1, 3));
        item.pos = rng.integer(0, kPositions - 9);
        items.push_back(item);
        rows += item.n;
      }
      Buffer<float> together(rows * stride), alone(rows * stride);
      fill_rows(rng, Fill::normal, DType::f32, together.data(), rows, stride);
      std::copy_n(together.data(), together.size(), alone.data());
      std::vector<RopeItem> single = items;
      for (int64_t i = 0, row = 0; i < n_items; row += items[i++].n) {
        items[i].x = together.data() + row * stride;
        single[i].x = alone.data() + row * stride;
      }
      with_threads(3, [&] { tested_ops().rope(tables.view, items); });
      for (const RopeItem& item : single) rotate(tables.view, item);
      expect_same_bytes(together.data(), alone.data(), static_cast<std::size_t>(rows * stride) * 4,
                        std::to_string(n_items) + " items");
      if (HasFatalFailure()) return;
    }
  });
}

void bench() {
  const int64_t n = bench_small() ? 8 : 512, heads = 32, dim = 128, size = n * heads * dim;
  const int32_t layers = bench_layers(size * 4);
  const Tables tables(128, 5e5);
  Buffer<float> x(layers * size);
  std::fill_n(x.data(), x.size(), 0.5f);
  for_each_bench_target([&](const char* variant) {
    const BenchRow row{.op = "rope", .variant = variant, .shape = "32/128 f32", .tokens = n, .layers = layers,
                       .working_set_bytes = int64_t{layers} * size * 4, .bytes = 8.0 * static_cast<double>(size)};
    run_bench(row, [&](int64_t sample) {
      rotate(tables.view, RopeItem{x.data() + sample % layers * size, heads * dim, n, 32, 128, sample * n, false});
    });
  });
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
