// Conformance of the wrappers in kernels/common/cuda/ptx.cuh with the PTX ISA's tables: the same program runs where a
// host executes kernels and on a GPU. What is expected is written out or follows from the tables, never from a
// wrapper.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "tests/cuda_host/ptx_kernels.h"

namespace skv::test {
namespace {

constexpr int kLanes = 32;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::size_t at(int i) { return static_cast<std::size_t>(i); }

class Ptx : public ::testing::Test {
 protected:
  Ptx() : stream_(make_stream(), {}, nullptr) {}
  ~Ptx() override {
    stream_.wait();
    EXPECT_STREQ(stream_.failure(), "");
    for (void* p : allocated_) cudaFree(p);
  }
  template <class T>
  T* device(const std::vector<T>& values) {
    void* p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, values.size() * sizeof(T)), cudaSuccess);
    allocated_.push_back(p);
    stream_.copy(p, values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
    stream_.wait();
    return static_cast<T*>(p);
  }
  template <class T>
  std::vector<T> host(const T* p, std::size_t n) {
    std::vector<T> values(n);
    stream_.download(values.data(), p, static_cast<int64_t>(n * sizeof(T)));
    return values;
  }
  // f(n, in..., out) over vectors of equal size.
  template <class Out, class F, class... In>
  std::vector<Out> map(F f, const std::vector<In>&... in) {
    const std::size_t n = std::max({in.size()...});
    Out* out = device(std::vector<Out>(n));
    f(stream_, static_cast<int>(n), device(in)..., out);
    return host(out, n);
  }

  cuda::Stream stream_;

 private:
  static cudaStream_t make_stream() {
    static cudaStream_t stream = [] {
      cudaStream_t made = nullptr;
      cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
      return made;
    }();
    return stream;
  }
  std::vector<void*> allocated_;
};

// Integers in [-8, 8], exact in bf16, no two rows or columns alike.
float integer(int row, int column, int salt) {
  return static_cast<float>((row * 7 + column * 11 + row * column * 3 + salt) % 17 - 8);
}
uint32_t bf16_bits(float exact) { return std::bit_cast<uint32_t>(exact) >> 16; }

// PTX ISA, matrix fragments for mma.m16n8k16, .bf16: with groupID = lane >> 2, threadID_in_group = lane % 4
//   a_i: row groupID for i < 2 or 4 <= i < 6, else groupID + 8;
//        column threadID_in_group * 2 + (i & 1), + 8 for i >= 4
//   b_i: row threadID_in_group * 2 + (i & 1), + 8 for i >= 2; column groupID
//   c_i: row groupID for i < 2, else groupID + 8; column threadID_in_group * 2 + (i & 1)
// a_i and b_i are the halves of the registers, the lower half first.
TEST_F(Ptx, mma_bf16_has_the_fragments_of_the_table) {
  std::vector<uint32_t> a(4 * kLanes, 0), b(2 * kLanes, 0);
  std::vector<float> c(4 * kLanes);
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane >> 2, thread = lane % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
      const int column = thread * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      a[at(4 * lane + i / 2)] |= bf16_bits(integer(row, column, 1)) << (16 * (i % 2));
    }
    for (int i = 0; i < 4; ++i) {
      const int row = thread * 2 + (i & 1) + (i >= 2 ? 8 : 0);
      b[at(2 * lane + i / 2)] |= bf16_bits(integer(row, group, 5)) << (16 * (i % 2));
      c[at(4 * lane + i)] = 1000.0f * integer(i < 2 ? group : group + 8, thread * 2 + (i & 1), 9);
    }
  }
  float* d = device(c);
  launch_mma(stream_, device(a), device(b), d);
  const std::vector<float> got = host(d, c.size());
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane >> 2, thread = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? group : group + 8, column = thread * 2 + (i & 1);
      float want = 1000.0f * integer(row, column, 9);
      for (int k = 0; k < 16; ++k) want += integer(row, k, 1) * integer(k, column, 5);
      EXPECT_EQ(got[at(4 * lane + i)], want) << "lane " << lane << " d" << i;
    }
  }
}

