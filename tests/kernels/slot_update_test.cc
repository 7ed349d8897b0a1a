#include "kernels/slot_update/slot_update.h"

#include <memory>
#include <set>

#include "tests/kernels/kernel_test.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

// One sequence and KV head with its table on several pages, and the outputs of the last call.
struct Cache {
  std::vector<std::unique_ptr<Buffer<int16_t>>> pages;
  std::vector<void*> page_list;
  Buffer<int64_t> totals{2};
  Buffer<int32_t> chunk_of_slot, ids, n_ids{1}, slots, miss_chunks, miss_slots, n_miss{1};
  Buffer<uint32_t> last_used;
  int32_t n_chunks;

  Cache(int32_t chunks, int32_t n_slots, int32_t most_ids)
      : chunk_of_slot(n_slots), ids(most_ids), slots(most_ids), miss_chunks(most_ids), miss_slots(most_ids),
        last_used(n_slots), n_chunks(chunks) {
    for (int32_t left = chunks; left > 0; left -= 100) {
      pages.push_back(std::make_unique<Buffer<int16_t>>(8 + std::min(left, 100)));
      std::fill_n(pages.back()->data(), pages.back()->size(), int16_t{-1});
      page_list.push_back(pages.back()->data());
    }
    std::fill_n(chunk_of_slot.data(), n_slots, -1);
    std::fill_n(last_used.data(), n_slots, 0u);
    std::fill_n(totals.data(), 2, int64_t{1} << 40);
  }

  SlotUpdateItem item(uint32_t step) {
    const auto n_pages = static_cast<int32_t>(page_list.size()), n_slots = static_cast<int32_t>(chunk_of_slot.size());
    return {{page_list.data(), 16, 100, 2, n_pages}, chunk_of_slot.data(), last_used.data(), n_slots, step,
            ids.data(), n_ids.data(), static_cast<int32_t>(ids.size()), slots.data(), miss_chunks.data(),
            miss_slots.data(), n_miss.data(), totals.data()};
  }

  void choose(Random& rng, int32_t n, int32_t near) {
    std::set<int32_t> chosen;  // half around one place, so that steps share chunks
    while (static_cast<int32_t>(chosen.size()) < n) {
      const int64_t id = rng.chance(0.5) ? near + rng.integer(0, 2 * n) : rng.integer(0, n_chunks - 1);
      chosen.insert(static_cast<int32_t>(std::min<int64_t>(id, n_chunks - 1)));
    }
    std::copy(chosen.begin(), chosen.end(), ids.data());
    n_ids[0] = n;
  }
};

void copy_choice(const Cache& from, Cache* to) {
  std::copy_n(from.ids.data(), from.n_ids[0], to->ids.data());
  to->n_ids[0] = from.n_ids[0];
}

void run(const std::vector<SlotUpdateItem>& items, int32_t max_slots) {
  Buffer<char> workspace(
      static_cast<int64_t>(slot_update_workspace_bytes(static_cast<int64_t>(items.size()), max_slots)));
  tested_ops().slot_update(items, workspace.data());
}

void expect_equal(const Cache& got, const Cache& want, const std::string& params) {
  const auto n = static_cast<std::size_t>(want.n_ids[0]), misses = static_cast<std::size_t>(want.n_miss[0]);
  ASSERT_EQ(got.n_miss[0], want.n_miss[0]) << params;
  expect_same_bytes(got.totals.data(), want.totals.data(), 16, params + " totals");
  expect_same_bytes(got.slots.data(), want.slots.data(), n * 4, params + " slots");
  expect_same_bytes(got.miss_chunks.data(), want.miss_chunks.data(), misses * 4, params + " miss_chunks");
  expect_same_bytes(got.miss_slots.data(), want.miss_slots.data(), misses * 4, params + " miss_slots");
  const auto slots = static_cast<std::size_t>(want.chunk_of_slot.size()) * 4;
  expect_same_bytes(got.chunk_of_slot.data(), want.chunk_of_slot.data(), slots, params + " chunk_of_slot");
  expect_same_bytes(got.last_used.data(), want.last_used.data(), slots, params + " last_used");
  for (std::size_t p = 0; p < want.pages.size(); ++p) {
    const auto bytes = static_cast<std::size_t>(want.pages[p]->size()) * 2;
    expect_same_bytes(got.pages[p]->data(), want.pages[p]->data(), bytes, params + " table");
  }
}

