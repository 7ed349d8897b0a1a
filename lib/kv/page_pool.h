// Pages of one size and purpose, carved out of regions so that the bytes charged are the bytes the OS sees.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/ops.h"
#include "lib/base/memory.h"

namespace skv::kv {

// One page. codec and refs are what fork, prefix reuse and mixed codecs build on; today every page has one owner.
struct Page {
  void* data = nullptr;
  int32_t region = 0;
  int32_t refs = 0;
  kernels::BlockCodec codec = kernels::BlockCodec::raw;
};

class PagePool {
 public:
  PagePool(const kernels::Ops& ops, MemoryAccount& account, skv_tier tier, skv_purpose purpose, int64_t page_bytes);
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  Page* take();  // contents undefined; throws Error BUDGET / NOMEM
  void put(Page* page) noexcept;
  // A page of a region at least as full as this page's own, if there is one: moving there lets regions empty out.
  Page* take_denser(const Page* page) noexcept;

  const kernels::Ops& ops() const { return ops_; }
  int64_t page_bytes() const { return page_bytes_; }
  // Bytes charged for n pages when they are taken together.
  static int64_t charged(int64_t page_bytes, int64_t n_pages);

 private:
  struct Region {
    Buffer memory;
    std::vector<Page> pages;
    std::vector<int32_t> free;  // indices into pages
  };
  int32_t add_region();
  Page* take_from(std::size_t open_index) noexcept;

  const kernels::Ops& ops_;
  MemoryAccount& account_;
  skv_tier tier_;
  skv_purpose purpose_;
  int64_t page_bytes_;
  std::vector<std::unique_ptr<Region>> regions_;  // null where a region was given back
  std::vector<int32_t> open_;                     // regions with free pages
};

// A growing run of pages of one pool, with the plain pointer array that kernels want.
class PageList {
 public:
  PageList() = default;
  explicit PageList(PagePool* pool) : pool_(pool) {}
  ~PageList() { shrink(0); }
  PageList(PageList&& other) noexcept { *this = std::move(other); }
  PageList& operator=(PageList&& other) noexcept;

  int64_t size() const { return static_cast<int64_t>(pages_.size()); }
  void* const* data() const { return pointers_.data(); }
  void* operator[](int64_t i) const { return pointers_[static_cast<std::size_t>(i)]; }
  // Strong guarantee: on a throw the list is as before.
  void grow(int64_t n_pages);
  void shrink(int64_t n_pages) noexcept;
  // Gives back pages [first, last): their entries become null. For windows that move on.
  void drop(int64_t first, int64_t last) noexcept;

  // Moves pages to denser regions where that is possible; contents are kept, addresses change.
  void compact() noexcept;
  // Moves the first n present pages down to entries [first, first + n) and gives back the others; no present page may
  // lie before first, and there must be n.
  void slide(int64_t first, int64_t n) noexcept;

 private:
  void reserve_room(int64_t n);

  PagePool* pool_ = nullptr;
  std::vector<Page*> pages_;
  std::vector<void*> pointers_;
};

}  // namespace skv::kv