TEST_F(Ptx, mma_bf16_keeps_infinities_and_nan) {
  std::vector<uint32_t> a(4 * kLanes, 0), b(2 * kLanes, 0x3f803f80u);  // b: ones
  a[0] = bf16_bits(kInf);                                              // row 0
  a[at(4 * 4)] = bf16_bits(kNan);                                      // row 1
  a[at(4 * 8)] = bf16_bits(-kInf);                                     // row 2
  float* d = device(std::vector<float>(4 * kLanes, 1.0f));
  launch_mma(stream_, device(a), device(b), d);
  const std::vector<float> got = host(d, 4 * kLanes);
  EXPECT_EQ(got[0], kInf);
  EXPECT_TRUE(std::isnan(got[at(4 * 4)]));
  EXPECT_EQ(got[at(4 * 8)], -kInf);
  EXPECT_EQ(got[at(4 * 12)], 1.0f);
  EXPECT_EQ(got[2], 1.0f);  // row 8
}

// PTX ISA, ldmatrix: threads 0-7 give the rows of the first matrix, 8-15 of the second, ...; of each matrix thread t
// holds elements 2 (t % 4) and 2 (t % 4) + 1 of row t / 4 in one register; .trans: of column t / 4.
TEST_F(Ptx, ldmatrix_has_the_fragments_of_the_table) {
  std::vector<uint8_t> image(2048, 0xff);
  std::vector<int32_t> rows(kLanes);
  const auto value = [](int matrix, int row, int column) {
    return static_cast<uint16_t>(matrix * 1000 + row * 10 + column);
  };
  for (int lane = 0; lane < kLanes; ++lane) {
    rows[at(lane)] = 16 * (lane * 37 % 128);  // anywhere, as long as it is aligned
    for (int column = 0; column < 8; ++column) {
      const uint16_t x = value(lane / 8, lane % 8, column);
      std::memcpy(image.data() + rows[at(lane)] + 2 * column, &x, 2);
    }
  }
  for (const bool transposed : {false, true}) {
    uint32_t* r = device(std::vector<uint32_t>(4 * kLanes));
    launch_ldmatrix(stream_, device(image), device(rows), transposed, r);
    const std::vector<uint32_t> got = host(r, 4 * kLanes);
    for (int lane = 0; lane < kLanes; ++lane) {
      const int outer = lane / 4, inner = 2 * (lane % 4);
      for (int matrix = 0; matrix < 4; ++matrix) {
        const uint32_t lo = transposed ? value(matrix, inner, outer) : value(matrix, outer, inner);
        const uint32_t hi = transposed ? value(matrix, inner + 1, outer) : value(matrix, outer, inner + 1);
        EXPECT_EQ(got[at(4 * lane + matrix)], hi << 16 | lo) << "lane " << lane << " matrix " << matrix;
      }
    }
  }
}

TEST_F(Ptx, cp_async_groups_are_there_after_their_wait) {
  const auto words = [](const uint4& v) { return std::vector<uint32_t>{v.x, v.y, v.z, v.w}; };
  const std::vector<uint4> from = {{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}};
  for (const bool valid : {true, false}) {
    uint4* out = device(std::vector<uint4>(3));
    // Where it is not valid the third source is one past the end: it is not read.
    const std::vector<uint4> given(from.begin(), from.begin() + (valid ? 3 : 2));
    launch_cp_async(stream_, device(given), valid, out);
    const std::vector<uint4> got = host(out, 3);
    EXPECT_EQ(words(got[0]), words(from[0]));
    EXPECT_EQ(words(got[1]), words(from[1]));
    EXPECT_EQ(words(got[2]), valid ? words(from[2]) : std::vector<uint32_t>(4, 0));
  }
}

