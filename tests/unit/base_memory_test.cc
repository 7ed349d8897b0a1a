// Promises of lib/base/memory.h: limits hold under concurrency, failures refund, what is charged is what is mapped.
#include "lib/base/memory.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lib/base/status.h"
#include "tests/unit/error_of.h"

namespace skv {
namespace {

using test::error_of;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

// Pages of address space of this process, without allocating.
int64_t mapped_pages() {
  long pages = -1;
  std::FILE* statm = std::fopen("/proc/self/statm", "r");
  if (statm == nullptr || std::fscanf(statm, "%ld", &pages) != 1) pages = -1;
  if (statm != nullptr) std::fclose(statm);
  return pages;
}

TEST(ChargedBytes, RoundsSmallBlocksTo64AndMappedOnesToPages) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t threshold = kMapThreshold;
  EXPECT_EQ(charged_bytes(-5), 0);
  EXPECT_EQ(charged_bytes(0), 0);
  EXPECT_EQ(charged_bytes(1), 64);
  EXPECT_EQ(charged_bytes(64), 64);
  EXPECT_EQ(charged_bytes(65), 128);
  EXPECT_EQ(charged_bytes(threshold - 1), threshold);
  EXPECT_EQ(charged_bytes(threshold), threshold);
  EXPECT_EQ(charged_bytes(threshold + 1), threshold + page);
  EXPECT_EQ(charged_bytes(kMax), kMax);
  EXPECT_EQ(charged_bytes(kMax - 1), kMax);
}

TEST(CheckedBytes, RefusesProductsBeyond64Bits) {
  EXPECT_EQ(checked_bytes(3, 8), 24);
  EXPECT_EQ(checked_bytes(0, 8), 0);
  EXPECT_EQ(error_of([] { checked_bytes(kMax / 8 + 1, 8); }).code(), SKV_E_NOMEM);
  EXPECT_EQ(error_of([] { checked_bytes(-1, 8); }).code(), SKV_E_NOMEM);
  MemoryAccount account;
  EXPECT_EQ(error_of([&] { TaggedArray<int64_t>(account, SKV_TIER_FAST, SKV_PURPOSE_OTHER, kMax / 4); }).code(),
            SKV_E_NOMEM);
  EXPECT_EQ(account.used(SKV_TIER_FAST), 0);
}

TEST(MemoryAccount, CountsByTierAndPurposeUpTheTree) {
  MemoryAccount runtime;
  MemoryAccount a(&runtime), b(&runtime);
  a.charge(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 100);
  b.charge(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 20);
  b.charge(SKV_TIER_SLOW, SKV_PURPOSE_VALUES, 7);
  EXPECT_EQ(a.used(SKV_TIER_FAST, SKV_PURPOSE_SLOTS), 100);
  EXPECT_EQ(a.used(SKV_TIER_SLOW), 0);
  EXPECT_EQ(runtime.used(SKV_TIER_FAST, SKV_PURPOSE_SLOTS), 120);
  EXPECT_EQ(runtime.used(SKV_TIER_FAST), 120);
  EXPECT_EQ(runtime.used(SKV_TIER_SLOW, SKV_PURPOSE_VALUES), 7);
  a.release(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 100);
  EXPECT_EQ(a.used(SKV_TIER_FAST), 0);
  EXPECT_EQ(a.used(SKV_TIER_FAST, SKV_PURPOSE_SLOTS), 0);
  EXPECT_EQ(a.peak(SKV_TIER_FAST), 100);
  EXPECT_EQ(runtime.used(SKV_TIER_FAST), 20);
  EXPECT_EQ(runtime.peak(SKV_TIER_FAST), 120);
}

TEST(MemoryAccount, RefusalNamesTierNumbersAndOwner) {
  MemoryAccount session(nullptr, "session");
  session.set_limit(SKV_TIER_FAST, 4000000);
  session.charge(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 3145728);
  const Error error = error_of([&] { session.charge(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 1048576); });
  EXPECT_EQ(error.code(), SKV_E_BUDGET);
  EXPECT_STREQ(error.what(), "fast tier: 1048576 bytes asked, 3145728 used, limit 4000000 (session)");
  session.charge(SKV_TIER_SLOW, SKV_PURPOSE_VALUES, 1048576);  // another tier has its own limit
  session.charge(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 4000000 - 3145728);
  EXPECT_EQ(session.used(SKV_TIER_FAST), 4000000);
}

TEST(MemoryAccount, RefusedByAnAncestorLeavesEveryLevelAsItWas) {
  MemoryAccount runtime(nullptr, "runtime");
  MemoryAccount model(&runtime, "model");
  MemoryAccount session(&model, "session");
  runtime.set_limit(SKV_TIER_SLOW, 100);
  session.charge(SKV_TIER_SLOW, SKV_PURPOSE_VALUES, 60);
  const Error error = error_of([&] { session.charge(SKV_TIER_SLOW, SKV_PURPOSE_VALUES, 41); });
  EXPECT_STREQ(error.what(), "slow tier: 41 bytes asked, 60 used, limit 100 (runtime)");
  for (const MemoryAccount* account : {&runtime, &model, &session}) {
    EXPECT_EQ(account->used(SKV_TIER_SLOW), 60);
    EXPECT_EQ(account->used(SKV_TIER_SLOW, SKV_PURPOSE_VALUES), 60);
    EXPECT_EQ(account->peak(SKV_TIER_SLOW), 60);
  }
}

TEST(MemoryAccount, HugeChargesDoNotWrap) {
  MemoryAccount account;
  account.charge(SKV_TIER_HOST, SKV_PURPOSE_OTHER, kMax);
  EXPECT_EQ(error_of([&] { account.charge(SKV_TIER_HOST, SKV_PURPOSE_OTHER, 1); }).code(), SKV_E_BUDGET);
  EXPECT_EQ(error_of([&] { account.charge(SKV_TIER_HOST, SKV_PURPOSE_OTHER, kMax); }).code(), SKV_E_BUDGET);
  EXPECT_EQ(error_of([&] { account.charge(SKV_TIER_HOST, SKV_PURPOSE_OTHER, -1); }).code(), SKV_E_INTERNAL);
  EXPECT_EQ(account.used(SKV_TIER_HOST), kMax);
}

TEST(MemoryAccount, UnknownTiersAndPurposesAreRefused) {
  MemoryAccount account;
  EXPECT_EQ(error_of([&] { account.charge(SKV_TIER_COUNT, SKV_PURPOSE_OTHER, 1); }).code(), SKV_E_INTERNAL);
  EXPECT_EQ(error_of([&] { account.charge(-1, SKV_PURPOSE_OTHER, 1); }).code(), SKV_E_INTERNAL);
  EXPECT_EQ(error_of([&] { account.charge(SKV_TIER_FAST, SKV_PURPOSE_COUNT, 1); }).code(), SKV_E_INTERNAL);
  EXPECT_EQ(error_of([&] { account.charge(SKV_TIER_FAST, -1, 1); }).code(), SKV_E_INTERNAL);
}

TEST(MemoryAccount, FitsAsksEveryLevelAndTier) {
  MemoryAccount runtime;
  MemoryAccount session(&runtime);
  runtime.set_limit(SKV_TIER_FAST, 100);
  session.set_limit(SKV_TIER_SLOW, 10);
  session.charge(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 40);
  EXPECT_TRUE(session.fits({60, 10, 1 << 30}));
  EXPECT_FALSE(session.fits({61, 0, 0}));
  EXPECT_FALSE(session.fits({0, 11, 0}));
  EXPECT_TRUE(runtime.fits({0, 11, 0}));
  runtime.set_limit(SKV_TIER_FAST, 10);  // below what is used: only the next charge feels it
  EXPECT_TRUE(session.fits({0, 0, 0}));
  EXPECT_FALSE(session.fits({1, 0, 0}));
}

TEST(MemoryAccount, ThreadsFillALimitToTheLastByte) {
  constexpr int kThreads = 8;
  constexpr int64_t kLimit = 100003;
  MemoryAccount account;
  account.set_limit(SKV_TIER_FAST, kLimit);
  std::atomic<int64_t> granted{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      int64_t mine = 0;
      try {
        for (;; ++mine) account.charge(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 1);
      } catch (const Error&) {
      }
      granted += mine;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(granted, kLimit);
  EXPECT_EQ(account.used(SKV_TIER_FAST), kLimit);
  EXPECT_EQ(account.used(SKV_TIER_FAST, SKV_PURPOSE_SLOTS), kLimit);
  EXPECT_EQ(account.peak(SKV_TIER_FAST), kLimit);
}

TEST(MemoryAccount, ConcurrentChargesNeverPassALimitAnywhereInTheTree) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 50000;
  MemoryAccount runtime;
  MemoryAccount left(&runtime), right(&runtime);
  runtime.set_limit(SKV_TIER_FAST, 1000);
  left.set_limit(SKV_TIER_FAST, 600);
  right.set_limit(SKV_TIER_FAST, 700);
  std::atomic<int> refused{0}, granted{0}, over{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::minstd_rand random(static_cast<unsigned>(t + 1));
      MemoryAccount& account = t % 2 == 0 ? left : right;
      std::vector<int64_t> held;
      for (int i = 0; i < kRounds; ++i) {
        if (!held.empty() && random() % 3 == 0) {
          account.release(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, held.back());
          held.pop_back();
          continue;
        }
        const auto bytes = static_cast<int64_t>(1 + random() % 200);
        try {
          account.charge(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, bytes);
          held.push_back(bytes);
          ++granted;
          // Right after a charge is when one too many still stands.
          if (runtime.used(SKV_TIER_FAST) > 1000) ++over;
          if (left.used(SKV_TIER_FAST) > 600 || right.used(SKV_TIER_FAST) > 700) ++over;
        } catch (const Error&) {
          ++refused;
        }
      }
      for (const int64_t bytes : held) account.release(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, bytes);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(granted, kThreads);
  EXPECT_GT(refused, kThreads);
  EXPECT_EQ(over, 0);
  EXPECT_LE(runtime.peak(SKV_TIER_FAST), 1000);
  EXPECT_GT(runtime.peak(SKV_TIER_FAST), 0);
  for (const MemoryAccount* account : {&runtime, &left, &right}) {
    EXPECT_EQ(account->used(SKV_TIER_FAST), 0);
    EXPECT_EQ(account->used(SKV_TIER_FAST, SKV_PURPOSE_SLOTS), 0);
  }
}

TEST(Buffer, ChargesTheRoundedSizeAndRefundsIt) {
  MemoryAccount account;
  for (const int64_t bytes : {int64_t{1}, int64_t{1000}, int64_t{kMapThreshold}, int64_t{5 * 1024 * 1024 + 3}}) {
    {
      const Buffer buffer(account, SKV_TIER_SLOW, SKV_PURPOSE_VALUES, bytes);
      EXPECT_EQ(buffer.bytes(), bytes);
      EXPECT_EQ(account.used(SKV_TIER_SLOW, SKV_PURPOSE_VALUES), charged_bytes(bytes));
      const std::size_t align = bytes >= static_cast<int64_t>(kMapThreshold) ? 4096 : 64;
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % align, 0u);
      std::memset(buffer.data(), 0x5a, static_cast<std::size_t>((bytes + 63) / 64 * 64));
    }
    EXPECT_EQ(account.used(SKV_TIER_SLOW), 0);
  }
}

TEST(Buffer, NothingForZeroBytes) {
  MemoryAccount account;
  const Buffer buffer(account, SKV_TIER_FAST, SKV_PURPOSE_OTHER, 0);
  EXPECT_EQ(buffer.data(), nullptr);
  EXPECT_FALSE(buffer);
  EXPECT_EQ(account.used(SKV_TIER_FAST), 0);
}

TEST(Buffer, FailureRefundsTheCharge) {
  MemoryAccount account;
  // More than any x86-64 or AArch64 process can map.
  const Error error = error_of([&] { Buffer(account, SKV_TIER_FAST, SKV_PURPOSE_SLOTS, int64_t{1} << 58); });
  EXPECT_EQ(error.code(), SKV_E_NOMEM);
  EXPECT_EQ(account.used(SKV_TIER_FAST), 0);
  EXPECT_EQ(account.used(SKV_TIER_FAST, SKV_PURPOSE_SLOTS), 0);
  account.set_limit(SKV_TIER_FAST, 1000);
  EXPECT_EQ(error_of([&] { Buffer(account, SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 1001); }).code(), SKV_E_BUDGET);
  EXPECT_EQ(account.used(SKV_TIER_FAST), 0);
}

// A source of one arena, which remembers what it was asked.
class Arena final : public MemorySource {
 public:
  void* allocate(skv_tier tier, int64_t bytes) noexcept override {
    asked.push_back({tier, bytes});
    return refuses || lost ? nullptr : memory;
  }
  void free(skv_tier tier, void* p, int64_t bytes) noexcept override {
    EXPECT_EQ(p, memory);
    freed.push_back({tier, bytes});
  }
  const char* failure() const noexcept override { return lost ? "device 7 is lost" : ""; }

