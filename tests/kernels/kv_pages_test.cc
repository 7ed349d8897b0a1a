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

struct Shape {
  DType dtype;
  int32_t heads, head_dim, page_tokens;
  int64_t first, n;
  int64_t page_bytes() const { return int64_t{2} * heads * page_tokens * head_dim * dtype_bytes(dtype); }
  int64_t n_pages() const { return (first + n + page_tokens - 1) / page_tokens; }
  std::string text() const {
    return "heads " + std::to_string(heads) + " d " + std::to_string(head_dim) + " first " + std::to_string(first) +
           " n " + std::to_string(n) + " dtype " + std::to_string(static_cast<int>(dtype));
  }
};

Shape random_shape(Random& rng) {
  return {rng.pick({DType::f32, DType::bf16}), static_cast<int32_t>(rng.integer(1, 5)), rng.pick({32, 64, 80, 96, 128}),
          rng.pick({16, 64}), rng.integer(0, 200), rng.pick<int64_t>({1, 3, 64, 65, 200})};
}

TEST(KvAppend, writes_the_rounded_rows_and_nothing_else) {
  Random rng;
  for (int round = 0; round < 40; ++round) {
    const Shape s = random_shape(rng);
    Pages got(s.n_pages(), s.page_bytes()), want(s.n_pages(), s.page_bytes());
    Buffer<float> k(s.n * s.heads * s.head_dim), v(s.n * s.heads * s.head_dim);
    fill_rows(rng, Fill::biased, DType::f32, k.data(), s.n, s.heads * s.head_dim);
    fill_rows(rng, Fill::extremes, DType::f32, v.data(), s.n, s.heads * s.head_dim);
    kv_append_ref({s.dtype, s.heads, s.head_dim, s.page_tokens, want.pointers.data(), s.first, s.n, k.data(), v.data()});
    kv_append_cpu({s.dtype, s.heads, s.head_dim, s.page_tokens, got.pointers.data(), s.first, s.n, k.data(), v.data()});
    for (std::size_t i = 0; i < got.pointers.size(); ++i) {
      expect_same_bytes(got.pointers[i], want.pointers[i], static_cast<std::size_t>(s.page_bytes()), s.text());
    }
  }
}

TEST(KvAppend, of_no_tokens_touches_no_page) {
  kv_append_cpu({DType::bf16, 2, 32, 64, nullptr, 10, 0, nullptr, nullptr});
  kv_append_ref({DType::bf16, 2, 32, 64, nullptr, 10, 0, nullptr, nullptr});
}

TEST(KvGather, gives_back_the_keys_that_were_appended) {
  Random rng;
  for (int round = 0; round < 40; ++round) {
    const Shape s = random_shape(rng);
    Pages pages(s.n_pages(), s.page_bytes());
    Buffer<float> k(s.n * s.heads * s.head_dim), v(s.n * s.heads * s.head_dim);
    fill_rows(rng, Fill::biased, DType::f32, k.data(), s.n, s.heads * s.head_dim);
    kv_append_ref({s.dtype, s.heads, s.head_dim, s.page_tokens, pages.pointers.data(), s.first, s.n, k.data(), v.data()});
    const int64_t size = s.n * s.heads * s.head_dim;
    Buffer<float> got(size), want(size);
    kv_gather_ref({s.dtype, s.heads, s.head_dim, s.page_tokens, pages.pointers.data(), s.first, s.n, want.data()});
    kv_gather_cpu({s.dtype, s.heads, s.head_dim, s.page_tokens, pages.pointers.data(), s.first, s.n, got.data()});
    expect_same_bytes(got.data(), want.data(), static_cast<std::size_t>(size) * 4, s.text());
    for (int64_t i = 0; i < size; ++i) {
      const float rounded = s.dtype == DType::f32 ? k[i] : bf16_to_f32(f32_to_bf16(k[i]));
      ASSERT_EQ(got[i], rounded) << s.text() << " element " << i;
    }
  }
}

void bench() {}  // copies of the prefill path; their time is in the prefill benchmark

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
