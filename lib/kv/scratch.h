// Memory for one operation's lists and data, grown when a larger one comes; its content is not kept.
#pragma once

#include <utility>

#include "lib/base/memory.h"
#include "lib/kv/arena.h"

namespace skv::kv {

class Scratch {
 public:
  // work_tier: where data lives. On a throw the scratch is as before.
  void ensure(MemoryAccount& account, skv_tier work_tier, const ScratchBytes& bytes) {
    if (bytes.within(this->bytes())) return;
    Buffer lists, data;
    if (bytes.lists > lists_.bytes()) lists = Buffer(account, SKV_TIER_HOST, SKV_PURPOSE_WORKSPACE, bytes.lists);
    if (bytes.data > data_.bytes()) data = Buffer(account, work_tier, SKV_PURPOSE_WORKSPACE, bytes.data);
    if (lists) lists_ = std::move(lists);
    if (data) data_ = std::move(data);
  }
  ScratchBytes bytes() const { return {lists_.bytes(), data_.bytes()}; }
  Arenas arenas() const { return {Arena(lists_.data()), Arena(data_.data())}; }

 private:
  Buffer lists_;
  Buffer data_;
};

}  // namespace skv::kv
