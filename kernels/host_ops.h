// What the backends whose data is the host's own memory share.
#pragma once

#include <cstring>

#include "kernels/ops.h"

namespace skv::kernels {

class HostOps : public Ops {
 public:
  void begin_record() const final {}
  void end_record() const final {}
  void begin_aside() const final {}
  void end_aside() const final {}
  void join() const final {}
  void copy(void* to, const void* from, int64_t bytes) const final { move(to, from, bytes); }
  void fill(void* to, uint8_t byte, int64_t bytes) const final {
    if (bytes > 0) std::memset(to, byte, static_cast<std::size_t>(bytes));
  }
  void upload(void* to, const void* host, int64_t bytes) const final { move(to, host, bytes); }
  void download(void* host, const void* from, int64_t bytes) const final { move(host, from, bytes); }
  void wait() const final {}
  const char* failure() const final { return ""; }

 private:
  static void move(void* to, const void* from, int64_t bytes) {
    if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
};

}  // namespace skv::kernels
