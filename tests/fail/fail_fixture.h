// A model, a session and small helpers for tests of what goes wrong. Everything goes through the public header.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "shadowkv/shadowkv.h"
#include "tiny_checkpoint.h"

namespace failing {

inline constexpr int32_t kVocab = 256;

// Removed with the object.
struct ModelDirectory {
  ModelDirectory() {
    char text[512];
    if (tiny_checkpoint_make(text) != 0) throw std::runtime_error("no model directory");
    path = text;
  }
  ~ModelDirectory() { tiny_checkpoint_remove(path.c_str()); }
  std::string path;
};

inline skv_error make_error() { return SKV_ERROR_INIT; }

template <class T>
T sized() {
  T value{};
  value.struct_size = sizeof value;
  return value;
}

inline skv_runtime* make_runtime(int32_t max_concurrent = 1) {
  skv_runtime_params params;
  EXPECT_EQ(skv_runtime_params_init(&params, sizeof params), SKV_OK);
  params.threads = 1;
  params.max_concurrent = max_concurrent;
  skv_runtime* runtime = nullptr;
  EXPECT_EQ(skv_runtime_create(&params, &runtime, nullptr), SKV_OK);
  return runtime;
}

inline std::vector<int32_t> some_tokens(int64_t n) {
  std::vector<int32_t> tokens(static_cast<std::size_t>(n));
  uint32_t state = 12345;
  for (int32_t& token : tokens) token = static_cast<int32_t>((state = state * 1664525u + 1013904223u) >> 16) % kVocab;
  return tokens;
}

inline skv_row row_of(skv_seq seq, const int32_t* token) {
  skv_row row{};
  row.seq = seq;
  row.tokens = token;
  row.n_tokens = 1;
  return row;
}

class WithSession : public ::testing::Test {
 protected:
  void SetUp() override {
    runtime = make_runtime();
    ASSERT_EQ(skv_model_open(runtime, directory.path.c_str(), nullptr, &model, nullptr), SKV_OK);
    ASSERT_EQ(skv_session_create(model, nullptr, &session, nullptr), SKV_OK);
    ASSERT_EQ(skv_sequence_open(session, SKV_AUTO, &seq, nullptr), SKV_OK);
  }
  void TearDown() override {
    skv_session_destroy(session);
    skv_model_destroy(model);
    skv_runtime_destroy(runtime);
  }

  void append(int64_t n) {
    const auto tokens = some_tokens(n);
    ASSERT_EQ(skv_sequence_append(session, seq, tokens.data(), n, nullptr), SKV_OK);
  }
  void prefill(int64_t n) {
    append(n);
    ASSERT_EQ(skv_session_prefill(session, nullptr, nullptr, nullptr), SKV_OK);
  }
  int64_t length() {
    int64_t n = -1;
    EXPECT_EQ(skv_sequence_length(session, seq, &n, nullptr, nullptr), SKV_OK);
    return n;
  }
  skv_row row(const int32_t* token) { return row_of(seq, token); }

  ModelDirectory directory;
  skv_runtime* runtime = nullptr;
  skv_model* model = nullptr;
  skv_session* session = nullptr;
  skv_seq seq = 0;
  int32_t token = 5;
};

}  // namespace failing
