// NULL and out-of-range arguments: the documented status, a message that says what is allowed, and nothing changed.
#include <cmath>
#include <cstring>
#include <limits>

#include "fail_fixture.h"

namespace failing {

using Arguments = WithSession;

TEST_F(Arguments, null_outputs_are_invalid) {
  EXPECT_EQ(skv_runtime_create(nullptr, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_runtime_device_count(runtime, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_runtime_device_info(runtime, 0, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_open(runtime, directory.path.c_str(), nullptr, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_get_info(model, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_tokenize(model, "a", 1, 0, &token, 1, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_detokenize(model, &token, 1, 0, nullptr, 0, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_session_create(model, nullptr, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_sequence_open(session, SKV_AUTO, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_sequence_sample(session, seq, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_sequence_logits(session, seq, nullptr, kVocab, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_sequence_prefill_status(session, seq, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_sequence_stats(session, seq, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_session_get_usage(session, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_budget_query(model, nullptr, nullptr, 0, 0, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_budget_plan(model, nullptr, nullptr, nullptr), SKV_E_INVALID);
}

TEST_F(Arguments, null_inputs_are_invalid_unless_empty) {
  skv_model* opened = nullptr;
  int64_t n = 0;
  EXPECT_EQ(skv_model_open(runtime, nullptr, nullptr, &opened, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_tokenize(model, nullptr, 1, 0, &token, 1, &n, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_tokenize(model, nullptr, 0, 0, nullptr, 0, &n, nullptr), SKV_OK);
  EXPECT_EQ(skv_model_tokenize(model, "a", -1, 0, &token, 1, &n, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_tokenize(model, "a", 1, 0, nullptr, 1, &n, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_tokenize(model, "a", 1, 4, &token, 1, &n, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_detokenize(model, nullptr, 1, 0, nullptr, 0, &n, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_model_detokenize(model, nullptr, 0, 0, nullptr, 0, &n, nullptr), SKV_OK);
  EXPECT_EQ(skv_sequence_append(session, seq, nullptr, 1, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_sequence_append(session, seq, nullptr, 0, nullptr), SKV_OK);
  EXPECT_EQ(skv_sequence_append(session, seq, &token, -1, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_session_step(session, nullptr, 1, sizeof(skv_row), nullptr, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_session_step(session, nullptr, 0, 0, nullptr, nullptr, nullptr), SKV_OK);
  EXPECT_EQ(skv_sequence_length(session, seq, nullptr, nullptr, nullptr), SKV_OK);
  EXPECT_EQ(length(), 0);
}

TEST_F(Arguments, null_params_init_is_invalid) {
  EXPECT_EQ(skv_runtime_params_init(nullptr, sizeof(skv_runtime_params)), SKV_E_INVALID);
  EXPECT_EQ(skv_model_params_init(nullptr, sizeof(skv_model_params)), SKV_E_INVALID);
  EXPECT_EQ(skv_kv_params_init(nullptr, sizeof(skv_kv_params)), SKV_E_INVALID);
  EXPECT_EQ(skv_session_params_init(nullptr, sizeof(skv_session_params)), SKV_E_INVALID);
  EXPECT_EQ(skv_sampler_params_init(nullptr, sizeof(skv_sampler_params)), SKV_E_INVALID);
  EXPECT_EQ(skv_step_params_init(nullptr, sizeof(skv_step_params)), SKV_E_INVALID);
}

TEST_F(Arguments, bad_tokens_are_named_by_index_and_nothing_is_queued) {
  for (const int32_t bad : {-1, kVocab, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    std::vector<int32_t> tokens = some_tokens(20);
    tokens[13] = bad;
    skv_error err = make_error();
    EXPECT_EQ(skv_sequence_append(session, seq, tokens.data(), 20, &err), SKV_E_INVALID);
    EXPECT_EQ(err.status, SKV_E_INVALID);
    EXPECT_NE(std::strstr(err.message, "13"), nullptr) << err.message;
    int64_t queued = -1, n = 0;
    EXPECT_EQ(skv_sequence_length(session, seq, nullptr, &queued, nullptr), SKV_OK);
    EXPECT_EQ(queued, 0);
    EXPECT_EQ(skv_model_detokenize(model, tokens.data(), 20, 0, nullptr, 0, &n, &err), SKV_E_INVALID);
    EXPECT_NE(std::strstr(err.message, "13"), nullptr) << err.message;
  }
}

TEST_F(Arguments, arrays_that_are_too_small_get_the_count_and_no_bytes) {
  int32_t tokens[3] = {-7, -7, -7};
  int64_t n = 0;
  EXPECT_EQ(skv_model_tokenize(model, "abcd", 4, 0, tokens, 3, &n, nullptr), SKV_E_SPACE);
  EXPECT_EQ(n, 4);
  EXPECT_EQ(tokens[0], -7);
  EXPECT_EQ(skv_model_tokenize(model, "abcd", 4, 0, nullptr, 0, &n, nullptr), SKV_E_SPACE);
  EXPECT_EQ(n, 4);
  char bytes[2] = {'x', 'x'};
  const int32_t ids[3] = {'a', 'b', 'c'};
  EXPECT_EQ(skv_model_detokenize(model, ids, 3, 0, bytes, 2, &n, nullptr), SKV_E_SPACE);
  EXPECT_EQ(n, 3);
  EXPECT_EQ(bytes[0], 'x');
  prefill(10);
  std::vector<float> logits(kVocab, -3.0f);
  EXPECT_EQ(skv_sequence_logits(session, seq, logits.data(), kVocab - 1, nullptr), SKV_E_SPACE);
  EXPECT_EQ(logits[0], -3.0f);
  EXPECT_EQ(skv_sequence_logits(session, seq, logits.data(), kVocab, nullptr), SKV_OK);
}

TEST_F(Arguments, row_whose_logits_do_not_fit_fails_alone) {
  prefill(10);
  std::vector<float> logits(2 * kVocab);
  const int32_t two[2] = {3, 4};
  skv_error err = make_error();
  skv_row r = row(two);
  r.n_tokens = 2;
  r.logits_mode = SKV_LOGITS_ALL;
  r.logits = logits.data();
  r.logits_capacity = 2 * kVocab - 1;
  r.err = &err;
  EXPECT_EQ(skv_session_step(session, &r, 1, sizeof r, nullptr, nullptr, nullptr), SKV_OK);
  EXPECT_EQ(r.status, SKV_E_SPACE);
  EXPECT_EQ(err.status, SKV_E_SPACE);
  EXPECT_EQ(r.sampled_token, -1);
  EXPECT_EQ(length(), 10);
  r.logits_capacity = 2 * kVocab;
  EXPECT_EQ(skv_session_step(session, &r, 1, sizeof r, nullptr, nullptr, nullptr), SKV_OK);
  EXPECT_EQ(r.status, SKV_OK) << err.message;
  EXPECT_EQ(length(), 12);
}

TEST_F(Arguments, bad_rows_have_their_own_status_and_good_ones_proceed) {
  skv_seq other = 0;
  ASSERT_EQ(skv_sequence_open(session, SKV_AUTO, &other, nullptr), SKV_OK);
  prefill(10);
  const int32_t bad_token = kVocab;
  skv_row rows[6] = {row(&token), row(&token), row_of(other, &bad_token), row_of(0, &token), row_of(other, nullptr),
                     row_of(other, &token)};
  rows[5].n_tokens = 65;
  EXPECT_EQ(skv_session_step(session, rows, 6, sizeof(skv_row), nullptr, nullptr, nullptr), SKV_OK);
  EXPECT_EQ(rows[0].status, SKV_OK);
  EXPECT_EQ(rows[1].status, SKV_E_INVALID) << "one row per sequence";
  EXPECT_EQ(rows[2].status, SKV_E_INVALID);
  EXPECT_EQ(rows[3].status, SKV_E_HANDLE);
  EXPECT_EQ(rows[4].status, SKV_E_INVALID);
  EXPECT_EQ(rows[5].status, SKV_E_INVALID);
  EXPECT_EQ(length(), 11);
}

TEST_F(Arguments, more_tokens_than_max_rows_fail_the_whole_step) {
  const std::vector<int32_t> tokens = some_tokens(40);
  skv_seq other = 0;
  ASSERT_EQ(skv_sequence_open(session, SKV_AUTO, &other, nullptr), SKV_OK);
  skv_row rows[2] = {row(tokens.data()), row_of(other, tokens.data())};
  rows[0].n_tokens = rows[1].n_tokens = 40;
  EXPECT_EQ(skv_session_step(session, rows, 2, sizeof(skv_row), nullptr, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(rows[0].status, SKV_E_INVALID);
  EXPECT_EQ(length(), 0);
  rows[1].n_tokens = 24;
  EXPECT_EQ(skv_session_step(session, rows, 2, sizeof(skv_row), nullptr, nullptr, nullptr), SKV_OK);
  EXPECT_EQ(rows[0].status, SKV_OK);
  EXPECT_EQ(length(), 40);
}

TEST_F(Arguments, failure_of_the_whole_step_is_in_every_row) {
  prefill(10);
  skv_row rows[2] = {row(&token), row(&token)};
  rows[0].status = rows[1].status = 77;
  skv_step_params params;
  ASSERT_EQ(skv_step_params_init(&params, sizeof params), SKV_OK);
  params.reserved = 1;
  EXPECT_EQ(skv_session_step(session, rows, 2, sizeof(skv_row), &params, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(rows[0].status, SKV_E_INVALID);
  EXPECT_EQ(rows[1].status, SKV_E_INVALID);
  EXPECT_EQ(skv_session_step(nullptr, rows, 2, sizeof(skv_row), nullptr, nullptr, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(rows[0].status, SKV_E_HANDLE);
  EXPECT_EQ(skv_session_step(session, rows, -1, sizeof(skv_row), nullptr, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_session_step(session, rows, 65, sizeof(skv_row), nullptr, nullptr, nullptr), SKV_E_INVALID);
  EXPECT_EQ(length(), 10);
}

TEST_F(Arguments, decode_beside_a_queue_is_the_wrong_moment) {
  prefill(10);
  append(5);
  skv_row r = row(&token);
  skv_step_params params;
  ASSERT_EQ(skv_step_params_init(&params, sizeof params), SKV_OK);
  params.max_prefill_tokens = 0;
  EXPECT_EQ(skv_session_step(session, &r, 1, sizeof r, &params, nullptr, nullptr), SKV_OK);
  EXPECT_EQ(r.status, SKV_E_STATE);
  EXPECT_EQ(length(), 10);
}

TEST_F(Arguments, sampling_and_logits_need_logits) {
  EXPECT_EQ(skv_sequence_sample(session, seq, &token, nullptr), SKV_E_STATE);
  std::vector<float> logits(kVocab);
  EXPECT_EQ(skv_sequence_logits(session, seq, logits.data(), kVocab, nullptr), SKV_E_STATE);
  EXPECT_EQ(skv_sequence_sample(session, seq + 1, &token, nullptr), SKV_E_HANDLE);
  EXPECT_EQ(token, 5);
}

TEST_F(Arguments, truncate_takes_lengths_up_to_the_present_one_and_no_queue) {
  prefill(40);
  EXPECT_EQ(skv_sequence_truncate(session, seq, -1, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_sequence_truncate(session, seq, 41, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_sequence_truncate(session, 0, 4, nullptr), SKV_E_HANDLE);
  append(3);
  EXPECT_EQ(skv_sequence_truncate(session, seq, 4, nullptr), SKV_E_STATE);
  EXPECT_EQ(length(), 40);
  EXPECT_EQ(skv_sequence_cancel(session, seq, nullptr), SKV_OK);
  EXPECT_EQ(skv_sequence_truncate(session, seq, 4, nullptr), SKV_OK);
  EXPECT_EQ(length(), 4);
  EXPECT_EQ(skv_sequence_sample(session, seq, &token, nullptr), SKV_E_STATE) << "logits went with the tokens";
  EXPECT_EQ(skv_sequence_truncate(session, seq, 0, nullptr), SKV_OK);
}

TEST_F(Arguments, lengths_and_counts_have_limits) {
  skv_seq s = 0;
  EXPECT_EQ(skv_sequence_open(session, 0, &s, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_sequence_open(session, -2, &s, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_sequence_open(session, 32769, &s, nullptr), SKV_E_LIMIT);
  EXPECT_EQ(skv_sequence_open(session, 8, &s, nullptr), SKV_OK);
  const auto tokens = some_tokens(9);
  EXPECT_EQ(skv_sequence_append(session, s, tokens.data(), 9, nullptr), SKV_E_LIMIT);
  EXPECT_EQ(skv_sequence_append(session, s, tokens.data(), 8, nullptr), SKV_OK);
  int opened = 2;
  skv_status status = SKV_OK;
  while ((status = skv_sequence_open(session, SKV_AUTO, &s, nullptr)) == SKV_OK && opened < 1000) ++opened;
  EXPECT_EQ(status, SKV_E_LIMIT);
  EXPECT_EQ(opened, 64);
}

TEST_F(Arguments, devices_and_tiers_are_checked) {
  auto info = sized<skv_device_info>();
  EXPECT_EQ(skv_runtime_device_info(runtime, -1, &info, nullptr), SKV_E_NO_DEVICE);
  EXPECT_EQ(skv_runtime_device_info(runtime, 1000, &info, nullptr), SKV_E_NO_DEVICE);
  EXPECT_EQ(skv_runtime_set_limit(runtime, 1000, SKV_TIER_FAST, 1, nullptr), SKV_E_NO_DEVICE);
  EXPECT_EQ(skv_runtime_set_limit(runtime, 0, -1, 1, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_runtime_set_limit(runtime, 0, SKV_TIER_COUNT, 1, nullptr), SKV_E_INVALID);
  skv_session_params params;
  skv_session* other = nullptr;
  ASSERT_EQ(skv_session_params_init(&params, sizeof params), SKV_OK);
  params.device = 7;
  EXPECT_EQ(skv_session_create(model, &params, &other, nullptr), SKV_E_NO_DEVICE);
  EXPECT_EQ(other, nullptr);
}

// field, value that is refused
TEST_F(Arguments, session_fields_are_checked_and_named) {
  const auto refused = [&](auto set, const char* field) {
    skv_session_params params;
    skv_session* other = session;
    skv_error err = make_error();
    skv_session_params_init(&params, sizeof params);
    set(params);
    const skv_status status = skv_session_create(model, &params, &other, &err);
    EXPECT_TRUE(status == SKV_E_INVALID || status == SKV_E_UNSUPPORTED) << field << ": " << status;
    EXPECT_EQ(other, nullptr) << field;
    EXPECT_NE(std::strstr(err.message, field), nullptr) << err.message;
  };
  refused([](auto& p) { p.max_sequences = 0; }, "max_sequences");
  refused([](auto& p) { p.max_sequences = 65537; }, "max_sequences");
  refused([](auto& p) { p.max_rows = 65; }, "max_rows");
  refused([](auto& p) { p.prefill_block_tokens = 63; }, "prefill_block_tokens");
  refused([](auto& p) { p.reserved = 1; }, "reserved");
}

TEST_F(Arguments, kv_fields_are_checked_and_named) {
  const double nan = std::nan("");
  const auto refused = [&](auto set, const char* field) {
    skv_session_params params;
    skv_kv_params kv;
    skv_session* other = nullptr;
    skv_error err = make_error();
    skv_session_params_init(&params, sizeof params);
    skv_kv_params_init(&kv, sizeof kv);
    params.kv = &kv;
    set(kv);
    const skv_status status = skv_session_create(model, &params, &other, &err);
    EXPECT_TRUE(status == SKV_E_INVALID || status == SKV_E_UNSUPPORTED) << field << ": " << status;
    EXPECT_NE(std::strstr(err.message, field), nullptr) << field << ": " << err.message;
  };
  refused([](auto& p) { p.policy = 5; }, "policy");
  refused([](auto& p) { p.dtype = SKV_DTYPE_F16; }, "dtype");
  refused([](auto& p) { p.keys = 2; }, "keys");
  refused([](auto& p) { p.digest = 4; }, "digest");
  refused([](auto& p) { p.digest_codec = SKV_CODEC_INT4; }, "digest_codec");
  refused([](auto& p) { p.digest = SKV_DIGEST_BOX, p.digest_codec = SKV_CODEC_INT8; }, "digest_codec");
  refused([](auto& p) { p.digest = SKV_DIGEST_KEYS_2BIT, p.digest_codec = SKV_CODEC_INT8; }, "digest_codec");
  refused([](auto& p) { p.value_codec = 3; }, "value_codec");
  refused([](auto& p) { p.key_codec = SKV_CODEC_INT4; }, "key_codec");  // of low-rank keys
  refused([](auto& p) { p.keys = SKV_KEYS_EXACT, p.key_codec = -1; }, "key_codec");
  refused([](auto& p) { p.unselected = 2; }, "unselected");
  refused([](auto& p) { p.unselected = SKV_UNSELECTED_ESTIMATED, p.digest = SKV_DIGEST_BOX; }, "unselected");
  refused([](auto& p) { p.max_missed_mass = 1.0; }, "max_missed_mass");
  refused([&](auto& p) { p.max_missed_mass = nan; }, "max_missed_mass");
  refused([](auto& p) { p.max_missed_mass = 0.1, p.digest = SKV_DIGEST_BOX; }, "max_missed_mass");
  refused([](auto& p) { p.max_budget_tokens = 7; }, "max_budget_tokens");
  refused([](auto& p) { p.sink_tokens = 65; }, "sink_tokens");
  refused([](auto& p) { p.chunk_tokens = 7; }, "chunk_tokens");
  refused([](auto& p) { p.rank = 33; }, "rank");
  refused([](auto& p) { p.rank = 0; }, "rank");
  refused([](auto& p) { p.budget_fraction = 1.5; }, "budget_fraction");
  refused([&](auto& p) { p.budget_fraction = nan; }, "budget_fraction");
  refused([](auto& p) { p.budget_min_tokens = 7; }, "budget_min_tokens");
  refused([](auto& p) { p.budget_tokens = 7; }, "budget_tokens");
  refused([&](auto& p) { p.outlier_fraction = nan; }, "outlier_fraction");
  refused([](auto& p) { p.outlier_fraction = 0.06; }, "outlier_fraction");
  refused([](auto& p) { p.window_tokens = -1; }, "window_tokens");
  refused([](auto& p) { p.flush_tokens = 7; }, "flush_tokens");
  refused([](auto& p) { p.dense_below_tokens = -2; }, "dense_below_tokens");
  refused([&](auto& p) { p.residual_factor = nan; }, "residual_factor");
  refused([](auto& p) { p.max_segments = 65; }, "max_segments");
  refused([](auto& p) { p.slot_chunks = 32768; }, "slot_chunks");
  refused([](auto& p) { p.turn_attention = 2; }, "turn_attention");
  refused([](auto& p) { p.reserved0 = 1; }, "reserved0");
  refused([](auto& p) { p.reserved1 = 1; }, "reserved1");
  // Arrays: the tiny model has 2 layers.
  static const double weights[] = {1.0, -0.5, 1.0, 1.0}, spoiled[] = {nan, 1.0};
  static const int32_t twice[] = {1, 1}, beyond[] = {2};
  refused([](auto& p) { p.n_budget_weights = 2; }, "budget_weights");  // NULL
  refused([](auto& p) { p.n_budget_weights = 3, p.budget_weights = weights; }, "n_budget_weights");
  refused([](auto& p) { p.n_budget_weights = 2, p.budget_weights = weights; }, "budget_weights");
  refused([](auto& p) { p.n_budget_weights = 2, p.budget_weights = spoiled; }, "budget_weights");
  refused([](auto& p) { p.n_dense_layers = 1; }, "dense_layers");
  refused([](auto& p) { p.n_dense_layers = -1, p.dense_layers = twice; }, "n_dense_layers");
  refused([](auto& p) { p.n_dense_layers = 2, p.dense_layers = twice; }, "dense_layers");
  refused([](auto& p) { p.n_dense_layers = 1, p.dense_layers = beyond; }, "dense_layers");
}

TEST_F(Arguments, presets_are_checked) {
  skv_kv_params kv;
  EXPECT_EQ(skv_kv_params_preset(nullptr, sizeof kv, SKV_POLICY_QUEST), SKV_E_INVALID);
  EXPECT_EQ(skv_kv_params_preset(&kv, 3, SKV_POLICY_QUEST), SKV_E_STRUCT);
  EXPECT_EQ(skv_kv_params_preset(&kv, sizeof kv, 5), SKV_E_UNSUPPORTED);
  for (skv_policy policy = SKV_POLICY_FULL; policy <= SKV_POLICY_STREAMING; ++policy) {
    ASSERT_EQ(skv_kv_params_preset(&kv, sizeof kv, policy), SKV_OK);
    EXPECT_EQ(kv.policy, policy);
    skv_session_params params;
    skv_session_params_init(&params, sizeof params);
    params.kv = &kv;
    skv_session* other = nullptr;
    EXPECT_EQ(skv_session_create(model, &params, &other, nullptr), SKV_OK) << policy;
    skv_session_destroy(other);
  }
}

TEST_F(Arguments, sampler_fields_are_checked_and_the_old_sampler_stays) {
  const auto refused = [&](auto set, const char* field) {
    skv_sampler_params params;
    skv_error err = make_error();
    skv_sampler_params_init(&params, sizeof params);
    set(params);
    EXPECT_EQ(skv_sequence_set_sampler(session, seq, &params, &err), SKV_E_INVALID) << field;
    EXPECT_NE(std::strstr(err.message, field), nullptr) << err.message;
  };
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  refused([](auto& p) { p.temperature = -0.1f; }, "temperature");
  refused([&](auto& p) { p.temperature = nan; }, "temperature");
  refused([&](auto& p) { p.temperature = inf; }, "temperature");
  refused([](auto& p) { p.top_k = -1; }, "top_k");
  refused([](auto& p) { p.top_p = 0.0f; }, "top_p");
  refused([](auto& p) { p.top_p = 1.1f; }, "top_p");
  refused([&](auto& p) { p.min_p = nan; }, "min_p");
  refused([](auto& p) { p.repetition_penalty = 0.0f; }, "repetition_penalty");
}

TEST_F(Arguments, budget_questions_are_checked) {
  auto budget = sized<skv_budget>();
  const int64_t negative = -1, beyond = 32769, fine = 100;
  EXPECT_EQ(skv_budget_query(model, nullptr, &negative, 1, 0, &budget, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_budget_query(model, nullptr, &beyond, 1, 0, &budget, nullptr), SKV_E_LIMIT);
  EXPECT_EQ(skv_budget_query(model, nullptr, nullptr, 1, 0, &budget, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_budget_query(model, nullptr, &fine, -1, 0, &budget, nullptr), SKV_E_INVALID);
  EXPECT_EQ(skv_budget_query(model, nullptr, &fine, 1, 1, &budget, nullptr), SKV_E_INVALID);
  EXPECT_EQ(budget.held_bytes[SKV_TIER_HOST], 0) << "nothing is written on failure";
  EXPECT_EQ(skv_budget_query(model, nullptr, &fine, 1, 0, &budget, nullptr), SKV_OK);
  auto io = sized<skv_budget_plan_io>();
  EXPECT_EQ(skv_budget_plan(model, nullptr, &io, nullptr), SKV_E_INVALID) << "nothing is given";
  io.n_sequences = 1;
  io.n_tokens = 100;
  EXPECT_EQ(skv_budget_plan(model, nullptr, &io, nullptr), SKV_E_INVALID) << "both are given";
  io.n_tokens = 0;
  EXPECT_EQ(skv_budget_plan(model, nullptr, &io, nullptr), SKV_OK) << "no byte allowed: nothing fits";
  EXPECT_EQ(io.fits, 0);
}

TEST_F(Arguments, errors_are_optional_and_an_unset_one_is_left_alone) {
  skv_error err;
  std::memset(&err, 0x5a, sizeof err);
  err.struct_size = 0;
  const skv_error before = err;
  EXPECT_EQ(skv_sequence_close(session, 0, &err), SKV_E_HANDLE);
  EXPECT_EQ(std::memcmp(&err, &before, sizeof err), 0);
  skv_error success = make_error();
  success.status = 99;
  EXPECT_EQ(skv_sequence_length(session, seq, nullptr, nullptr, &success), SKV_OK);
  EXPECT_EQ(success.status, 99) << "written only on failure";
}

}  // namespace failing
