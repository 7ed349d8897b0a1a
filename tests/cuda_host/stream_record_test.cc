// Launches that a stream keeps and hands over together, as graphs or one by one; and work beside its own.
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/stream_fixture.h"
#include "tests/cuda_host/stream_kernels.h"

namespace skv::test {
namespace {

class StreamRecord : public StreamTest {
 protected:
  ~StreamRecord() override { cuda_host::set_faults({}); }

  // n launches, the i-th of which copies a list of sizes[i] numbers; what out_ holds then follows in want.
  void step(const std::vector<int64_t>& sizes, int32_t first, std::vector<int32_t>* want) {
    int64_t at = 0;
    for (const int64_t n : sizes) {
      cuda::Lists lists(*stream_);
      const auto list = lists.make<int32_t>(n);
      for (int64_t i = 0; i < n; ++i) want->push_back(list[i] = first++);
      copy_lists(*stream_, list.device(), n, nullptr, 0, out_ + at);
      at += n;
    }
  }
  void expect_step(const std::vector<int64_t>& sizes, int32_t first) {
    std::vector<int32_t> want;
    stream_->begin_record();
    step(sizes, first, &want);
    stream_->end_record();
    ASSERT_EQ(read(static_cast<int64_t>(want.size())), want);
    ASSERT_STREQ(stream_->failure(), "");
  }
  static int64_t graph_launches() { return cuda_host::usage().graph_launches; }
};

const std::vector<int64_t> kSizes = {3, 1, 40, 7, 16, 17, 2, 5, 33};  // less than a part

TEST_F(StreamRecord, keeps_launches_until_its_end) {
  std::vector<int32_t> want;
  const int64_t before = cuda_host::usage().launches;
  stream_->begin_record();
  step(kSizes, 0, &want);
  EXPECT_EQ(cuda_host::usage().launches, before);
  stream_->end_record();
  EXPECT_EQ(read(static_cast<int64_t>(want.size())), want);
}

TEST_F(StreamRecord, becomes_a_graph_when_it_comes_again) {
  const int64_t before = graph_launches();
  expect_step(kSizes, 0);
  EXPECT_EQ(graph_launches(), before) << "the first time";
  expect_step(kSizes, 1000);
  EXPECT_EQ(graph_launches(), before + 1);
  for (int32_t i = 2; i < 20; ++i) expect_step(kSizes, 1000 * i);
  EXPECT_EQ(graph_launches(), before + 19);
}

// The launches of a graph differ each time: lists, their places, arguments, grids.
TEST_F(StreamRecord, sets_in_its_graph_what_changed) {
  std::mt19937 random(3);
  const int64_t before = graph_launches();
  for (int32_t i = 0; i < 100; ++i) {
    std::vector<int64_t> sizes(9);
    for (int64_t& n : sizes) n = 1 + static_cast<int64_t>(random() % 20);
    expect_step(sizes, 100 * i);
    if (i % 7 == 0) {  // staging memory goes on from elsewhere
      std::vector<int32_t> want;
      step({50}, 7, &want);
    }
  }
  EXPECT_EQ(graph_launches(), before + 99);
}

TEST_F(StreamRecord, gives_the_same_without_graphs) {
  make_stream(false);
  const int64_t before = graph_launches();
  for (int32_t i = 0; i < 5; ++i) expect_step(kSizes, 1000 * i);
  EXPECT_EQ(graph_launches(), before);
}

TEST_F(StreamRecord, goes_on_launch_by_launch_where_graphs_are_refused) {
  cuda_host::Faults faults;
  faults.graphs_refused = true;
  cuda_host::set_faults(faults);
  const int64_t before = graph_launches();
  for (int32_t i = 0; i < 4; ++i) expect_step(kSizes, 1000 * i);
  EXPECT_EQ(graph_launches(), before);
}

TEST_F(StreamRecord, may_hold_more_lists_than_the_staging_memory) {
  std::mt19937 random(4);
  for (int32_t round = 0; round < 60; ++round) {
    std::vector<int64_t> sizes(1 + random() % 30);
    for (int64_t& n : sizes) n = 1 + static_cast<int64_t>(random() % (kPart / 4));
    expect_step(sizes, 1000 * round);
  }
}

// Lists that are written only after others were made must not be sent early, though the rest is.
TEST_F(StreamRecord, sends_no_list_before_its_launch) {
  for (int32_t round = 0; round < 40; ++round) {
    const int64_t n = kPart / 4 / 2 - 16;
    std::vector<int32_t> want(static_cast<std::size_t>(2 * n));
    stream_->begin_record();
    for (int32_t launch = 0; launch < 3; ++launch) {
      cuda::Lists lists(*stream_);
      const auto a = lists.make<int32_t>(n), b = lists.make<int32_t>(n);
      for (int64_t i = 0; i < n; ++i) {
        want[static_cast<std::size_t>(i)] = a[i] = round * 100 + launch;
        want[static_cast<std::size_t>(n + i)] = b[i] = -round * 100 - launch;
      }
      copy_lists(*stream_, a.device(), n, b.device(), n, out_);
    }
    stream_->end_record();
    ASSERT_EQ(read(2 * n), want) << round;
  }
}

TEST_F(StreamRecord, keeps_the_order_of_all_other_calls) {
  for (int32_t round = 0; round < 4; ++round) {
    std::vector<int32_t> want, other(4, round + 5);
    stream_->begin_record();
    step({8, 8, 8, 8, 8, 8, 8, 8, 8, 8}, round, &want);
    stream_->copy(out_ + 80, out_, 16);
    stream_->fill(out_, 0, 16);
    want.insert(want.end(), want.begin(), want.begin() + 4);
    std::fill_n(want.begin(), 4, 0);
    EXPECT_EQ(read(84), want);
    stream_->upload(out_ + 84, other.data(), 16);
    std::fill(other.begin(), other.end(), -1);
    want.insert(want.end(), 4, round + 5);
    cuda::Lists lists(*stream_);
    const auto list = lists.make<int32_t>(1);
    want[0] = list[0] = 77;
    copy_lists(*stream_, list.device(), 1, nullptr, 0, out_);
    EXPECT_EQ(read(88), want) << "a download hands over what is kept";
    stream_->end_record();
  }
}

class StreamRecordProducts : public StreamRecord, public testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(CapturesRefused, StreamRecordProducts, testing::Bool());

// Where no product can be captured there is no graph, and nothing else is amiss.
TEST_P(StreamRecordProducts, are_right) {
  cuda_host::Faults faults;
  faults.captures_refused = GetParam();
  cuda_host::set_faults(faults);
  const int64_t before = graph_launches();
  float* matrix = nullptr;
  cudaMalloc(reinterpret_cast<void**>(&matrix), 64);
  for (int32_t round = 0; round < 4; ++round) {
    // [1, 4] x [4, 1] of f32: the sum of squares, between launches that write and read it.
    const std::vector<float> x = {1.0f + static_cast<float>(round), 2, 3, 4};
    stream_->upload(matrix, x.data(), 16);
    cuda::MatrixProduct product;
    product.type = DType::f32;
    product.m = product.n = 1;
    product.k = product.lda = 4;
    product.ldb = product.ldc = 1;
    product.a = product.b = matrix;
    product.c = matrix + 4;
    std::vector<int32_t> want;
    stream_->begin_record();
    step(kSizes, 0, &want);
    cuda::matrix_product(*stream_, product);
    copy_lists(*stream_, reinterpret_cast<const int32_t*>(matrix + 4), 1, nullptr, 0, out_);
    stream_->end_record();
    float got = 0;
    stream_->download(&got, out_, 4);
    EXPECT_EQ(got, x[0] * x[0] + 29) << round;
  }
  EXPECT_EQ(graph_launches(), before + (GetParam() ? 0 : 3));
  EXPECT_STREQ(stream_->failure(), "");
  cudaFree(matrix);
}

TEST_F(StreamRecord, is_handed_over_in_pieces_where_it_is_long) {
  float* matrix = nullptr;
  cudaMalloc(reinterpret_cast<void**>(&matrix), 8);
  cuda::MatrixProduct product;
  product.type = DType::f32;
  product.m = product.n = product.k = product.lda = product.ldb = product.ldc = 1;
  product.a = product.b = matrix;
  product.c = matrix + 1;
  for (int32_t round = 0; round < 3; ++round) {
    const int64_t graphs = graph_launches(), launches = cuda_host::usage().launches;
    stream_->upload(out_, &round, 4);
    stream_->begin_record();
    for (int32_t layer = 0; layer < 50; ++layer) {
      for (int64_t i = 0; i < 9; ++i) copy_lists(*stream_, out_ + i, 1, nullptr, 0, out_ + i + 1);
      product.alpha = static_cast<float>(layer);  // as other layers have other weights
      cuda::matrix_product(*stream_, product);
    }
    EXPECT_GT(cuda_host::usage().launches, launches) << "before its end";
    stream_->end_record();
    EXPECT_EQ(graph_launches() - graphs, round == 0 ? 0 : 4);
    ASSERT_EQ(read(10), std::vector<int32_t>(10, round));
  }
  cudaFree(matrix);
}

TEST_F(StreamRecord, forgets_the_graphs_that_were_not_used_for_longest) {
  const int64_t alive = cuda_host::usage().graphs;
  const auto run = [&](int32_t n_launches) {
    stream_->begin_record();
    for (int32_t i = 0; i < n_launches; ++i) copy_lists(*stream_, out_, 3, nullptr, 0, out_ + 8);
    stream_->end_record();
  };
  for (int32_t n = 10; n < 160; ++n) run(n), run(n);
  EXPECT_LE(cuda_host::usage().graphs, alive + 2 * 128);
  const int64_t before = graph_launches();
  run(159);
  EXPECT_EQ(graph_launches(), before + 1) << "a late one is still known";
  run(10);
  EXPECT_EQ(graph_launches(), before + 1) << "the first is not";
  stream_.reset();
  EXPECT_EQ(cuda_host::usage().graphs, alive);
}

class StreamAside : public StreamTest, public testing::WithParamInterface<bool> {
 protected:
  StreamAside() { cuda_host::set_eager(GetParam()); }
  ~StreamAside() override { cuda_host::set_eager(false); }
};

TEST_P(StreamAside, work_is_there_after_join) {
  for (int32_t round = 0; round < 30; ++round) {
    const std::vector<int32_t> x(64, round + 1);
    stream_->upload(out_, x.data(), 256);
    stream_->begin_aside();
    stream_->copy(out_ + 64, out_, 256);  // sees what was before it
    cuda::Lists lists(*stream_);
    const auto list = lists.copy(std::span<const int32_t>(x));
    copy_lists(*stream_, list.device(), 64, nullptr, 0, out_ + 128);
    stream_->end_aside();
    std::vector<int32_t> want;
    for (int32_t i = 0; i < 30; ++i) {  // staging memory wraps around meanwhile
      cuda::Lists more(*stream_);
      const auto other = more.make<int32_t>(100);
      for (int32_t& v : other) v = i;
      copy_lists(*stream_, other.device(), 100, nullptr, 0, out_ + 320);
    }
    EXPECT_TRUE(stream_->has_aside());
    stream_->join();
    EXPECT_FALSE(stream_->has_aside());
    stream_->copy(out_ + 192, out_ + 64, 512);
    want.assign(320, round + 1);
    ASSERT_EQ(read(320), want) << round;
  }
}

TEST_P(StreamAside, is_waited_for_by_wait_only) {
  const std::vector<int32_t> ones(4, 1);
  stream_->upload(out_, ones.data(), 16);
  stream_->begin_aside();
  stream_->copy(out_ + 4, out_, 16);
  stream_->end_aside();
  read(1);
  EXPECT_TRUE(stream_->has_aside());
  stream_->wait();
  EXPECT_FALSE(stream_->has_aside());
  EXPECT_EQ(read(8), std::vector<int32_t>(8, 1));
}

// One step: numbers to out_, a copy of them aside while others are written beside it, all of it copied after the join.
// With graphs or without; the second stream as late as possible or as early; orders of what has none.
class StreamRecordAside : public StreamTest, public testing::WithParamInterface<std::tuple<bool, bool, uint64_t>> {
 protected:
  StreamRecordAside() {
    make_stream(std::get<0>(GetParam()));
    cuda_host::set_eager(std::get<1>(GetParam()));
    cuda_host::set_seed(std::get<2>(GetParam()));
  }
  ~StreamRecordAside() override {
    cuda_host::set_eager(false);
    cuda_host::set_seed(0);
  }
  void write(int32_t value, int64_t n, int32_t* to) {
    cuda::Lists lists(*stream_);
    const auto list = lists.make<int32_t>(n);
    for (int32_t& v : list) v = value;
    copy_lists(*stream_, list.device(), n, nullptr, 0, to);
  }
  // filler: more lists aside, so that what is kept must be handed over in the middle; interrupted: by a call that is not kept.
  void step(int32_t value, int64_t filler, bool interrupted) {
    stream_->begin_record();
    for (int i = 0; i < 6; ++i) write(value, 16, out_);
    stream_->begin_aside();
    copy_lists(*stream_, out_, 16, nullptr, 0, out_ + 16);
    if (filler > 0) write(value + 1, filler, out_ + 200);
    if (interrupted) stream_->copy(out_ + 160, out_ + 16, 64);
    copy_lists(*stream_, interrupted ? out_ + 160 : out_ + 16, 16, nullptr, 0, out_ + 32);
    stream_->end_aside();
    write(value + 2, 16, out_ + 48);
    copy_lists(*stream_, out_ + 48, 16, nullptr, 0, out_ + 64);
    stream_->join();
    copy_lists(*stream_, out_ + 32, 16, out_ + 64, 16, out_ + 80);
    write(0, 16, out_);  // what aside read is overwritten only after it
    stream_->end_record();
    std::vector<int32_t> want(32, value);
    std::fill(want.begin() + 16, want.end(), value + 2);
    const std::vector<int32_t> got = read(112);
    ASSERT_EQ(std::vector<int32_t>(got.begin() + 80, got.end()), want) << value;
    ASSERT_EQ(std::vector<int32_t>(got.begin(), got.begin() + 16), std::vector<int32_t>(16, 0));
  }
};

TEST_P(StreamRecordAside, is_ordered_by_its_begin_and_join) {
  for (int32_t i = 1; i < 40; ++i) step(10 * i, 0, false);
}

TEST_P(StreamRecordAside, may_be_cut_anywhere) {
  std::mt19937 random(5);
  for (int32_t i = 1; i < 80; ++i) step(10 * i, 1 + static_cast<int64_t>(random() % 250), random() % 3 == 0);
}

INSTANTIATE_TEST_SUITE_P(All, StreamRecordAside, testing::Combine(testing::Bool(), testing::Bool(),
                                                                  testing::Range<uint64_t>(0, 4)));

TEST_P(StreamAside, takes_no_library_calls) {
  cuda::MatrixProduct product;
  product.m = product.n = product.k = 1;
  stream_->begin_aside();
  cuda::matrix_product(*stream_, product);
  EXPECT_NE(std::string(stream_->failure()), "");
  stream_->end_aside();
}

INSTANTIATE_TEST_SUITE_P(EarlyAndLate, StreamAside, testing::Bool());

}  // namespace
}  // namespace skv::test
