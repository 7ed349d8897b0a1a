// Promises of lib/base/file.h: maps, bounded reads, all-or-nothing writes, the checksum's fixed values.
#include "lib/base/file.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lib/base/status.h"
#include "tests/unit/error_of.h"

namespace skv {
namespace {

using test::error_of;

class File : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/skv_base_file_XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override {
    for (const std::string& name : names()) std::remove(path(name).c_str());
    rmdir(dir_.c_str());
  }
  std::string path(const std::string& name) const { return dir_ + "/" + name; }
  void put(const std::string& name, const std::string& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
  }
  std::string get(const std::string& name) const {
    std::ifstream in(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    DIR* dir = opendir(dir_.c_str());
    while (const dirent* entry = readdir(dir)) {
      if (entry->d_name[0] != '.') found.emplace_back(entry->d_name);
    }
    closedir(dir);
    return found;
  }

 private:
  std::string dir_;
};

TEST_F(File, MapShowsTheWholeFileAndSurvivesMoves) {
  const std::string bytes(10001, 'x');
  put("a", bytes);
  MappedFile map(path("a"));
  ASSERT_EQ(map.size(), 10001);
  EXPECT_EQ(std::memcmp(map.data(), bytes.data(), bytes.size()), 0);
  MappedFile other(std::move(map));
  EXPECT_EQ(map.data(), nullptr);
  EXPECT_EQ(map.size(), 0);
  put("b", "bb");
  MappedFile target(path("b"));
  target = std::move(other);
  ASSERT_EQ(target.size(), 10001);
  EXPECT_EQ(std::to_integer<char>(target.data()[10000]), 'x');
  std::remove(path("a").c_str());
  EXPECT_EQ(std::to_integer<char>(target.data()[5000]), 'x');  // the map keeps an unlinked file
}

TEST_F(File, AnEmptyFileMapsToNothing) {
  put("empty", "");
  const MappedFile map(path("empty"));
  EXPECT_EQ(map.size(), 0);
  EXPECT_EQ(map.data(), nullptr);
}

TEST_F(File, OpeningFailuresNamePathAndErrno) {
  const Error missing = error_of([&] { MappedFile map(path("none")); });
  EXPECT_EQ(missing.code(), SKV_E_IO);
  EXPECT_EQ(missing.native(), ENOENT);
  EXPECT_NE(std::string(missing.what()).find(path("none")), std::string::npos);
  EXPECT_EQ(error_of([&] { MappedFile map(path("")); }).native(), EISDIR);
  EXPECT_EQ(error_of([&] { read_file(path(""), 10); }).native(), EISDIR);
  EXPECT_EQ(error_of([&] { read_file(path("none"), 10); }).native(), ENOENT);
}

TEST_F(File, APipeIsRefusedInsteadOfWaitedFor) {
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  alarm(20);
  EXPECT_EQ(error_of([&] { read_file(path("pipe"), 10); }).code(), SKV_E_IO);
  EXPECT_EQ(error_of([&] { MappedFile map(path("pipe")); }).code(), SKV_E_IO);
  alarm(0);
}

TEST_F(File, ReadKeepsToItsBound) {
  for (const int64_t n : {0, 1, 65535, 65536, 65537, 300000}) {
    std::string bytes;
    for (int64_t i = 0; i < n; ++i) bytes += static_cast<char>(i * 31 + i / 251);
    put("a", bytes);
    EXPECT_EQ(read_file(path("a"), n), bytes) << n;
    EXPECT_EQ(read_file(path("a"), n + 1000000), bytes) << n;
    if (n == 0) continue;
    EXPECT_EQ(error_of([&] { read_file(path("a"), n - 1); }).code(), SKV_E_DATA) << n;
  }
}

TEST_F(File, ReadTakesFilesThatDoNotKnowTheirSize) {
  EXPECT_FALSE(read_file("/proc/self/status", 1 << 20).empty());  // st_size is 0
}

TEST_F(File, ExistsMeansARegularFile) {
  put("a", "x");
  EXPECT_TRUE(file_exists(path("a")));
  EXPECT_FALSE(file_exists(path("b")));
  EXPECT_FALSE(file_exists(path("")));
}

TEST_F(File, AtomicWriteReplacesAndKeepsTheMode) {
  write_file_atomic(path("a"), "first");
  EXPECT_EQ(get("a"), "first");
  ASSERT_EQ(chmod(path("a").c_str(), 0600), 0);
  const std::string big(3 << 20, 'z');
  write_file_atomic(path("a"), big);
  EXPECT_EQ(get("a"), big);
  struct stat info;
  ASSERT_EQ(stat(path("a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

TEST_F(File, AFailedWriteLeavesTheOldFileAndNoTemporary) {
  put("a", "old contents");
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 100000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Error error = error_of([&] { write_file_atomic(path("a"), std::string(200000, 'n')); });
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(error.code(), SKV_E_IO);
  EXPECT_EQ(error.native(), EFBIG);
  EXPECT_NE(std::string(error.what()).find(path("a")), std::string::npos);
  EXPECT_EQ(get("a"), "old contents");
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

TEST_F(File, AFailedRenameLeavesNoTemporary) {
  ASSERT_EQ(mkdir(path("d").c_str(), 0700), 0);
  EXPECT_EQ(error_of([&] { write_file_atomic(path("d"), "x"); }).code(), SKV_E_IO);
  EXPECT_EQ(names(), std::vector<std::string>{"d"});
  EXPECT_EQ(error_of([&] { write_file_atomic(path("none/x"), "x"); }).native(), ENOENT);
}

// Computed by a second implementation (Python, from the description in file.h): a change breaks stored files.
TEST(Checksum, FixedValues) {
  const auto of = [](const std::string& text) { return checksum64(text.data(), text.size()); };
  std::string ramp;
  for (int i = 0; i < 1000; ++i) ramp += static_cast<char>(i * 7 % 256);
  EXPECT_EQ(of(""), 0xcade56a9f3dc7377u);
  EXPECT_EQ(of("a"), 0x358a767ca491a2a2u);
  EXPECT_EQ(of("ShadowKV"), 0x8d580c50242a4054u);
  EXPECT_EQ(of("The code of X is 48213, and of Y 77."), 0x8f13e20b291d1487u);
  EXPECT_EQ(of(ramp), 0xfaeb3e2a7d6a2dbbu);
}

TEST(Checksum, EveryBitLengthAndOrderCounts) {
  std::string bytes(101, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i % 13);
  const uint64_t base = checksum64(bytes.data(), bytes.size());
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_NE(checksum64(damaged.data(), damaged.size()), base) << bit;
  }
  const std::string zeros(64, '\0');
  for (std::size_t n = 0; n < 64; ++n) EXPECT_NE(checksum64(zeros.data(), n), checksum64(zeros.data(), n + 1)) << n;
  // Two flips of a top bit in one lane, which plain FNV-1a on words would not see.
  std::string twice(128, '\0');
  twice[7] = twice[39] = '\x80';
  const std::string clean(128, '\0');
  EXPECT_NE(checksum64(twice.data(), twice.size()), checksum64(clean.data(), clean.size()));
  // Two words swapped across lanes.
  std::string swapped(64, '\0'), ordered(64, '\0');
  ordered[0] = swapped[8] = 'a';
  EXPECT_NE(checksum64(swapped.data(), 64), checksum64(ordered.data(), 64));
}

}  // namespace
}  // namespace skv