// cvt.rn.bf16x2.f32 d, a, b: a in the upper half, b in the lower; to nearest even, subnormals kept, NaN canonical.
TEST_F(Ptx, pack_bf16x2_rounds_to_nearest_even) {
  const std::vector<std::pair<uint32_t, uint32_t>> vectors = {
      {0x3f800000, 0x3f80}, {0xc0000000, 0xc000}, {0x80000000, 0x8000}, {0x00000000, 0x0000},
      {0x3f808000, 0x3f80},  // tie: down to even
      {0x3f818000, 0x3f82},  // tie: up to even
      {0x3f808001, 0x3f81}, {0x3f807fff, 0x3f80}, {0xbf818000, 0xbf82},
      {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, {0x7f7f7fff, 0x7f7f},
      {0x7f7f8000, 0x7f80},  // beyond the largest: infinity
      {0x7f7fffff, 0x7f80}, {0xff7fffff, 0xff80},
      {0x00010000, 0x0001}, {0x00008000, 0x0000}, {0x00008001, 0x0001}, {0x00018000, 0x0002}, {0x807f8000, 0x8080},
      {0x7fc00000, 0x7fff}, {0x7f800001, 0x7fff}, {0xffc00000, 0x7fff},  // NaN
  };
  std::vector<float> lo, hi;
  const std::size_t n = vectors.size();
  for (std::size_t i = 0; i < n; ++i) {
    lo.push_back(std::bit_cast<float>(vectors[i].first));
    hi.push_back(std::bit_cast<float>(vectors[(i + 5) % n].first));
  }
  const std::vector<uint32_t> got = map<uint32_t>(launch_pack_bf16x2, lo, hi);
  for (std::size_t i = 0; i < n; ++i) {
    EXPECT_EQ(got[i] & 0xffffu, vectors[i].second) << "vector " << i;
    EXPECT_EQ(got[i] >> 16, vectors[(i + 5) % n].second) << "vector " << i;
  }
}

// The value of an f16 by its definition in IEEE 754.
double f16_value(uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 10 & 0x1f), mantissa = static_cast<int>(bits & 0x3ff);
  const double magnitude = exponent == 31  ? (mantissa == 0 ? HUGE_VAL : std::nan(""))
                           : exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST_F(Ptx, f16_to_float_is_exact_for_every_value) {
  std::vector<uint16_t> x(65536);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint16_t>(i);
  const std::vector<float> got = map<float>(launch_f16_to_float, x);
  for (uint32_t i = 0; i < 65536; ++i) {
    const double want = f16_value(i);
    if (std::isnan(want)) ASSERT_TRUE(std::isnan(got[i])) << i;
    else ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(static_cast<float>(want))) << i;
  }
}

// Every f16, and the middle to the next one (to the even of both), and just beside it.
TEST_F(Ptx, float_to_f16_rounds_to_nearest_even) {
  std::vector<float> x;
  std::vector<uint32_t> want;
  const auto add = [&](double value, uint32_t bits) {
    x.push_back(static_cast<float>(value));
    want.push_back(bits);
    x.push_back(static_cast<float>(-value));
    want.push_back(bits | 0x8000);
  };
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const double value = f16_value(bits), next = bits == 0x7bff ? 65536.0 : f16_value(bits + 1);
    const float middle = static_cast<float>((value + next) / 2);
    add(value, bits);
    add(middle, bits + (bits & 1u));
    add(std::nextafter(middle, 0.0f), bits);
    add(std::nextafter(middle, kInf), bits + 1);
  }
  add(kInf, 0x7c00);
  add(1e30, 0x7c00);
  const std::vector<uint16_t> got = map<uint16_t>(launch_float_to_f16, x);
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(uint32_t{got[i]}, want[i]) << x[i];
  const std::vector<uint16_t> nan = map<uint16_t>(launch_float_to_f16, std::vector<float>{kNan, -kNan});
  EXPECT_EQ(nan, std::vector<uint16_t>(2, 0x7fff));
}

// PTX ISA, ex2.approx.ftz.f32: relative error at most 2^-22; subnormal inputs count as zero, such results are zero.
TEST_F(Ptx, exp2_approx_keeps_its_error_and_special_values) {
  const float subnormal = 0x1p-130f;
  const std::vector<float> special = {-kInf, -subnormal, -0.0f, 0.0f, subnormal, kInf, 128.0f, -127.5f, -200.0f};
  const std::vector<float> want = {0.0f, 1.0f, 1.0f, 1.0f, 1.0f, kInf, kInf, 0.0f, 0.0f};
  const std::vector<float> got = map<float>(launch_exp2_approx, special);
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_EQ(got[i], want[i]) << special[i];
  EXPECT_TRUE(std::isnan(map<float>(launch_exp2_approx, std::vector<float>{kNan})[0]));
  std::vector<float> x;
  for (int i = 0; i < 4096; ++i) x.push_back(-125.9f + 253.7f * static_cast<float>(i) / 4096.0f);
  const std::vector<float> y = map<float>(launch_exp2_approx, x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp2(static_cast<double>(x[i]));
    ASSERT_LE(std::fabs(static_cast<double>(y[i]) - exact), 0x1p-22 * exact) << x[i];
  }
}

TEST_F(Ptx, load_once_loads_16_bytes) {
  std::vector<uint4> x;
  for (uint32_t i = 0; i < 100; ++i) x.push_back(uint4{i, i + 1000, ~i, i * i});
  const std::vector<uint4> got = map<uint4>(launch_load_once, x);
  EXPECT_EQ(std::memcmp(got.data(), x.data(), x.size() * sizeof(uint4)), 0);
}

