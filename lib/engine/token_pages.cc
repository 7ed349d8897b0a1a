#include "lib/engine/token_pages.h"

#include <algorithm>
#include <cstring>

namespace skv::engine {

namespace {

constexpr int64_t kPageBytes = TokenPages::kPerPage * static_cast<int64_t>(sizeof(int32_t));

int64_t page_count(int64_t n) { return (n + TokenPages::kPerPage - 1) / TokenPages::kPerPage; }

}  // namespace

int64_t TokenPages::bytes(int64_t n) { return page_count(n) * charged_bytes(kPageBytes); }

void TokenPages::append(std::span<const int32_t> tokens) {
  const int64_t size = size_ + static_cast<int64_t>(tokens.size());
  try {
    while (static_cast<int64_t>(pages_.size()) < page_count(size)) {
      pages_.emplace_back(account_, SKV_TIER_HOST, SKV_PURPOSE_TOKENS, kPageBytes);
    }
  } catch (...) {
    truncate(size_);
    throw;
  }
  while (!tokens.empty()) {
    const int64_t at = size_ % kPerPage;
    const auto n = std::min(tokens.size(), static_cast<std::size_t>(kPerPage - at));
    int32_t* page = pages_[static_cast<std::size_t>(size_ / kPerPage)].as<int32_t>();
    std::memcpy(page + at, tokens.data(), n * sizeof(int32_t));
    tokens = tokens.subspan(n);
    size_ += static_cast<int64_t>(n);
  }
}

void TokenPages::truncate(int64_t n) noexcept {
  size_ = n;
  while (static_cast<int64_t>(pages_.size()) > page_count(n)) pages_.pop_back();
}

void TokenPages::copy(int64_t first, int64_t n, int32_t* out) const {
  while (n > 0) {
    const int64_t at = first % kPerPage, count = std::min(n, kPerPage - at);
    const int32_t* page = pages_[static_cast<std::size_t>(first / kPerPage)].as<int32_t>();
    std::memcpy(out, page + at, static_cast<std::size_t>(count) * sizeof(int32_t));
    first += count;
    n -= count;
    out += count;
  }
}

}  // namespace skv::engine
