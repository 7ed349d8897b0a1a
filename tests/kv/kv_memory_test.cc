// Memory: predicted by the code that takes it, limited to the byte, given back.
#include "lib/base/status.h"
#include "tests/kv/kv_harness.h"

namespace skv::test {
namespace {

constexpr kv::Geometry kGeometry = {3, 4, 2, 64, 0.0f};

skv_memory_table used(const MemoryAccount& account) {
  skv_memory_table table = {};
  for (int32_t tier = 0; tier < SKV_TIER_COUNT; ++tier) {
    for (int32_t purpose = 0; purpose < SKV_PURPOSE_COUNT; ++purpose) {
      table.bytes[tier][purpose] = account.used(tier, purpose);
    }
  }
  return table;
}

void expect_equal(const skv_memory_table& got, const skv_memory_table& want) {
  for (int32_t tier = 0; tier < SKV_TIER_COUNT; ++tier) {
    for (int32_t purpose = 0; purpose < SKV_PURPOSE_COUNT; ++purpose) {
      EXPECT_EQ(got.bytes[tier][purpose], want.bytes[tier][purpose]) << "tier " << tier << " purpose " << purpose;
    }
  }
}

TEST(KvMemory, held_bytes_are_what_prompts_take) {
  for (const skv_policy policy : {SKV_POLICY_FULL, SKV_POLICY_PUBLISHED, SKV_POLICY_SHADOWKV}) {
    for (const skv_key_store keys : {SKV_KEYS_LOWRANK, SKV_KEYS_EXACT}) {
      SCOPED_TRACE(std::to_string(policy) + " " + std::to_string(keys));
      Bench bench(kGeometry, small_params(policy, keys, SKV_DTYPE_BF16));
      std::vector<int64_t> lengths;
      for (const int64_t n : {1, 64, 65, 700, 1025, 3000}) {
        const Trace trace = bench.make_trace(n, {24, 0.1f}, kv_seed());
        bench.prefill(bench.store().open(), trace, 0, n, 512);
        lengths.push_back(n);
        expect_equal(used(bench.account()), kv::held_bytes(bench.geometry(), bench.policy(), lengths));
      }
    }
  }
}

TEST(KvMemory, held_bytes_are_exact_for_pages_that_come_in_large_regions_too) {
  const kv::Geometry wide = {2, 8, 8, 128, 0.0f};
  for (const skv_policy policy : {SKV_POLICY_FULL, SKV_POLICY_SHADOWKV}) {
    Bench bench(wide, small_params(policy, SKV_KEYS_EXACT, SKV_DTYPE_BF16));
    std::vector<int64_t> lengths;
    for (const int64_t n : {100, 1100, 1500}) {
      const Trace trace = bench.make_trace(n, {8}, kv_seed());
      bench.prefill(bench.store().open(), trace, 0, n, 512);
      lengths.push_back(n);
      expect_equal(used(bench.account()), kv::held_bytes(bench.geometry(), bench.policy(), lengths));
    }
  }
}

TEST(KvMemory, the_peak_of_a_prefill_is_predicted) {
  for (const skv_key_store keys : {SKV_KEYS_LOWRANK, SKV_KEYS_EXACT}) {
    Bench bench(kGeometry, small_params(SKV_POLICY_SHADOWKV, keys, SKV_DTYPE_BF16));
    const int64_t lengths[] = {4000};
    const Trace trace = bench.make_trace(lengths[0], {24, 0.1f}, kv_seed());
    bench.prefill(bench.store().open(), trace, 0, lengths[0], 512);
    const auto held = kv::held_bytes(bench.geometry(), bench.policy(), lengths);
    const auto extra = kv::prefill_peak_bytes(bench.geometry(), bench.policy(), lengths[0]);
    for (int32_t tier = 0; tier < SKV_TIER_COUNT; ++tier) {
      int64_t predicted = 0;
      for (int32_t p = 0; p < SKV_PURPOSE_COUNT; ++p) predicted += held.bytes[tier][p] + extra.bytes[tier][p];
      const auto measured = bench.account().peak(tier);
      EXPECT_LE(measured, predicted + (1 << 18)) << "tier " << tier;
      EXPECT_GE(measured, predicted - std::max<int64_t>(predicted / 100, 1 << 20)) << "tier " << tier;
    }
  }
}

TEST(KvMemory, closing_gives_everything_back) {
  Bench bench(kGeometry, small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_LOWRANK, SKV_DTYPE_BF16));
  const Trace trace = bench.make_trace(900, {24, 0.1f}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 700);
  for (int64_t t = 700; t < 900; ++t) bench.decode(sequence, trace, t);
  bench.store().close(sequence);
  EXPECT_EQ(bench.account().used(SKV_TIER_FAST), 0);
  EXPECT_EQ(bench.account().used(SKV_TIER_SLOW), 0);
}

// Whatever the limit, a row that does not fit fails alone and goes on as if nothing had been tried once there is room.
TEST(KvMemory, a_refused_row_changes_nothing) {
  const skv_kv_params params = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_LOWRANK, SKV_DTYPE_BF16);
  Bench bench(kGeometry, params), free_bench(kGeometry, params);
  const Trace trace = bench.make_trace(1400, {24, 0.1f}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  kv::Sequence* unlimited = free_bench.store().open();
  int refused = 0;
  for (int64_t t = 0; t < trace.n; ++t) {
    const auto before = used(bench.account());
    bench.account().set_limit(SKV_TIER_FAST, static_cast<uint64_t>(bench.account().used(SKV_TIER_FAST)));
    try {
      bench.store().decode_reserve(sequence, 1);
    } catch (const Error& error) {
      ++refused;
      ASSERT_EQ(error.code(), SKV_E_BUDGET);
      auto after = used(bench.account());
      after.bytes[SKV_TIER_HOST][SKV_PURPOSE_WORKSPACE] = before.bytes[SKV_TIER_HOST][SKV_PURPOSE_WORKSPACE];
      expect_equal(after, before);  // session-wide scratch may have grown
    }
    bench.account().set_limit(SKV_TIER_FAST, UINT64_MAX);
    ASSERT_TRUE(bench.decode(sequence, trace, t) == free_bench.decode(unlimited, trace, t)) << t;
  }
  EXPECT_GE(refused, 3);
}

TEST(KvMemory, a_refused_prefill_can_be_aborted_and_retried) {
  const skv_kv_params params = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_LOWRANK, SKV_DTYPE_BF16);
  Bench bench(kGeometry, params);
  const Trace trace = bench.make_trace(2100, {24, 0.1f}, kv_seed());
  const int64_t lengths[] = {2000};
  const auto held = kv::held_bytes(bench.geometry(), bench.policy(), lengths);
  int64_t fast = 0;
  for (int32_t p = 0; p < SKV_PURPOSE_COUNT; ++p) fast += held.bytes[SKV_TIER_FAST][p];
  kv::Sequence* sequence = bench.store().open();
  for (int64_t limit = fast / 16; limit < fast; limit += fast / 16) {
    bench.account().set_limit(SKV_TIER_FAST, static_cast<uint64_t>(limit));
    EXPECT_THROW(bench.prefill(sequence, trace, 0, 2000), Error) << limit;
    bench.store().prefill_abort(sequence);
    EXPECT_EQ(bench.store().length(sequence), 0);
    EXPECT_EQ(bench.account().used(SKV_TIER_FAST), 0);
  }
  bench.account().set_limit(SKV_TIER_FAST, UINT64_MAX);
  bench.prefill(sequence, trace, 0, 2000);
  EXPECT_EQ(bench.account().used(SKV_TIER_FAST), fast);
}

}  // namespace
}  // namespace skv::test
