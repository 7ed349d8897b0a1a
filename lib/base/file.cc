#include "lib/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <system_error>
#include <utility>

#include "lib/base/status.h"

namespace skv {

namespace {

[[noreturn]] void fail_io(const char* verb, const std::string& path, int error) {
  const std::string reason = std::generic_category().message(error);
  throw Error(SKV_E_IO, std::string("cannot ") + verb + " " + path + ": " + reason, error);
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() { close(); }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }
  int close() {
    return fd_ < 0 ? 0 : ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

// Model folders come from strangers: a pipe must not block the host, nor a directory pass for a file.
int open_regular(const std::string& path, int64_t* size) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail_io("open", path, errno);
  struct stat info;
  int error = fstat(fd, &info) != 0 ? errno : 0;
  if (error == 0 && !S_ISREG(info.st_mode)) error = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
  if (error != 0) {
    ::close(fd);
    fail_io("open", path, error);
  }
  *size = info.st_size;
  return fd;
}

// errno, or 0.
int write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return 0;
}

// A rename is on disk when its directory is. The new file is in place by then, so failing here is not a failed write.
void sync_parent(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const FileDescriptor dir(open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (dir.get() >= 0) fsync(dir.get());
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  int64_t size = 0;
  const FileDescriptor file(open_regular(path, &size));
  if (size == 0) return;  // mmap refuses empty maps
  void* p = mmap(nullptr, static_cast<std::size_t>(size), PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (p == MAP_FAILED) fail_io("map", path, errno);
  data_ = static_cast<const std::byte*>(p);
  size_ = size;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), static_cast<std::size_t>(size_));
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  MappedFile taken(std::move(other));
  std::swap(data_, taken.data_);
  std::swap(size_, taken.size_);
  return *this;
}

std::string read_file(const std::string& path, int64_t max_bytes) {
  int64_t size = 0;
  const FileDescriptor file(open_regular(path, &size));
  // The file may grow while it is read (and /proc says 0), so the bound is on what arrives, not on the size.
  constexpr int64_t kStep = 64 * 1024;
  std::string text;
  int64_t done = 0;
  for (;;) {
    const int64_t room = std::min(std::max(size - done, kStep), max_bytes - done) + 1;
    text.resize(static_cast<std::size_t>(done + room));
    const ssize_t n = read(file.get(), text.data() + done, static_cast<std::size_t>(room));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("read", path, errno);
    if (n == 0) break;
    done += n;
    if (done > max_bytes) fail(SKV_E_DATA, "%s has more than %" PRId64 " bytes", path.c_str(), max_bytes);
  }
  text.resize(static_cast<std::size_t>(done));
  return text;
}

bool file_exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  static std::atomic<uint64_t> counter{0};  // threads of one process never share a temporary
  const std::string temporary = path + "." + std::to_string(getpid()) + "." + std::to_string(++counter) + ".tmp";
  FileDescriptor file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (file.get() < 0) fail_io("create", temporary, errno);
  struct stat old;
  int error = 0;
  if (stat(path.c_str(), &old) == 0 && fchmod(file.get(), old.st_mode & 0777) != 0) error = errno;
  if (error == 0) error = write_all(file.get(), bytes);
  if (error == 0 && fsync(file.get()) != 0) error = errno;
  if (file.close() != 0 && error == 0) error = errno;
  if (error == 0 && rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    unlink(temporary.c_str());
    fail_io("write", path, error);
  }
  sync_parent(path);
}

}  // namespace skv
