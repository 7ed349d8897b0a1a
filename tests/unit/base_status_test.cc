// Promises of lib/base/status.h and log.h: one-line messages, levels, one call of the callback at a time.
#include "lib/base/status.h"

#include <atomic>
#include <cerrno>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lib/base/log.h"

namespace skv {
namespace {

TEST(Fail, FormatsOneLineOfAnyLength) {
  try {
    fail(SKV_E_INVALID, "n is %d\nof \"%s\"", 3, std::string(5000, 'x').c_str());
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), SKV_E_INVALID);
    EXPECT_EQ(error.native(), 0);
    EXPECT_EQ(error.what(), "n is 3 of \"" + std::string(5000, 'x') + "\"");
  }
  EXPECT_EQ(Error(SKV_E_IO, "m", ENOENT).native(), ENOENT);
}

TEST(Log, SendsLinesUpToTheLevel) {
  struct Seen {
    std::vector<std::string> lines;
    skv_log_level level = -1;
  } seen;
  LogSink sink;
  sink.user = &seen;
  sink.level = SKV_LOG_INFO;
  log(sink, SKV_LOG_ERROR, "nowhere");
  sink.fn = [](void* user, skv_log_level level, const char* line) {
    static_cast<Seen*>(user)->lines.emplace_back(line);
    static_cast<Seen*>(user)->level = level;
  };
  log(sink, SKV_LOG_DEBUG, "too detailed");
  log(sink, SKV_LOG_INFO, "%d\n%s", 7, "x");
  log(sink, SKV_LOG_ERROR, "%s", std::string(5000, 'y').c_str());
  ASSERT_EQ(seen.lines.size(), 2u);
  EXPECT_EQ(seen.lines[0], "7 x");
  EXPECT_EQ(seen.lines[1], std::string(1023, 'y'));
  EXPECT_EQ(seen.level, SKV_LOG_ERROR);
}

TEST(Log, CallsTheCallbackFromOneThreadAtATime) {
  struct Counts {
    std::atomic<int> inside{0};
    std::atomic<int> overlaps{0};
    int lines = 0;  // plain: a missing lock loses counts, and TSan sees it
  } counts;
  LogSink sink;
  sink.user = &counts;
  sink.fn = [](void* user, skv_log_level, const char*) {
    auto* c = static_cast<Counts*>(user);
    if (++c->inside != 1) ++c->overlaps;
    ++c->lines;
    std::this_thread::yield();
    --c->inside;
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&sink] {
      const LogSink copy = sink;  // copies take turns with the original
      for (int i = 0; i < 500; ++i) log(copy, SKV_LOG_WARN, "line %d", i);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counts.lines, 3000);
  EXPECT_EQ(counts.overlaps, 0);
}

}  // namespace
}  // namespace skv
