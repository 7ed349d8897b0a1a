// The frame of the kernel tests: random and biased inputs, every SIMD target forced one by one, guarded buffers,
// comparison that prints what is needed to replay. A test file ends with SKV_KERNEL_TEST_MAIN(bench_function); run
// with --bench it also times the op (kernel_bench.h).
//
//   TEST(Rope, matches_reference) {
//     Random rng;                                  // seeded per test; SKV_TEST_SEED=n replays a failure
//     for_each_target([&] {                        // SetSupportedTargetsForTest, one target after another
//       Buffer<float> x(n);                        // ends at an unmapped page: reading past it crashes
//       fill_rows(rng, Fill::biased, DType::f32, x.data(), rows, cols);
//       ...
//       expect_close(got, want, 1e-5f * max_abs(want), "n=" + std::to_string(n));
//     });
//   }
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "kernels/common/dtype.h"
#include "tests/kernels/kernel_bench.h"
#include "tests/kernels/tested_ops.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(addr, size) ((void)(addr), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(addr, size) ((void)(addr), (void)(size))
#endif

namespace skv::test {

// One seed a process, from SKV_TEST_SEED or drawn; printed with the first failure of a test.
inline uint64_t seed() {
  static const uint64_t value = [] {
    const char* env = std::getenv("SKV_TEST_SEED");
    return env ? std::strtoull(env, nullptr, 0) : static_cast<uint64_t>(std::random_device{}());
  }();
  return value;
}

// Seeded by seed() and the running test's name, so a single test replays alone.
class Random {
 public:
  Random() : engine_(seed() ^ std::hash<std::string_view>{}(test_name())) {}
  int64_t integer(int64_t lo, int64_t hi) {  // [lo, hi]
    return std::uniform_int_distribution<int64_t>(lo, hi)(engine_);
  }
  float uniform(float lo, float hi) { return std::uniform_real_distribution<float>(lo, hi)(engine_); }
  float normal() { return std::normal_distribution<float>()(engine_); }
  bool chance(double p) { return std::bernoulli_distribution(p)(engine_); }
  template <class T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[integer(0, static_cast<int64_t>(choices.size()) - 1)];
  }

 private:
  static std::string test_name() {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    return info ? std::string(info->test_suite_name()) + "." + info->name() : "bench";
  }
  std::mt19937_64 engine_;
};

// n elements whose end lies as close to an unmapped page as the alignment allows; canaries fill the page before it
// and the slack after it, and ASan holds both poisoned. Contents start as random-looking bytes, so that unwritten
// output shows.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n, std::size_t align = 16) : n_(n) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
    align = std::max(align, alignof(T));
    body_ = (bytes + align - 1) / page * page + 2 * page;
    total_ = body_ + page;
    map_ = static_cast<unsigned char*>(
        mmap(nullptr, total_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (map_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(map_ + body_, page, PROT_NONE);
    begin_ = (body_ - bytes) / align * align;
    end_ = begin_ + bytes;
    std::memset(map_, kCanary, body_);
    show_to_ops(map_, body_);
    poison(true);
  }
  ~Buffer() {
    check();
    hide_from_ops(map_);
    munmap(map_, total_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return reinterpret_cast<T*>(map_ + begin_); }
  const T* data() const { return reinterpret_cast<const T*>(map_ + begin_); }
  int64_t size() const { return n_; }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }
  std::span<T> span() { return {data(), static_cast<std::size_t>(n_)}; }
  std::span<const T> span() const { return {data(), static_cast<std::size_t>(n_)}; }

  // Leaves the buffer unpoisoned when called by the destructor; call it earlier to name the place of a stray write.
  void check() {
    poison(false);
    const auto stray = [](unsigned char c) { return c != kCanary; };
    EXPECT_FALSE(std::any_of(map_, map_ + begin_, stray)) << "bytes before a buffer were overwritten";
    EXPECT_FALSE(std::any_of(map_ + end_, map_ + body_, stray)) << "bytes after a buffer were overwritten";
  }

 private:
  static constexpr unsigned char kCanary = 0xa5;
  void poison(bool on) {
    if (on) {
      ASAN_POISON_MEMORY_REGION(map_, begin_);
      ASAN_POISON_MEMORY_REGION(map_ + end_, body_ - end_);
    } else {
      ASAN_UNPOISON_MEMORY_REGION(map_, body_);
    }
  }
  unsigned char* map_ = nullptr;
  std::size_t body_ = 0, total_ = 0, begin_ = 0, end_ = 0;
  int64_t n_ = 0;
};

// Address space without memory behind it until touched: for strides whose offsets pass 2^31 elements.
class SparseRegion {
 public:
  // huge_pages: as the library's own allocator asks for; benchmarks do.
  explicit SparseRegion(std::size_t bytes, bool huge_pages = false) : bytes_(bytes) {
    map_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map_ == MAP_FAILED) throw std::bad_alloc();
    if (huge_pages) madvise(map_, bytes, MADV_HUGEPAGE);
  }
  ~SparseRegion() { munmap(map_, bytes_); }
  SparseRegion(const SparseRegion&) = delete;
  SparseRegion& operator=(const SparseRegion&) = delete;
  char* at(int64_t byte) { return static_cast<char*>(map_) + byte; }

 private:
  void* map_ = nullptr;
  std::size_t bytes_ = 0;
};