// PTX ISA, shfl.sync: with segments of width lanes, a source outside of the lane's own segment gives the lane its own
// value back, except that a lower segment may be read by bfly.
TEST_F(Ptx, shuffles_follow_the_table) {
  uint32_t* out = device(std::vector<uint32_t>(kShuffles * kLanes));
  launch_shuffles(stream_, out);
  const std::vector<uint32_t> got = host(out, kShuffles * kLanes);
  for (int lane = 0; lane < kLanes; ++lane) {
    const int first = lane & ~7, last = first + 7;
    const int from[kShuffles] = {
        lane * 3 % 32,
        first | ((lane + 1) & 7),
        lane - 3 >= 0 ? lane - 3 : lane,
        lane - 3 >= first ? lane - 3 : lane,
        lane + 3 <= 31 ? lane + 3 : lane,
        lane + 3 <= last ? lane + 3 : lane,
        lane ^ 5,
        (lane ^ 9) <= last ? lane ^ 9 : lane,
    };
    for (int i = 0; i < kShuffles; ++i) {
      EXPECT_EQ(got[at(32 * i + lane)], 100u + static_cast<uint32_t>(from[i])) << "shuffle " << i << " lane " << lane;
    }
  }
}

TEST_F(Ptx, votes_and_matches) {
  uint32_t* out = device(std::vector<uint32_t>(kVotes * kLanes));
  launch_votes(stream_, out);
  const std::vector<uint32_t> got = host(out, kVotes * kLanes);
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint32_t fives = lane / 5 == 6 ? 0xc0000000u : 0x1fu << (lane / 5 * 5);
    const uint32_t want[kVotes] = {0x49249249u, 1, 0, 1, 0, fives};
    for (int i = 0; i < kVotes; ++i) EXPECT_EQ(got[at(32 * i + lane)], want[i]) << "vote " << i << " lane " << lane;
  }
  uint32_t* block = device(std::vector<uint32_t>(3));
  launch_block_votes(stream_, block);
  EXPECT_EQ(host(block, 3), (std::vector<uint32_t>{16, 1, 0}));
}

TEST_F(Ptx, reductions_over_a_warp) {
  uint32_t* out = device(std::vector<uint32_t>(kReductions * kLanes));
  launch_reductions(stream_, out);
  const std::vector<uint32_t> got = host(out, kReductions * kLanes);
  const uint32_t want[kReductions] = {0xfffffff0u, 0xfffffff0u, 15, 0xffffffffu, 4, 6, 0xffffffffu};
  for (int i = 0; i < kReductions * kLanes; ++i) {
    EXPECT_EQ(got[at(i)], want[i / kLanes]) << "reduction " << i / kLanes;
  }
}

TEST_F(Ptx, atomics_return_what_was_there) {
  uint32_t *word = device(std::vector<uint32_t>{10}), *out = device(std::vector<uint32_t>(11));
  launch_atomics(stream_, word, out);
  EXPECT_EQ(host(out, 11), (std::vector<uint32_t>{10, 15, 12, 20, 7, 6, 15, 12, 100, 42, 42}));
}

TEST_F(Ptx, bits_and_bytes) {
  uint32_t* out = device(std::vector<uint32_t>(16));
  launch_bits(stream_, out);
  EXPECT_EQ(host(out, 16), (std::vector<uint32_t>{0x1e6a2c48u, 32, 31, 63, 0, 4, 41, 8, 64, 0x77553311u, 0x0000ff80u,
                                                  3, 0x80000001u, 1, 3, 1027}));
}

TEST_F(Ptx, conversions_to_integers_round_as_named_and_saturate) {
  const std::vector<float> x = {2.5f, 3.5f, -2.5f, 2.1f, -2.7f, kNan, kInf, -kInf, 3e9f};
  int32_t* out = device(std::vector<int32_t>(5 * x.size()));
  launch_conversions(stream_, static_cast<int>(x.size()), device(x), out);
  constexpr int32_t kMax = std::numeric_limits<int32_t>::max(), kMin = std::numeric_limits<int32_t>::min();
  const std::vector<int32_t> want = {
      2, 2, 2, 3, 2, 4, 3, 3, 4, 4, -2, -2, -3, -2, 0, 2, 2, 2, 3, 2, -3, -2, -3, -2, 0, 0, 0, 0, 0, 0,
      kMax, kMax, kMax, kMax, -1,                                  // the last unsigned: 2^32 - 1
      kMin, kMin, kMin, kMin, 0,
      kMax, kMax, kMax, kMax, static_cast<int32_t>(3000000000u),
  };
  EXPECT_EQ(host(out, want.size()), want);
}

}  // namespace
}  // namespace skv::test