// Every selected chunk has its own slot, and the table and chunk_of_slot are inverse to each other.
void expect_consistent(Cache* c) {
  const SlotUpdateItem item = c->item(0);
  int32_t mapped = 0, filled = 0;
  for (int32_t chunk = 0; chunk < c->n_chunks; ++chunk) {
    const int16_t slot = *static_cast<int16_t*>(item.table.row(chunk));
    if (slot < 0) continue;
    ++mapped;
    ASSERT_EQ(c->chunk_of_slot[slot], chunk);
  }
  for (int32_t chunk : c->chunk_of_slot.span()) filled += chunk >= 0;
  ASSERT_EQ(mapped, filled);
  for (int32_t i = 0; i < c->n_ids[0]; ++i) ASSERT_EQ(c->chunk_of_slot[c->slots[i]], c->ids[i]);
}

TEST(SlotUpdate, follows_the_reference_over_many_steps) {
  Random rng;
  for_each_target([&] {
    for (const int32_t n_slots : {1, 2, 16, 17, 64, 300}) {
      const int32_t most = std::max(1, n_slots * static_cast<int32_t>(rng.integer(50, 100)) / 100);
      Cache got(2000, n_slots, most), want(2000, n_slots, most);
      for (uint32_t step = 1; step <= (tested_slowly() ? 12 : 60); ++step) {
        got.choose(rng, static_cast<int32_t>(rng.integer(0, most)), static_cast<int32_t>(rng.integer(0, 1000)));
        copy_choice(got, &want);
        const SlotUpdateItem ref = want.item(step);
        slot_update_ref(std::span(&ref, 1), nullptr);
        run({got.item(step)}, n_slots);
        expect_equal(got, want, "n_slots=" + std::to_string(n_slots) + " step=" + std::to_string(step));
        expect_consistent(&got);
        if (HasFatalFailure()) return;
      }
    }
  });
}

TEST(SlotUpdate, keeps_hits_in_place_and_evicts_the_least_recently_selected) {
  Cache c(100, 3, 3);
  const auto select = [&](std::vector<int32_t> ids, uint32_t step) {
    std::copy(ids.begin(), ids.end(), c.ids.data());
    c.n_ids[0] = static_cast<int32_t>(ids.size());
    run({c.item(step)}, 3);
    return std::vector<int32_t>(c.slots.data(), c.slots.data() + ids.size());
  };
  EXPECT_EQ(select({10, 20}, 1), (std::vector<int32_t>{0, 1}));  // lowest empty slots first
  EXPECT_EQ(select({20, 30}, 2), (std::vector<int32_t>{1, 2}));  // the empty slot before any victim
  EXPECT_EQ(c.n_miss[0], 1);
  EXPECT_EQ(select({20, 40}, 3), (std::vector<int32_t>{1, 0}));  // 10 is the oldest
  EXPECT_EQ(select({50}, 4), (std::vector<int32_t>{2}));         // then 30
  EXPECT_EQ(select({60, 70}, 5), (std::vector<int32_t>{0, 1}));  // 20 and 40 alike: lower slot first
  EXPECT_EQ(select({}, 6), (std::vector<int32_t>{}));
  EXPECT_EQ(c.n_miss[0], 0);
}

