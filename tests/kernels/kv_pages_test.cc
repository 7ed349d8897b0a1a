// kv_append and kv_gather: the copies between rows and exact pages, byte for byte.
#include <memory>

#include "kernels/kv_append/kv_append.h"
#include "kernels/kv_gather/kv_gather.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using namespace kernels;

struct Pages {
  Pages(int64_t n_pages, int64_t page_bytes) : n_bytes(page_bytes) {
    for (int64_t i = 0; i < n_pages; ++i) {
      buffers.push_back(std::make_unique<Buffer<char>>(page_bytes, 16));
      std::memset(buffers.back()->data(), 0x5a, static_cast<std::size_t>(page_bytes));
      pointers.push_back(buffers.back()->data());
    }
  }
  std::vector<std::unique_ptr<Buffer<char>>> buffers;
  std::vector<void*> pointers;
  int64_t n_bytes;
};

KvPageFormat random_format(Random& rng) {
  const int32_t most = tested_slowly() ? 3 : 5;
  return {rng.pick({DType::f32, DType::bf16}), static_cast<int32_t>(rng.integer(1, most)),
          rng.pick({32, 64, 80, 96, 128}), rng.pick({16, 64})};
}

int64_t page_bytes(const KvPageFormat& f) {
  return int64_t{2} * f.heads * f.page_tokens * f.head_dim * dtype_bytes(f.dtype);
}

// One run of tokens with its rows and two copies of its pages. What lies before its first page is never looked at.
struct Tokens {
  Tokens(Random& rng, const KvPageFormat& format, int64_t first_, int64_t n_)
      : first(first_), n(n_), k(n * format.heads * format.head_dim), v(k.size()),
        got((first + n + format.page_tokens - 1) / format.page_tokens, page_bytes(format)),
        want(static_cast<int64_t>(got.pointers.size()), page_bytes(format)) {
    fill_rows(rng, Fill::biased, DType::f32, k.data(), n, format.heads * format.head_dim);
    fill_rows(rng, Fill::extremes, DType::f32, v.data(), n, format.heads * format.head_dim);
    const int64_t before = n > 0 ? first / format.page_tokens : static_cast<int64_t>(got.pointers.size());
    std::fill_n(got.pointers.begin(), before, nullptr);
  }
  KvAppendItem item(Pages& pages) { return {pages.pointers.data(), first, n, k.data(), v.data()}; }
  std::string text(const KvPageFormat& f) const {
    return "heads " + std::to_string(f.heads) + " d " + std::to_string(f.head_dim) + " first " +
           std::to_string(first) + " n " + std::to_string(n) + " dtype " + std::to_string(static_cast<int>(f.dtype));
  }
  int64_t first, n;
  Buffer<float> k, v;
  Pages got, want;
};

std::unique_ptr<Tokens> random_run(Random& rng, const KvPageFormat& format) {
  const int64_t few = rng.pick<int64_t>({0, 1, 1, 3, 20}), n = tested_slowly() ? few : few * rng.integer(1, 10);
  return std::make_unique<Tokens>(rng, format, rng.integer(0, 200), n);
}

TEST(KvAppend, writes_the_rounded_rows_of_every_run_and_nothing_else) {
  Random rng;
  for_each_target([&] {
    for (int round = 0; round < (tested_slowly() ? 6 : 30); ++round) {
      const KvPageFormat format = random_format(rng);
      std::vector<std::unique_ptr<Tokens>> runs;
      std::vector<KvAppendItem> got, want;
      for (int64_t i = round == 0 ? 40 : rng.integer(1, 4); i > 0; --i) runs.push_back(random_run(rng, format));
      for (const auto& run : runs) {
        got.push_back(run->item(run->got));
        want.push_back(run->item(run->want));
      }
      kv_append_ref(format, want);
      tested_ops().kv_append(format, got);
      for (const auto& run : runs) {
        for (std::size_t i = 0; i < run->got.buffers.size(); ++i) {
          expect_same_bytes(run->got.buffers[i]->data(), run->want.buffers[i]->data(),
                            static_cast<std::size_t>(page_bytes(format)), run->text(format));
        }
      }
      if (HasFatalFailure()) return;
    }
  });
}

TEST(KvAppend, of_no_tokens_touches_no_page) {
  const KvPageFormat format{DType::bf16, 2, 32, 64};
  tested_ops().kv_append(format, {});
  tested_ops().kv_append(format, {{KvAppendItem{nullptr, 10, 0, nullptr, nullptr}}});
  kv_append_ref(format, {{KvAppendItem{nullptr, 10, 0, nullptr, nullptr}}});
}

TEST(KvAppend, keeps_nan_and_infinities) {
  const KvPageFormat format{DType::bf16, 1, 32, 16};
  for_each_target([&] {
    Pages page(1, page_bytes(format));
    Buffer<float> k(32), v(32);
    std::fill_n(k.data(), 32, std::numeric_limits<float>::quiet_NaN());
    std::fill_n(v.data(), 32, -std::numeric_limits<float>::infinity());
    tested_ops().kv_append(format, {{KvAppendItem{page.pointers.data(), 3, 1, k.data(), v.data()}}});
    for (int64_t i = 0; i < 32; ++i) {
      EXPECT_TRUE(std::isnan(load_f32(page.pointers[0], DType::bf16, 3 * 32 + i))) << i;
      EXPECT_EQ(load_f32(page.pointers[0], DType::bf16, (16 + 3) * 32 + i), v[i]) << i;
    }
  });
}

TEST(KvGather, gives_back_the_keys_that_were_appended) {
  Random rng;
  for_each_target([&] {
    for (int round = 0; round < (tested_slowly() ? 8 : 40); ++round) {
      const KvPageFormat format = random_format(rng);
      const auto run = random_run(rng, format);
      kv_append_ref(format, {{run->item(run->want)}});
      const int64_t before = run->n > 0 ? run->first / format.page_tokens : 0;
      std::fill_n(run->want.pointers.begin(), before, nullptr);
      Buffer<float> got(run->k.size()), want(run->k.size());
      kv_gather_ref({format, run->want.pointers.data(), run->first, run->n, want.data()});
      tested_ops().kv_gather({format, run->want.pointers.data(), run->first, run->n, got.data()});
      expect_same_bytes(got.data(), want.data(), static_cast<std::size_t>(got.size()) * 4, run->text(format));
      for (int64_t i = 0; i < got.size(); ++i) {
        const float rounded = format.dtype == DType::f32 ? run->k[i] : bf16_to_f32(f32_to_bf16(run->k[i]));
        ASSERT_EQ(got[i], rounded) << run->text(format) << " element " << i;
      }
    }
  });
}

void bench() {}  // copies of the prefill path; their time is in the prefill benchmark

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