  alignas(64) char memory[64] = {};
  bool refuses = false, lost = false;
  std::vector<std::pair<skv_tier, int64_t>> asked, freed;
};

TEST(Buffer, OfASourceOfTheRootAccount) {
  using Calls = std::vector<std::pair<skv_tier, int64_t>>;
  Arena arena;
  MemoryAccount runtime;
  MemoryAccount model(&runtime), session(&model);
  EXPECT_EQ(session.source(), nullptr);
  runtime.set_source(&arena);
  EXPECT_EQ(session.source(), &arena);
  {
    const Buffer fast(session, SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 70);
    Buffer moved(session, SKV_TIER_SLOW, SKV_PURPOSE_VALUES, kMapThreshold + 1);
    const Buffer slow = std::move(moved);
    const Buffer host(session, SKV_TIER_HOST, SKV_PURPOSE_TOKENS, 70);
    EXPECT_EQ(fast.data(), arena.memory);
    EXPECT_EQ(slow.data(), arena.memory);
    EXPECT_NE(host.data(), arena.memory);
    EXPECT_EQ(runtime.used(SKV_TIER_FAST), 128);
    EXPECT_EQ(runtime.used(SKV_TIER_HOST), 128);
  }
  // By the one rounding rule, both ways.
  const Calls calls{{SKV_TIER_FAST, 128}, {SKV_TIER_SLOW, charged_bytes(kMapThreshold + 1)}};
  EXPECT_EQ(arena.asked, calls);
  EXPECT_EQ(arena.freed, (Calls{calls[1], calls[0]}));
  EXPECT_EQ(runtime.used(SKV_TIER_FAST) + runtime.used(SKV_TIER_SLOW) + runtime.used(SKV_TIER_HOST), 0);
}

TEST(Buffer, ASourceThatRefusesIsAStatusThatRefunds) {
  Arena arena;
  MemoryAccount account;
  account.set_source(&arena);
  arena.refuses = true;
  const Error refused = error_of([&] { Buffer(account, SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 100); });
  EXPECT_EQ(refused.code(), SKV_E_NOMEM);
  EXPECT_STREQ(refused.what(), "fast tier: the device refused 128 bytes");
  arena.lost = true;
  const Error lost = error_of([&] { Buffer(account, SKV_TIER_SLOW, SKV_PURPOSE_SLOTS, 100); });
  EXPECT_EQ(lost.code(), SKV_E_DEVICE_LOST);
  EXPECT_STREQ(lost.what(), "device 7 is lost");
  EXPECT_EQ(account.used(SKV_TIER_FAST) + account.used(SKV_TIER_SLOW), 0);
  account.set_limit(SKV_TIER_FAST, 100);
  arena.asked.clear();
  EXPECT_EQ(error_of([&] { Buffer(account, SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 101); }).code(), SKV_E_BUDGET);
  EXPECT_TRUE(arena.asked.empty());
}

TEST(Buffer, MovesWithoutChargingTwice) {
  MemoryAccount account;
  Buffer a(account, SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 64);
  Buffer b(account, SKV_TIER_FAST, SKV_PURPOSE_SLOTS, 128);
  void* data = b.data();
  a = std::move(b);
  EXPECT_EQ(a.data(), data);
  EXPECT_EQ(b.data(), nullptr);
  EXPECT_EQ(account.used(SKV_TIER_FAST), 128);
  Buffer& same = a;
  a = std::move(same);
  EXPECT_EQ(a.data(), data);
  Buffer c(std::move(a));
  EXPECT_EQ(account.used(SKV_TIER_FAST), 128);
  c.reset();
  c.reset();
  EXPECT_EQ(account.used(SKV_TIER_FAST), 0);
}

TEST(Buffer, MappedBlocksAreChargedAsTheSystemCountsThem) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  MemoryAccount account;
  mapped_pages();  // stdio's first buffer
  for (const int64_t bytes : {int64_t{kMapThreshold}, int64_t{kMapThreshold} + 1, int64_t{4} << 20,
                              (int64_t{10} << 20) + 4097, int64_t{100} << 20}) {
    const int64_t before = mapped_pages();
    Buffer buffer(account, SKV_TIER_FAST, SKV_PURPOSE_SLOTS, bytes);
    const int64_t grown = mapped_pages() - before;
    ASSERT_GT(before, 0);
    EXPECT_NEAR(static_cast<double>(grown), static_cast<double>(account.used(SKV_TIER_FAST) / page), 1.0) << bytes;
    EXPECT_EQ(buffer.as<char>()[bytes - 1], 0);
    std::memset(buffer.data(), 1, static_cast<std::size_t>(bytes));
    std::vector<unsigned char> resident(static_cast<std::size_t>(account.used(SKV_TIER_FAST) / page));
    ASSERT_EQ(mincore(buffer.data(), static_cast<std::size_t>(charged_bytes(bytes)), resident.data()), 0);
    int64_t resident_pages = 0;
    for (const unsigned char flag : resident) resident_pages += flag & 1;
    EXPECT_NEAR(static_cast<double>(resident_pages), static_cast<double>(resident.size()), 1.0) << bytes;
    buffer.reset();
    EXPECT_NEAR(static_cast<double>(mapped_pages()), static_cast<double>(before), 1.0) << bytes;
  }
}

