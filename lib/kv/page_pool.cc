#include "lib/kv/page_pool.h"

#include <algorithm>
#include <utility>

namespace skv::kv {
namespace {

// Pages share regions. Those of large models come in regions that the OS backs with huge pages (decode reads gigabytes
// in pieces of a few KB: address translation is a fifth of its time without); for small pages that would be waste.
constexpr int64_t kLargePage = 128 * 1024;
constexpr int64_t kSmallRegionBytes = 64 * 1024;
constexpr int64_t kLargeRegionBytes = 4 * 1024 * 1024;

int64_t pages_per_region(int64_t page_bytes) {
  const int64_t region = page_bytes < kLargePage ? kSmallRegionBytes : kLargeRegionBytes;
  return std::max<int64_t>(1, (region + page_bytes - 1) / page_bytes);
}

}  // namespace

PagePool::PagePool(const kernels::Ops& ops, MemoryAccount& account, skv_tier tier, skv_purpose purpose,
                   int64_t page_bytes)
    : ops_(ops), account_(account), tier_(tier), purpose_(purpose), page_bytes_(page_bytes) {}

int64_t PagePool::charged(int64_t page_bytes, int64_t n_pages) {
  const int64_t per_region = pages_per_region(page_bytes);
  return (n_pages + per_region - 1) / per_region * charged_bytes(per_region * page_bytes);
}

int32_t PagePool::add_region() {
  const int64_t n = pages_per_region(page_bytes_);
  auto region = std::make_unique<Region>();
  region->pages.resize(static_cast<std::size_t>(n));
  region->free.reserve(static_cast<std::size_t>(n));
  region->memory = Buffer(account_, tier_, purpose_, n * page_bytes_);
  auto slot = std::find(regions_.begin(), regions_.end(), nullptr);
  if (slot == regions_.end()) slot = regions_.insert(regions_.end(), nullptr);
  const auto index = static_cast<int32_t>(slot - regions_.begin());
  open_.reserve(regions_.size());  // so that put() never allocates
  for (int64_t i = n - 1; i >= 0; --i) {
    Page& page = region->pages[static_cast<std::size_t>(i)];
    page.data = static_cast<char*>(region->memory.data()) + i * page_bytes_;
    page.region = index;
    region->free.push_back(static_cast<int32_t>(i));
  }
  *slot = std::move(region);
  return index;
}

Page* PagePool::take_from(std::size_t open_index) noexcept {
  Region& region = *regions_[static_cast<std::size_t>(open_[open_index])];
  Page* page = &region.pages[static_cast<std::size_t>(region.free.back())];
  region.free.pop_back();
  if (region.free.empty()) open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(open_index));
  page->refs = 1;
  return page;
}

Page* PagePool::take() {
  if (open_.empty()) open_.push_back(add_region());
  return take_from(open_.size() - 1);
}

Page* PagePool::take_denser(const Page* page) noexcept {
  std::size_t best = open_.size();
  std::size_t fewest = regions_[static_cast<std::size_t>(page->region)]->free.size() + 1;
  for (std::size_t i = 0; i < open_.size(); ++i) {
    const std::size_t n_free = regions_[static_cast<std::size_t>(open_[i])]->free.size();
    if (open_[i] == page->region || n_free >= fewest) continue;
    best = i, fewest = n_free;
  }
  return best < open_.size() ? take_from(best) : nullptr;
}

void PagePool::put(Page* page) noexcept {
  if (--page->refs > 0) return;
  const int32_t index = page->region;
  auto& region = regions_[static_cast<std::size_t>(index)];
  if (region->free.empty()) open_.push_back(index);
  region->free.push_back(static_cast<int32_t>(page - region->pages.data()));
  if (region->free.size() < region->pages.size()) return;
  open_.erase(std::find(open_.begin(), open_.end(), index));
  region.reset();
}

PageList& PageList::operator=(PageList&& other) noexcept {
  if (this == &other) return *this;
  shrink(0);
  pool_ = other.pool_;
  pages_ = std::exchange(other.pages_, {});
  pointers_ = std::exchange(other.pointers_, {});
  return *this;
}

void PageList::reserve_room(int64_t n) {
  if (n <= static_cast<int64_t>(pages_.capacity()) && n <= static_cast<int64_t>(pointers_.capacity())) return;
  const auto room = static_cast<std::size_t>(std::max<int64_t>(n, 2 * size()));
  pages_.reserve(room);
  pointers_.reserve(room);
}

void PageList::grow(int64_t n_pages) {
  const int64_t before = size();
  reserve_room(n_pages);
  try {
    while (size() < n_pages) {
      pages_.push_back(pool_->take());
      pointers_.push_back(pages_.back()->data);
    }
  } catch (...) {
    shrink(before);
    throw;
  }
}

void PageList::shrink(int64_t n_pages) noexcept {
  while (size() > n_pages) {
    if (pages_.back()) pool_->put(pages_.back());
    pages_.pop_back();
    pointers_.pop_back();
  }
}

void PageList::drop(int64_t first, int64_t last) noexcept {
  for (int64_t i = first; i < std::min(last, size()); ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (pages_[at]) pool_->put(pages_[at]);
    pages_[at] = nullptr;
    pointers_[at] = nullptr;
  }
}

void PageList::compact() noexcept {
  for (std::size_t i = 0; i < pages_.size(); ++i) {
    if (!pages_[i] || pages_[i]->refs > 1) continue;
    Page* denser = pool_->take_denser(pages_[i]);
    if (!denser) continue;
    pool_->ops().copy(denser->data, pages_[i]->data, pool_->page_bytes());
    pool_->put(std::exchange(pages_[i], denser));
    pointers_[i] = denser->data;
  }
}

void PageList::slide(int64_t first, int64_t n) noexcept {
  int64_t to = first;
  for (int64_t from = first; from < size(); ++from) {
    const auto i = static_cast<std::size_t>(from);
    if (!pages_[i]) continue;
    if (to == first + n) {
      drop(from, from + 1);
      continue;
    }
    const auto at = static_cast<std::size_t>(to++);
    std::swap(pages_[at], pages_[i]);
    std::swap(pointers_[at], pointers_[i]);
  }
  shrink(first + n);
}

}  // namespace skv::kv
