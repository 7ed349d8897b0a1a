// Callers compiled against another version: struct_size too small, from the future, and a tail that asks for the unknown.
#include <cstring>

#include "fail_fixture.h"

namespace failing {

using Structs = WithSession;

// A struct as a later version may have it.
template <class T>
struct Future {
  T known{};
  unsigned char tail[64] = {};
};

// call(T*) must refuse wrong sizes; with_tail: a tail that is set is refused (inputs) or zeroed (outputs).
template <class T, class Init, class Call>
void check_input(Init init, Call call) {
  Future<T> future;
  init(&future.known);
  for (const uint32_t size : {0u, 4u, static_cast<uint32_t>(sizeof(T)) - 1, 4097u, 0xffffffffu}) {
    future.known.struct_size = size;
    EXPECT_EQ(call(&future.known), SKV_E_STRUCT) << size;
  }
  future.known.struct_size = sizeof future;
  EXPECT_EQ(call(&future.known), SKV_OK);
  for (const std::size_t at : {std::size_t{0}, sizeof future.tail - 1}) {
    future.tail[at] = 1;
    EXPECT_EQ(call(&future.known), SKV_E_STRUCT) << "tail byte " << at;
    future.tail[at] = 0;
  }
}

template <class T, class Call>
void check_output(Call call) {
  Future<T> future;
  for (const uint32_t size : {0u, 4u, static_cast<uint32_t>(sizeof(T)) - 1, 4097u, 0xffffffffu}) {
    std::memset(static_cast<void*>(&future), 0x5a, sizeof future);
    future.known.struct_size = size;
    const Future<T> before = future;
    EXPECT_EQ(call(&future.known), SKV_E_STRUCT) << size;
    EXPECT_EQ(std::memcmp(&future, &before, sizeof future), 0);
  }
  std::memset(static_cast<void*>(&future), 0x5a, sizeof future);
  future.known.struct_size = sizeof future - 8;
  EXPECT_EQ(call(&future.known), SKV_OK);
  EXPECT_EQ(future.known.struct_size, sizeof future - 8) << "the caller's size stays";
  for (std::size_t i = 0; i < sizeof future.tail; ++i) {
    EXPECT_EQ(future.tail[i], i < sizeof future.tail - 8 ? 0 : 0x5a) << "tail byte " << i;
  }
}

// init writes struct_size as given, 0 in an unknown tail and nothing past the size.
template <class T, class Init>
void check_init(Init init) {
  Future<T> future;
  EXPECT_EQ(init(&future.known, 0), SKV_E_STRUCT);
  EXPECT_EQ(init(&future.known, sizeof(T) - 4), SKV_E_STRUCT);
  EXPECT_EQ(init(&future.known, 4097), SKV_E_STRUCT);
  std::memset(static_cast<void*>(&future), 0x5a, sizeof future);
  EXPECT_EQ(init(&future.known, sizeof(T) + 32), SKV_OK);
  EXPECT_EQ(future.known.struct_size, sizeof(T) + 32);
  EXPECT_EQ(future.tail[31], 0);
  EXPECT_EQ(future.tail[32], 0x5a);
}

TEST_F(Structs, init_functions) {
  check_init<skv_runtime_params>(skv_runtime_params_init);
  check_init<skv_model_params>(skv_model_params_init);
  check_init<skv_kv_params>(skv_kv_params_init);
  check_init<skv_session_params>(skv_session_params_init);
  check_init<skv_sampler_params>(skv_sampler_params_init);
  check_init<skv_step_params>(skv_step_params_init);
}

TEST_F(Structs, inputs) {
  check_input<skv_runtime_params>([](auto* p) { skv_runtime_params_init(p, sizeof *p); },
                                  [](auto* p) {
                                    skv_runtime* made = nullptr;
                                    const skv_status status = skv_runtime_create(p, &made, nullptr);
                                    skv_runtime_destroy(made);
                                    return status;
                                  });
  check_input<skv_model_params>([](auto* p) { skv_model_params_init(p, sizeof *p); },
                                [&](auto* p) {
                                  skv_model* made = nullptr;
                                  const skv_status status =
                                      skv_model_open(runtime, directory.path.c_str(), p, &made, nullptr);
                                  skv_model_destroy(made);
                                  return status;
                                });
  const auto create = [&](const skv_session_params* p) {
    skv_session* made = nullptr;
    const skv_status status = skv_session_create(model, p, &made, nullptr);
    skv_session_destroy(made);
    return status;
  };
  check_input<skv_session_params>([](auto* p) { skv_session_params_init(p, sizeof *p); }, create);
  check_input<skv_kv_params>([](auto* p) { skv_kv_params_init(p, sizeof *p); },
                             [&](auto* p) {
                               skv_session_params params;
                               skv_session_params_init(&params, sizeof params);
                               params.kv = p;
                               return create(&params);
                             });
  check_input<skv_sampler_params>([](auto* p) { skv_sampler_params_init(p, sizeof *p); },
                                  [&](auto* p) { return skv_sequence_set_sampler(session, seq, p, nullptr); });
  check_input<skv_step_params>(
      [](auto* p) { skv_step_params_init(p, sizeof *p); },
      [&](auto* p) { return skv_session_step(session, nullptr, 0, sizeof(skv_row), p, nullptr, nullptr); });
  check_input<skv_budget_plan_io>([](auto* p) { p->n_sequences = 1; },
                                  [&](auto* p) {
                                    p->n_sequences = 1;
                                    p->n_tokens = 0;
                                    return skv_budget_plan(model, nullptr, p, nullptr);
                                  });
}

TEST_F(Structs, outputs) {
  check_output<skv_device_info>([&](auto* p) { return skv_runtime_device_info(runtime, 0, p, nullptr); });
  check_output<skv_model_info>([&](auto* p) { return skv_model_get_info(model, p, nullptr); });
  check_output<skv_kv_stats>([&](auto* p) { return skv_sequence_stats(session, seq, p, nullptr); });
  check_output<skv_session_usage>([&](auto* p) { return skv_session_get_usage(session, p, nullptr); });
  check_output<skv_step_result>(
      [&](auto* p) { return skv_session_step(session, nullptr, 0, sizeof(skv_row), nullptr, p, nullptr); });
  const int64_t length = 100;
  check_output<skv_budget>([&](auto* p) { return skv_budget_query(model, nullptr, &length, 1, 0, p, nullptr); });
}

TEST_F(Structs, rows_keep_the_stride_of_the_caller) {
  skv_seq other = 0;
  ASSERT_EQ(skv_sequence_open(session, SKV_AUTO, &other, nullptr), SKV_OK);
  prefill(10);
  const auto tokens = some_tokens(10);
  ASSERT_EQ(skv_sequence_append(session, other, tokens.data(), 10, nullptr), SKV_OK);
  ASSERT_EQ(skv_session_prefill(session, nullptr, nullptr, nullptr), SKV_OK);
  Future<skv_row> rows[2];
  rows[0].known = row(&token);
  rows[1].known = row_of(other, &token);
  rows[0].known.sample = rows[1].known.sample = 1;
  EXPECT_EQ(skv_session_step(session, &rows[0].known, 2, sizeof rows[0], nullptr, nullptr, nullptr), SKV_OK);
  EXPECT_EQ(rows[0].known.status, SKV_OK);
  EXPECT_EQ(rows[1].known.status, SKV_OK);
  EXPECT_EQ(rows[1].known.sampled_token, rows[0].known.sampled_token) << "equal sequences";
  EXPECT_EQ(rows[1].known.seq, other);
  rows[1].tail[5] = 1;
  EXPECT_EQ(skv_session_step(session, &rows[0].known, 2, sizeof rows[0], nullptr, nullptr, nullptr), SKV_E_STRUCT);
  for (const uint32_t stride : {0u, 8u, static_cast<uint32_t>(sizeof(skv_row)) - 1, 4097u}) {
    EXPECT_EQ(skv_session_step(session, &rows[0].known, 1, stride, nullptr, nullptr, nullptr), SKV_E_STRUCT) << stride;
  }
  EXPECT_EQ(length(), 11);
}

TEST_F(Structs, error_from_the_future_is_filled) {
  Future<skv_error> future;
  future.known.struct_size = sizeof future;
  EXPECT_EQ(skv_sequence_close(session, 0, &future.known), SKV_E_HANDLE);
  EXPECT_EQ(future.known.status, SKV_E_HANDLE);
  EXPECT_NE(future.known.message[0], '\0');
  EXPECT_EQ(future.known.struct_size, sizeof future);
}

}  // namespace failing
