// Stale, foreign, NULL and garbage handles; parents destroyed first; every order of destruction.
#include <algorithm>
#include <array>
#include <random>

#include "fail_fixture.h"

namespace failing {

using Handles = WithSession;

// Every call that takes this handle says so, and touches nothing.
void expect_dead(skv_runtime* runtime) {
  int32_t n = 7;
  auto info = sized<skv_device_info>();
  skv_model* model = nullptr;
  EXPECT_EQ(skv_runtime_device_count(runtime, &n, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(n, 7);
  EXPECT_EQ(skv_runtime_device_info(runtime, 0, &info, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_runtime_set_limit(runtime, 0, SKV_TIER_FAST, 1, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_model_open(runtime, "/", nullptr, &model, nullptr), SKV_E_HANDLE);
  skv_runtime_destroy(runtime);
}

void expect_dead(skv_model* model) {
  auto info = sized<skv_model_info>();
  auto budget = sized<skv_budget>();
  auto io = sized<skv_budget_plan_io>();
  skv_session* session = nullptr;
  int64_t n = 0;
  skv_chat_message message = {"user", "x", 1};
  EXPECT_EQ(skv_model_get_info(model, &info, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_model_tokenize(model, "", 0, 0, nullptr, 0, &n, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_model_detokenize(model, nullptr, 0, 0, nullptr, 0, &n, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_model_tokenize_chat(model, &message, 1, sizeof message, 0, nullptr, 0, &n, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_session_create(model, nullptr, &session, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_budget_query(model, nullptr, nullptr, 0, 0, &budget, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_budget_plan(model, nullptr, &io, nullptr), SKV_E_HANDLE);
  skv_model_destroy(model);
}

void expect_dead(skv_session* session) {
  skv_seq seq = 0;
  int32_t token = 0;
  float logit = 0;
  skv_status status = 0;
  auto stats = sized<skv_kv_stats>();
  auto usage = sized<skv_session_usage>();
  EXPECT_EQ(skv_sequence_open(session, SKV_AUTO, &seq, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_sequence_close(session, 1, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_sequence_append(session, 1, &token, 1, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_sequence_cancel(session, 1, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_sequence_length(session, 1, nullptr, nullptr, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_sequence_truncate(session, 1, 0, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_sequence_set_sampler(session, 1, nullptr, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_sequence_sample(session, 1, &token, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_sequence_logits(session, 1, &logit, 1, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_sequence_prefill_status(session, 1, &status, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_sequence_stats(session, 1, &stats, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_session_step(session, nullptr, 0, sizeof(skv_row), nullptr, nullptr, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_session_prefill(session, nullptr, nullptr, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(skv_session_get_usage(session, &usage, nullptr), SKV_E_HANDLE);
  skv_session_interrupt(session);
  skv_session_destroy(session);
}

template <class To, class From>
To* as(From* handle) {
  return reinterpret_cast<To*>(handle);
}

TEST_F(Handles, null) {
  expect_dead(static_cast<skv_runtime*>(nullptr));
  expect_dead(static_cast<skv_model*>(nullptr));
  expect_dead(static_cast<skv_session*>(nullptr));
}

TEST_F(Handles, of_another_kind) {
  expect_dead(as<skv_runtime>(model));
  expect_dead(as<skv_runtime>(session));
  expect_dead(as<skv_model>(runtime));
  expect_dead(as<skv_model>(session));
  expect_dead(as<skv_session>(runtime));
  expect_dead(as<skv_session>(model));
  EXPECT_EQ(length(), 0) << "the real ones live";
}

TEST_F(Handles, garbage_and_foreign_pointers) {
  std::mt19937_64 random(1);
  int on_stack = 0;
  const auto on_heap = std::make_unique<std::array<char, 64>>();
  std::vector<uint64_t> values = {1, 2, 3, 8, ~uint64_t{0}, reinterpret_cast<uintptr_t>(&on_stack),
                                  reinterpret_cast<uintptr_t>(on_heap.get())};
  for (int i = 0; i < 2000; ++i) values.push_back(random());
  // One bit away from a live one.
  for (int bit = 0; bit < 64; ++bit) values.push_back(reinterpret_cast<uintptr_t>(session) ^ (uint64_t{1} << bit));
  for (const uint64_t value : values) expect_dead(reinterpret_cast<skv_session*>(value));
  expect_dead(reinterpret_cast<skv_runtime*>(&on_stack));
  expect_dead(reinterpret_cast<skv_model*>(on_heap.get()));
  EXPECT_EQ(length(), 0);
}

TEST_F(Handles, stale_stay_stale_when_their_place_is_used_again) {
  skv_session* const old = session;
  skv_session_destroy(session);
  expect_dead(old);
  for (int i = 0; i < 50; ++i) {
    ASSERT_EQ(skv_session_create(model, nullptr, &session, nullptr), SKV_OK);
    EXPECT_NE(session, old);
    EXPECT_EQ(skv_session_prefill(old, nullptr, nullptr, nullptr), SKV_E_HANDLE);
    skv_session_destroy(old);
    EXPECT_EQ(skv_session_prefill(session, nullptr, nullptr, nullptr), SKV_OK) << "the old handle destroyed the new one";
    if (i < 49) skv_session_destroy(session);
  }
  expect_dead(old);
}

TEST_F(Handles, sequences_closed_or_of_nobody) {
  skv_seq closed = seq, next = 0;
  ASSERT_EQ(skv_sequence_close(session, seq, nullptr), SKV_OK);
  ASSERT_EQ(skv_sequence_open(session, SKV_AUTO, &next, nullptr), SKV_OK);
  EXPECT_NE(next, closed);
  for (const skv_seq bad : {closed, skv_seq{0}, next + 1, ~skv_seq{0}, next ^ (skv_seq{1} << 40)}) {
    EXPECT_EQ(skv_sequence_append(session, bad, &token, 1, nullptr), SKV_E_HANDLE);
    EXPECT_EQ(skv_sequence_close(session, bad, nullptr), SKV_E_HANDLE);
    EXPECT_EQ(skv_sequence_length(session, bad, nullptr, nullptr, nullptr), SKV_E_HANDLE);
  }
  seq = next;
  EXPECT_EQ(length(), 0);
}

TEST_F(Handles, children_outlive_the_handles_of_their_parents) {
  skv_runtime_destroy(runtime);
  skv_model_destroy(model);
  expect_dead(runtime);
  expect_dead(model);
  prefill(50);
  skv_row r = row(&token);
  EXPECT_EQ(skv_session_step(session, &r, 1, sizeof r, nullptr, nullptr, nullptr), SKV_OK);
  EXPECT_EQ(r.status, SKV_OK);
  EXPECT_EQ(length(), 51);
}

TEST_F(Handles, any_order_of_destruction) {
  std::array<int, 3> order = {0, 1, 2};
  do {
    skv_runtime* a = make_runtime();
    skv_model* b = nullptr;
    skv_session* c = nullptr;
    ASSERT_EQ(skv_model_open(a, directory.path.c_str(), nullptr, &b, nullptr), SKV_OK);
    ASSERT_EQ(skv_session_create(b, nullptr, &c, nullptr), SKV_OK);
    for (const int which : order) {
      if (which == 0) skv_runtime_destroy(a);
      if (which == 1) skv_model_destroy(b);
      if (which == 2) skv_session_destroy(c);
    }
    expect_dead(a);
    expect_dead(b);
    expect_dead(c);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_F(Handles, memory_of_a_destroyed_session_is_given_back) {
  const auto used = [&] {
    auto info = sized<skv_device_info>();
    EXPECT_EQ(skv_runtime_device_info(runtime, 0, &info, nullptr), SKV_OK);
    return info.used_bytes[SKV_TIER_FAST] + info.used_bytes[SKV_TIER_SLOW] + info.used_bytes[SKV_TIER_HOST];
  };
  const int64_t with_one = used();
  skv_session* other = nullptr;
  ASSERT_EQ(skv_session_create(model, nullptr, &other, nullptr), SKV_OK);
  EXPECT_GT(used(), with_one);
  skv_session_destroy(other);
  EXPECT_EQ(used(), with_one);
}

}  // namespace failing
