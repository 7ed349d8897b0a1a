// Launch lists: what the host writes until the launch is what the kernel reads, however the staging memory wraps around.
#include <random>
#include <string>
#include <vector>

#include "tests/cuda_host/stream_fixture.h"
#include "tests/cuda_host/stream_kernels.h"

namespace skv::test {
namespace {

using StreamLists = StreamTest;

// The first list is completed after the second was made: by then the memory may have moved on to another part.
TEST_F(StreamLists, may_be_written_until_the_launch) {
  std::mt19937 random(1);
  for (int32_t round = 0; round < 300; ++round) {
    const int64_t n_a = 1 + random() % 100, n_b = 1 + random() % 100;
    cuda::Lists lists(*stream_);
    const auto a = lists.make<int32_t>(n_a), b = lists.make<int32_t>(n_b);
    std::vector<int32_t> want;
    for (int64_t i = 0; i < n_a; ++i) want.push_back(a[i] = round * 1000 + static_cast<int32_t>(i));
    for (int64_t i = 0; i < n_b; ++i) want.push_back(b[i] = -round * 1000 - static_cast<int32_t>(i));
    copy_lists(*stream_, a.device(), n_a, b.device(), n_b, out_);
    ASSERT_EQ(read(n_a + n_b), want) << "round " << round;
    if (round % 7 == 0) stream_->upload(out_, want.data(), 4 * (n_a + n_b));  // takes staging memory too
    ASSERT_STREQ(stream_->failure(), "");
  }
}

// The host is far ahead of the device.
TEST_F(StreamLists, are_not_overwritten_before_they_were_read) {
  std::vector<int32_t> want;
  for (int32_t launch = 0; launch < 60; ++launch) {
    const int64_t n = 1 + launch * 37 % 130;
    cuda::Lists lists(*stream_);
    const auto list = lists.make<int32_t>(n);
    const auto at = static_cast<int64_t>(want.size());
    for (int32_t& v : list) want.push_back(v = launch);
    copy_lists(*stream_, list.device(), n, nullptr, 0, out_ + at);
  }
  EXPECT_EQ(read(static_cast<int64_t>(want.size())), want);
}

TEST_F(StreamLists, are_copied_once_where_items_share_them) {
  const std::vector<int32_t> pages = {1, 2, 3};
  cuda::Lists lists(*stream_);
  const int32_t* first = lists.shared(pages.data(), 3);
  EXPECT_EQ(lists.shared(pages.data(), 3), first);
  EXPECT_NE(lists.shared(pages.data(), 2), first) << "another length is another list";
  copy_lists(*stream_, first, 3, nullptr, 0, out_);
  EXPECT_EQ(read(3), pages);
}

TEST_F(StreamLists, that_outgrow_the_staging_memory_are_a_failure_that_stays) {
  cuda::Lists lists(*stream_);
  EXPECT_EQ(lists.make<char>(kPart - 64).size(), kPart - 64);
  EXPECT_EQ(lists.make<char>(128).size(), 0);
  EXPECT_NE(std::string(stream_->failure()).find("launch lists"), std::string::npos);
  const std::vector<int32_t> before(4, 7);
  cudaMemcpyAsync(out_, before.data(), 16, cudaMemcpyDefault, handle_);
  copy_lists(*stream_, nullptr, 0, nullptr, 0, out_);
  stream_->fill(out_, 0, 16);  // nothing is done any more
  std::vector<int32_t> after(4);
  cudaMemcpyAsync(after.data(), out_, 16, cudaMemcpyDefault, handle_);
  EXPECT_EQ(after, before);
}

}  // namespace
}  // namespace skv::test
