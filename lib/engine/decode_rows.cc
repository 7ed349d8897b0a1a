#include "lib/engine/decode_rows.h"

#include <cinttypes>

namespace skv::engine {

namespace {

constexpr int32_t kMaxRows = 64;       // of a call
constexpr int32_t kMaxRowTokens = 64;  // of a row

bool valid_count(const skv_row& row) { return row.n_tokens >= 1 && row.n_tokens <= kMaxRowTokens; }

}  // namespace

void check_batch(std::span<const skv_row> rows, int32_t max_rows) {
  if (rows.size() > kMaxRows) fail(SKV_E_INVALID, "n_rows is %zu; 0 to %d are allowed", rows.size(), kMaxRows);
  int64_t n = 0;
  for (const skv_row& row : rows) n += valid_count(row) ? row.n_tokens : 0;
  if (n > max_rows) {
    fail(SKV_E_INVALID, "the rows have %" PRId64 " tokens; the session's max_rows allows %d", n, max_rows);
  }
}

void check_tokens(std::span<const int32_t> tokens, int32_t vocab) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab) {
      fail(SKV_E_INVALID, "token %zu is %d; 0 to %d are allowed", i, tokens[i], vocab - 1);
    }
  }
}

int32_t logits_of(const skv_row& row) {
  if (row.logits_mode == SKV_LOGITS_ALL) return row.n_tokens;
  return row.logits_mode == SKV_LOGITS_LAST || row.sample == 1 ? 1 : 0;
}

void check_row(const skv_row& row, const model::Config& config) {
  if (!valid_count(row)) fail(SKV_E_INVALID, "n_tokens is %d; 1 to %d are allowed", row.n_tokens, kMaxRowTokens);
  if (row.tokens == nullptr) fail(SKV_E_INVALID, "tokens is NULL");
  if (row.logits_mode < SKV_LOGITS_NONE || row.logits_mode > SKV_LOGITS_ALL) {
    fail(SKV_E_INVALID, "logits_mode is %d; 0 to 2 are allowed", row.logits_mode);
  }
  if (row.sample != 0 && row.sample != 1) fail(SKV_E_INVALID, "sample is %d; 0 and 1 are allowed", row.sample);
  if (row.reserved != 0) fail(SKV_E_INVALID, "reserved is %d; it must be 0", row.reserved);
  if (row.logits_mode == SKV_LOGITS_ALL && row.logits == nullptr) {
    fail(SKV_E_INVALID, "logits is NULL; logits_mode SKV_LOGITS_ALL needs it");
  }
  if (row.logits_mode != SKV_LOGITS_NONE && row.logits != nullptr) {
    const int64_t needed = static_cast<int64_t>(logits_of(row)) * config.vocab;
    if (row.logits_capacity < needed) {
      fail(SKV_E_SPACE, "logits_capacity is %" PRId64 " floats; %" PRId64 " are needed", row.logits_capacity, needed);
    }
  }
  check_tokens({row.tokens, static_cast<std::size_t>(row.n_tokens)}, config.vocab);
}

void check_row_sequence(const skv_row& row, const SequenceState& sequence) {
  if (sequence.in_step) fail(SKV_E_INVALID, "the sequence has another row in this step");
  if (sequence.queued() > 0) {
    fail(SKV_E_STATE, "%" PRId64 " prompt tokens of the sequence are queued", sequence.queued());
  }
  if (sequence.length + row.n_tokens > sequence.max_tokens) {
    fail(SKV_E_LIMIT, "the sequence has %" PRId64 " tokens and the row %d; its max_tokens is %" PRId64,
         sequence.length, row.n_tokens, sequence.max_tokens);
  }
}

}  // namespace skv::engine