TEST(SlotUpdate, accepts_the_largest_steps_and_slot_counts) {
  Random rng;
  constexpr int32_t kSlots = 32767;
  for (const int32_t n_ids : {500, 2500}) {
    Cache got(40000, kSlots, n_ids), want(40000, kSlots, n_ids);
    for (int32_t s = 0; s < kSlots; ++s) {
      const SlotUpdateItem a = got.item(0), b = want.item(0);
      const uint32_t used = rng.chance(0.03) ? 0 : static_cast<uint32_t>(rng.integer(0, 0xfffffffe));
      if (rng.chance(0.01)) continue;  // stays empty
      for (const SlotUpdateItem* item : {&a, &b}) {
        item->chunk_of_slot[s] = s;
        item->last_used[s] = used;
        *static_cast<int16_t*>(item->table.row(s)) = static_cast<int16_t>(s);
      }
    }
    got.choose(rng, n_ids, 33000);
    copy_choice(got, &want);
    const SlotUpdateItem ref = want.item(0xffffffffu);
    slot_update_ref(std::span(&ref, 1), nullptr);
    run({got.item(0xffffffffu)}, kSlots);
    expect_equal(got, want, "full range");
    expect_consistent(&got);
  }
}

TEST(SlotUpdate, takes_every_slot_that_was_not_selected) {
  constexpr int32_t kSlots = 40;
  Cache c(200, kSlots, kSlots);
  for (uint32_t step : {0xfffffffeu, 0xffffffffu}) {  // all miss, then all but one
    for (int32_t i = 0; i < kSlots; ++i) c.ids[i] = (step == 0xffffffffu ? 39 : 0) + i;
    c.n_ids[0] = kSlots;
    run({c.item(step)}, kSlots);
    EXPECT_EQ(c.n_miss[0], step == 0xffffffffu ? kSlots - 1 : kSlots);
    expect_consistent(&c);
  }
  EXPECT_EQ(c.slots[0], 39);
}

TEST(SlotUpdate, result_does_not_depend_on_other_items) {
  Random rng;
  std::vector<std::unique_ptr<Cache>> got, want;
  for (const int32_t n_slots : {40, 7, 100, 1}) {
    got.push_back(std::make_unique<Cache>(500, n_slots, n_slots));
    want.push_back(std::make_unique<Cache>(500, n_slots, n_slots));
  }
  for (uint32_t step = 1; step <= 20; ++step) {
    std::vector<SlotUpdateItem> items;
    for (std::size_t i = 0; i < got.size(); ++i) {
      got[i]->choose(rng, static_cast<int32_t>(rng.integer(0, got[i]->ids.size())), 200);
      copy_choice(*got[i], want[i].get());
      items.push_back(got[i]->item(step));
      run({want[i]->item(step)}, static_cast<int32_t>(want[i]->chunk_of_slot.size()));
    }
    with_threads(3, [&] { run(items, 100); });
    for (std::size_t i = 0; i < got.size(); ++i) expect_equal(*got[i], *want[i], "item " + std::to_string(i));
  }
}

void bench() {
  constexpr int32_t kHeads = 8, kSelected = 256, kSlots = 1024, kChunks = 16384;
  const int64_t layer_bytes = kHeads * (int64_t{kChunks} * 2 + kSlots * 8);
  const int32_t layers = bench_layers(layer_bytes, 16);
  std::vector<std::unique_ptr<Cache>> caches;
  for (int32_t i = 0; i < layers * kHeads; ++i) caches.push_back(std::make_unique<Cache>(kChunks, kSlots, kSelected));
  std::vector<char> workspace(slot_update_workspace_bytes(kHeads, kSlots));
  std::vector<SlotUpdateItem> items;
  Random rng;
  const BenchRow row{.op = "slot_update", .variant = "scalar",
      .shape = "8 heads, 256 ids, 1024 slots, about half hits", .tokens = kChunks * 8,
      .layers = layers, .working_set_bytes = layers * layer_bytes,
      .bytes = kHeads * (kSelected * 24.0 + kSlots * 8.0)};
  run_bench(row, [&](int64_t i) {
    items.clear();
    for (int32_t h = 0; h < kHeads; ++h) {
      Cache& c = *caches[static_cast<std::size_t>((i % layers) * kHeads + h)];
      int32_t id = static_cast<int32_t>(rng.integer(0, 7));
      for (int32_t s = 0; s < kSelected; ++s, id += static_cast<int32_t>(rng.integer(1, 12))) c.ids[s] = id;
      c.n_ids[0] = kSelected;
      items.push_back(c.item(static_cast<uint32_t>(i / layers + 1)));
    }
    tested_ops().slot_update(items, workspace.data());
  });
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
