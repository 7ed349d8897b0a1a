// The figures of a run: what --json prints and `stats` shows.
#pragma once

#include <cstdint>

#include "examples/shell/document_session.h"

namespace shell {

struct Measurement {
  int64_t tokens = 0;  // longest prompt: document and question
  int32_t budget = 0;  // tokens selected per step; all with policy full
  int32_t rank = 0;
  double prefill_s = 0;
  double decode_tok_s = 0;
  int64_t kv_bytes_fast = 0;  // once the document was read: keys, values and what finds them; no workspaces
  int64_t kv_bytes_slow = 0;
  double kv_bytes_read_per_token = 0;
  double attended_tokens_mean = 0;  // per token, layer and KV head
  double hit_rate = 0;
  double key_energy = 1;
  int64_t dropped_tokens = 0;  // forgotten, policy streaming
  double missed_mass = 0;      // under the accuracy guard: estimated, mean; and the share of calls that it cut short
  double guard_capped = 0;
  int64_t rss_bytes = 0;
  int64_t peak_rss_bytes = 0;

  int64_t kv_bytes_total() const { return kv_bytes_fast + kv_bytes_slow; }
};

Measurement measure(const DocumentSession& session);

// Bytes of keys, values and what finds them on one tier.
int64_t kv_bytes(const skv_session_usage& usage, skv_tier tier);

}  // namespace shell
