// The parts of lib/api that no host can reach on purpose: the table of shells and the guard.
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "lib/api/guard.h"
#include "lib/api/handle.h"

namespace skv::api {
namespace {

struct Box {
  using Handle = int;
  static constexpr Kind kKind = Kind::model;
  static constexpr const char* kName = "box";
  static constexpr bool kWaits = false;
  std::atomic<int>* deleted;
  ~Box() { ++*deleted; }
};

int* make(std::atomic<int>& deleted) { return make_handle(std::unique_ptr<Box>(new Box{&deleted})); }

TEST(HandleTable, object_goes_with_its_last_pin) {
  std::atomic<int> deleted{0};
  int* handle = make(deleted);
  {
    const Pin<Box> first(handle), second(handle);
    drop_handle<Box>(handle);
    EXPECT_EQ(deleted, 0);
    EXPECT_THROW(Pin<Box>{handle}, Error) << "stale for new calls";
    EXPECT_EQ(first->deleted, &deleted);
  }
  EXPECT_EQ(deleted, 1);
  drop_handle<Box>(handle);
  EXPECT_EQ(deleted, 1);
}

TEST(HandleTable, handles_differ_and_are_no_addresses) {
  std::atomic<int> deleted{0};
  std::set<int*> seen;
  std::vector<int*> open;
  for (int i = 0; i < 3000; ++i) {  // more than one block
    open.push_back(make(deleted));
    EXPECT_TRUE(seen.insert(open.back()).second);
    EXPECT_NE(reinterpret_cast<uintptr_t>(open.back()) >> 48, 0u);
    EXPECT_NE(reinterpret_cast<uintptr_t>(open.back()) & 7, 0u);
  }
  for (int* handle : open) drop_handle<Box>(handle);
  EXPECT_EQ(deleted, 3000);
  for (int i = 0; i < 3000; ++i) {
    int* handle = make(deleted);
    EXPECT_TRUE(seen.insert(handle).second) << "a place is used again under another name";
    drop_handle<Box>(handle);
  }
}

TEST(HandleTable, table_that_is_full_says_so_and_recovers) {
  std::atomic<int> deleted{0};
  std::vector<int*> open;
  skv_status status = SKV_OK;
  while (status == SKV_OK && open.size() < 100000) {
    status = guarded(nullptr, [&] { open.push_back(make(deleted)); });
  }
  EXPECT_EQ(status, SKV_E_LIMIT);
  EXPECT_EQ(open.size(), 65536u);
  for (int* handle : open) drop_handle<Box>(handle);
  drop_handle<Box>(make(deleted));
}

TEST(HandleTable, threads_that_use_and_drop_the_same_handle) {
  std::atomic<int> deleted{0};
  constexpr int kRounds = 2000;
  for (int round = 0; round < kRounds; ++round) {
    int* handle = make(deleted);
    const auto use = [&] {
      const Pin<Box> pin(handle, std::nothrow);
      if (pin) {
        EXPECT_EQ(pin->deleted, &deleted);
      }
      drop_handle<Box>(handle);
    };
    std::thread other(use);
    use();
    other.join();
    ASSERT_EQ(deleted, round + 1);
  }
}

skv_status status_of(void (*thrower)(), skv_error* err = nullptr) {
  return guarded(err, [&] { thrower(); });
}

TEST(Guard, every_exception_becomes_a_status) {
  skv_error err = SKV_ERROR_INIT;
  EXPECT_EQ(status_of([] {}), SKV_OK);
  EXPECT_EQ(status_of([] { throw Error(SKV_E_IO, "no such file", 2); }, &err), SKV_E_IO);
  EXPECT_EQ(err.status, SKV_E_IO);
  EXPECT_EQ(err.native_code, 2);
  EXPECT_STREQ(err.message, "no such file");
  EXPECT_EQ(status_of([] { throw std::bad_alloc(); }, &err), SKV_E_NOMEM);
  EXPECT_EQ(status_of([] { throw std::out_of_range("vector"); }, &err), SKV_E_INTERNAL);
  EXPECT_STREQ(err.message, "vector");
  EXPECT_EQ(status_of([] { throw 7; }, &err), SKV_E_INTERNAL);
}

TEST(Guard, messages_are_cut_between_characters_and_terminated) {
  for (int ascii = 240; ascii < 262; ++ascii) {
    std::string text(static_cast<std::size_t>(ascii), 'a');
    for (int i = 0; i < 10; ++i) text += "\xe2\x82\xac";  // three bytes
    skv_error err = SKV_ERROR_INIT;
    std::memset(err.message, 0x5a, sizeof err.message);
    guarded(&err, [&] { throw Error(SKV_E_DATA, text); });
    const std::size_t n = strnlen(err.message, sizeof err.message);
    ASSERT_LT(n, sizeof err.message);
    EXPECT_GE(n, sizeof err.message - 3);
    EXPECT_EQ(text.compare(0, n, err.message), 0);
    if (n > static_cast<std::size_t>(ascii)) {
      EXPECT_EQ((n - static_cast<std::size_t>(ascii)) % 3, 0u);
    }
  }
}

}  // namespace
}  // namespace skv::api