TEST(Buffer, MayBeFreedOnAnotherThread) {
  MemoryAccount account;
  for (int round = 0; round < 50; ++round) {
    std::vector<Buffer> made;
    std::thread maker([&] {
      for (int i = 1; i <= 200; ++i) {
        made.emplace_back(account, SKV_TIER_HOST, SKV_PURPOSE_TOKENS, i * 37);
        std::memset(made.back().data(), i, static_cast<std::size_t>(i) * 37);
      }
    });
    maker.join();
    for (int i = 1; i <= 200; ++i) {
      ASSERT_EQ(made[static_cast<std::size_t>(i - 1)].as<unsigned char>()[i * 37 - 1], i);
    }
    std::thread([&] { made.clear(); }).join();
    ASSERT_EQ(account.used(SKV_TIER_HOST), 0);
  }
}

TEST(HostAlloc, FirstUseFromManyThreads) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&wrong] {
      void* p = host_alloc(100);
      if (p == nullptr || reinterpret_cast<std::uintptr_t>(p) % 64 != 0) ++wrong;
      host_free(p, 100);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

// The name is the truth, and taking mimalloc in does not change the host's malloc or operator new.
TEST(HostAlloc, OwnBlocksAreMimallocsAndTheHostsAreNot) {
  void* library = dlopen("libmimalloc.so.2", RTLD_NOW | RTLD_LOCAL);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  EXPECT_STREQ(host_allocator_name(), "posix_memalign");
  if (library != nullptr) dlclose(library);
#else
  if (library == nullptr) {
    EXPECT_STREQ(host_allocator_name(), "posix_memalign");
    return;
  }
  EXPECT_EQ(std::string(host_allocator_name()).rfind("mimalloc ", 0), 0u);
  const auto is_mimallocs = reinterpret_cast<bool (*)(const void*)>(dlsym(library, "mi_is_in_heap_region"));
  ASSERT_NE(is_mimallocs, nullptr);
  void* own = host_alloc(1000);
  void* hosts = std::malloc(1000);
  char* hosts_new = new char[1000];
  EXPECT_TRUE(is_mimallocs(own));
  EXPECT_FALSE(is_mimallocs(hosts));
  EXPECT_FALSE(is_mimallocs(hosts_new));
  EXPECT_EQ(dlsym(RTLD_DEFAULT, "mi_malloc"), nullptr);
  host_free(own, 1000);
  std::free(hosts);
  delete[] hosts_new;
#endif
}

}  // namespace
}  // namespace skv