enum class Fill {
  normal,    // N(0, 1)
  ties,      // rows drawn from three distinct ones
  extremes,  // magnitudes from 1e-30 to 1e4, zeros of both signs
  biased,    // a bias per column, 100 times the spread
  zeros,
};
inline constexpr Fill kAllFills[] = {Fill::normal, Fill::ties, Fill::extremes, Fill::biased, Fill::zeros};

inline const char* fill_name(Fill fill) {
  constexpr const char* names[] = {"normal", "ties", "extremes", "biased", "zeros"};
  return names[static_cast<int>(fill)];
}

// Like skv::store_f32, and f16 too (rounded toward zero; no subnormals), which the library only ever reads.
inline void store_any(void* base, DType t, int64_t i, float v) {
  if (t != DType::f16) return store_f32(base, t, i, v);
  const uint32_t u = std::bit_cast<uint32_t>(v);
  const int32_t exponent = static_cast<int32_t>((u >> 23) & 0xff) - 112;
  uint32_t h = (u >> 16) & 0x8000u;
  if (exponent >= 31) h |= 0x7bffu;
  else if (exponent > 0) h |= (static_cast<uint32_t>(exponent) << 10) | ((u >> 13) & 0x3ffu);
  static_cast<uint16_t*>(base)[i] = static_cast<uint16_t>(h);
}

// rows x cols contiguous elements of dtype. scale multiplies everything.
inline void fill_rows(Random& rng, Fill fill, DType dtype, void* dst, int64_t rows, int64_t cols,
                      float scale = 1.0f) {
  std::vector<float> bias(static_cast<std::size_t>(cols));
  std::vector<float> distinct(static_cast<std::size_t>(3 * cols));
  for (float& b : bias) b = 100.0f * rng.normal();
  for (float& x : distinct) x = rng.normal();
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t twin = rng.integer(0, 2);
    for (int64_t j = 0; j < cols; ++j) {
      float x = 0.0f;
      switch (fill) {
        case Fill::normal: x = rng.normal(); break;
        case Fill::ties: x = distinct[static_cast<std::size_t>(twin * cols + j)]; break;
        case Fill::extremes: x = rng.pick({0.0f, -0.0f, 1e-30f, -1e-30f, 1.0f, -1.0f, 1e4f, -1e4f}); break;
        case Fill::biased: x = bias[static_cast<std::size_t>(j)] + rng.normal(); break;
        case Fill::zeros: break;
      }
      store_any(dst, dtype, i * cols + j, scale * x);
    }
  }
}

inline float max_abs(std::span<const float> x) {
  float m = 0.0f;
  for (float v : x) m = std::max(m, std::fabs(v));
  return m;
}

// |got - want| <= tolerance everywhere; NaN matches only NaN and an infinity only itself. params: shape, dtype, fill.
inline void expect_close(std::span<const float> got, std::span<const float> want, float tolerance,
                         const std::string& params) {
  ASSERT_EQ(got.size(), want.size()) << params;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const bool same = got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]));
    const bool close = std::isfinite(want[i]) && std::fabs(got[i] - want[i]) <= tolerance;
    ASSERT_TRUE(same || close) << "index " << i << ": got " << got[i] << ", want " << want[i] << ", tolerance "
                               << tolerance << "; " << params;
  }
}

// Bit-equal, for determinism and copying ops.
inline void expect_same_bytes(const void* got, const void* want, std::size_t bytes, const std::string& params) {
  if (bytes == 0) return;
  const auto *g = static_cast<const unsigned char*>(got), *w = static_cast<const unsigned char*>(want);
  const auto [a, b] = std::mismatch(g, g + bytes, w);
  ASSERT_TRUE(a == g + bytes) << "byte " << (a - g) << " of " << bytes << " differs; " << params;
}

// Runs fn once per variant of the ops under test: per SIMD target, or per order of threads.
template <class Fn>
void for_each_target(Fn&& fn) {
  for_each_variant([&](const char* name) {
    SCOPED_TRACE(std::string("variant ") + name);
    fn();
  });
}

// Runs fn with the OpenMP team size that results must not depend on.
template <class Fn>
void with_threads(int n, Fn&& fn) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(n);
  fn();
  omp_set_num_threads(before);
}

class SeedPrinter : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (result.failed()) std::fprintf(stderr, "replay with SKV_TEST_SEED=%llu\n", (unsigned long long)seed());
  }
};

// Tests first; --bench adds the timings, and only if every test passed.
inline int kernel_test_main(int argc, char** argv, void (*bench)()) {
  ::testing::InitGoogleTest(&argc, argv);
  ::testing::UnitTest::GetInstance()->listeners().Append(new SeedPrinter);
  const bool wanted = parse_bench_flags(argc, argv);
  const int rc = RUN_ALL_TESTS();
  if (rc == 0 && wanted) bench();
  return rc;
}

}  // namespace skv::test

#if defined(SKV_ONE_TEST_PROGRAM)  // of all tests, without benchmarks; its main() is elsewhere
#define SKV_KERNEL_TEST_MAIN(bench) [[maybe_unused]] static void (*const skv_unused_bench)() = bench;
#else
#define SKV_KERNEL_TEST_MAIN(bench) \
  int main(int argc, char** argv) { return skv::test::kernel_test_main(argc, argv, bench); }
#endif
