// The token ids of one sequence, in pages, so that growing never copies and the bytes depend on the count alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/base/memory.h"

namespace skv::engine {

class TokenPages {
 public:
  static constexpr int64_t kPerPage = 1024;

  explicit TokenPages(MemoryAccount& account) : account_(account) {}

  int64_t size() const { return size_; }
  int32_t operator[](int64_t i) const {
    return pages_[static_cast<std::size_t>(i / kPerPage)].as<int32_t>()[i % kPerPage];
  }
  // Throws Error(SKV_E_BUDGET / SKV_E_NOMEM) with nothing changed.
  void append(std::span<const int32_t> tokens);
  void truncate(int64_t n) noexcept;
  void copy(int64_t first, int64_t n, int32_t* out) const;

  // Bytes charged for n tokens.
  static int64_t bytes(int64_t n);

 private:
  MemoryAccount& account_;
  std::vector<Buffer> pages_;
  int64_t size_ = 0;
};

}  // namespace skv::engine
