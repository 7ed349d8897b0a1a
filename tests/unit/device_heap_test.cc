// Promises of lib/device/block_heap.h: spans never overlap and never leave their block, nothing is lost, wholly free
// blocks go back, the memory itself is never touched, and a refusal (of a block or of bookkeeping) changes nothing.
#include "lib/device/block_heap.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <map>
#include <new>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace {

// The next operator new after this many fails; negative: none does.
int64_t g_news_before_failure = -1;

void* counted_new(std::size_t bytes) {
  if (g_news_before_failure == 0) throw std::bad_alloc();
  if (g_news_before_failure > 0) --g_news_before_failure;
  void* p = std::malloc(bytes == 0 ? 1 : bytes);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(std::size_t bytes) { return counted_new(bytes); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace skv::device {
namespace {

constexpr int64_t kBlock = 1 << 20, kUnit = 1 << 16, kGranule = 256;

// Address space that nobody may touch, handed out from its start, so that blocks are often neighbours.
class Blocks {
 public:
  Blocks() {
    void* p = mmap(nullptr, kRoom, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(p, MAP_FAILED);
    base_ = static_cast<char*>(p);
  }
  ~Blocks() { munmap(base_, kRoom); }

  BlockCalls calls() {
    return {[this](int64_t bytes) { return allocate(bytes); }, [this](void* p) { free(p); }};
  }
  // The block that holds [p, p + bytes), or -1.
  int64_t holds(const void* p, int64_t bytes) const {
    const int64_t at = static_cast<const char*>(p) - base_;
    for (const auto& [start, size] : live) {
      if (at >= start && at + bytes <= start + size) return start;
    }
    return -1;
  }
  int64_t held() const {
    int64_t sum = 0;
    for (const auto& [start, size] : live) sum += size;
    return sum;
  }

  std::map<int64_t, int64_t> live;  // start, bytes
  int64_t asked = 0;
  int64_t limit = std::numeric_limits<int64_t>::max();

 private:
  static constexpr int64_t kRoom = int64_t{1} << 36;

  void* allocate(int64_t bytes) {
    ++asked;
    if (held() + bytes > limit) return nullptr;
    int64_t at = 0;
    for (const auto& [start, size] : live) {
      if (start - at >= bytes) break;
      at = start + size;
    }
    if (at + bytes > kRoom) return nullptr;
    const int64_t news = g_news_before_failure;
    g_news_before_failure = -1;  // the test's own bookkeeping
    live[at] = bytes;
    g_news_before_failure = news;
    return base_ + at;
  }
  void free(void* p) { EXPECT_EQ(live.erase(static_cast<char*>(p) - base_), 1u); }

  char* base_ = nullptr;
};

TEST(BlockHeap, CarvesTheBestFitAndMergesNeighbours) {
  Blocks blocks;
  BlockHeap heap(blocks.calls(), kBlock, kUnit, kGranule);
  EXPECT_EQ(heap.allocate(0, true), nullptr);
  EXPECT_EQ(heap.allocate(-1, true), nullptr);
  EXPECT_EQ(heap.allocate(1, false), nullptr);
  EXPECT_EQ(blocks.asked, 0);
  char* a = static_cast<char*>(heap.allocate(1, true));
  char* b = static_cast<char*>(heap.allocate(1000, true));
  char* c = static_cast<char*>(heap.allocate(256, true));
  char* d = static_cast<char*>(heap.allocate(512, true));
  EXPECT_EQ(b, a + 256);
  EXPECT_EQ(c, b + 1024);
  EXPECT_EQ(d, c + 256);
  EXPECT_EQ(heap.used_bytes(), 256 + 1024 + 256 + 512);
  EXPECT_EQ(heap.held_bytes(), kBlock);
  heap.free(a);
  heap.free(c);
  EXPECT_EQ(heap.allocate(200, true), a);  // the smallest that fits, the lowest address
  EXPECT_EQ(heap.allocate(200, true), c);
  heap.free(c);
  heap.free(b);  // one span with c
  EXPECT_EQ(heap.allocate(1280, true), b);
  heap.free(a);
  heap.free(b);
  heap.free(nullptr);
  EXPECT_EQ(heap.held_bytes(), kBlock);
  heap.free(d);
  EXPECT_EQ(heap.held_bytes(), 0);
  EXPECT_TRUE(blocks.live.empty());
  EXPECT_EQ(heap.peak_slack_bytes(), kBlock - 256);
}

TEST(BlockHeap, NeighbouringBlocksStayApart) {
  Blocks blocks;
  BlockHeap heap(blocks.calls(), kBlock, kUnit, kGranule);
  char* a = static_cast<char*>(heap.allocate(kBlock, true));
  char* b = static_cast<char*>(heap.allocate(kBlock, true));
  char* c = static_cast<char*>(heap.allocate(kBlock - kGranule, true));
  ASSERT_EQ(b, a + kBlock);
  ASSERT_EQ(c, b + kBlock);
  heap.free(b);
  EXPECT_EQ(blocks.live.size(), 2u);
  heap.free(a);
  EXPECT_EQ(blocks.live.size(), 1u);
  EXPECT_NE(heap.allocate(kGranule, false), nullptr);
  heap.free(c);
  EXPECT_EQ(heap.held_bytes(), kBlock);
}

TEST(BlockHeap, LargeRequestsGetABlockOfTheirSize) {
  Blocks blocks;
  BlockHeap heap(blocks.calls(), kBlock, kUnit, kGranule);
  void* p = heap.allocate(3 * kBlock + 1, true);
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(heap.held_bytes(), 3 * kBlock + kUnit);
  EXPECT_EQ(heap.used_bytes(), 3 * kBlock + kGranule);
  EXPECT_EQ(heap.allocate(std::numeric_limits<int64_t>::max(), true), nullptr);
  EXPECT_EQ(heap.allocate(std::numeric_limits<int64_t>::max() - kGranule, true), nullptr);
  EXPECT_EQ(heap.held_bytes(), 3 * kBlock + kUnit);
  heap.free(p);
  EXPECT_EQ(heap.held_bytes(), 0);
}

TEST(BlockHeap, RefusedBlocksChangeNothing) {
  Blocks blocks;
  blocks.limit = kBlock;
  BlockHeap heap(blocks.calls(), kBlock, kUnit, kGranule);
  void* p = heap.allocate(kBlock / 2, true);
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(heap.allocate(kBlock, true), nullptr);
  EXPECT_EQ(heap.used_bytes(), kBlock / 2);
  EXPECT_EQ(heap.held_bytes(), kBlock);
  void* q = heap.allocate(kBlock / 2, false);
  EXPECT_NE(q, nullptr);
  heap.free(p);
  heap.free(q);
  EXPECT_TRUE(blocks.live.empty());
}

TEST(BlockHeap, RefusedBookkeepingChangesNothing) {
  Blocks blocks;
  BlockHeap heap(blocks.calls(), kBlock, kUnit, kGranule);
  void* kept = heap.allocate(100, true);
  for (const int64_t bytes : {int64_t{1000}, 2 * kBlock, 2 * kBlock + 1}) {
    const int64_t used = heap.used_bytes(), held = heap.held_bytes();
    int refused = 0;
    void* p = nullptr;
    for (int64_t news = 0; p == nullptr && news < 100; ++news) {
      g_news_before_failure = news;
      p = heap.allocate(bytes, true);
      g_news_before_failure = -1;
      if (p != nullptr) break;
      ++refused;
      ASSERT_EQ(heap.used_bytes(), used);
      ASSERT_EQ(heap.held_bytes(), held) << news;
      ASSERT_EQ(blocks.held(), held);
    }
    EXPECT_GT(refused, 0);
    g_news_before_failure = 0;  // freeing needs none
    heap.free(p);
    g_news_before_failure = -1;
    EXPECT_EQ(heap.used_bytes(), used);
    EXPECT_EQ(heap.held_bytes(), held);
  }
  heap.free(kept);
  EXPECT_TRUE(blocks.live.empty());
}

TEST(BlockHeap, RandomTrafficAgreesWithAModel) {
  Blocks blocks;
  int64_t peak_slack = 0, peak_used = 0;
  {
    BlockHeap heap(blocks.calls(), kBlock, kUnit, kGranule);
    std::map<char*, int64_t> model;  // live spans, as rounded
    std::mt19937 random(7);
    for (int i = 0; i < 30000; ++i) {
      const bool growing = i / 3000 % 2 == 0;  // waves
      if (model.empty() || random() % 100 < (growing ? 65u : 35u)) {
        const int shift = static_cast<int>(random() % 22);
        const auto bytes = static_cast<int64_t>(1 + random() % (uint64_t{1} << shift));
        char* p = static_cast<char*>(heap.allocate(bytes, true));
        ASSERT_NE(p, nullptr);
        const int64_t rounded = (bytes + kGranule - 1) / kGranule * kGranule;
        ASSERT_EQ(reinterpret_cast<std::uintptr_t>(p) % kGranule, 0u);
        ASSERT_GE(blocks.holds(p, rounded), 0);
        const auto next = model.lower_bound(p);
        ASSERT_TRUE(next == model.end() || p + rounded <= next->first);
        ASSERT_TRUE(next == model.begin() || std::prev(next)->first + std::prev(next)->second <= p);
        model[p] = rounded;
      } else {
        auto victim = model.begin();
        std::advance(victim, static_cast<int64_t>(random() % model.size()));
        heap.free(victim->first);
        model.erase(victim);
      }
      int64_t used = 0;
      std::map<int64_t, int64_t> by_block;
      if (i % 50 == 0) {
        for (const auto& [p, bytes] : model) by_block[blocks.holds(p, bytes)] += bytes, used += bytes;
        ASSERT_EQ(heap.used_bytes(), used);
        ASSERT_EQ(by_block.size(), blocks.live.size()) << "a block without use is held";
      }
      ASSERT_EQ(heap.held_bytes(), blocks.held());
      peak_slack = std::max(peak_slack, heap.held_bytes() - heap.used_bytes());
      peak_used = std::max(peak_used, heap.used_bytes());
    }
    // Within a call it may have been higher by the span that was split.
    EXPECT_GE(heap.peak_slack_bytes(), peak_slack);
    EXPECT_LE(peak_slack, peak_used / 2) << "fragmentation";
    for (const auto& [p, bytes] : model) heap.free(p);
    EXPECT_EQ(heap.held_bytes(), 0);
    EXPECT_EQ(heap.used_bytes(), 0);
    EXPECT_NE(heap.allocate(5, true), nullptr);  // given back by the destructor
  }
  EXPECT_TRUE(blocks.live.empty());
}

}  // namespace
}  // namespace skv::device
