#include "examples/shell/measurement.h"

#include <fstream>
#include <string>

namespace shell {

namespace {

// "VmRSS:     1234 kB" of /proc/self/status in bytes; 0 where there is no such file.
int64_t process_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    if (word != field + ":") continue;
    int64_t kilobytes = 0;
    status >> kilobytes;
    return kilobytes * 1024;
  }
  return 0;
}

double ratio(double a, double b) { return b > 0 ? a / b : 0; }

}  // namespace

int64_t kv_bytes(const skv_session_usage& usage, skv_tier tier) {
  int64_t sum = 0;
  for (int purpose = SKV_PURPOSE_EXACT_KV; purpose <= SKV_PURPOSE_KEYS; ++purpose)
    sum += usage.used.bytes[tier][purpose];
  return sum;
}

Measurement measure(const DocumentSession& session) {
  const skv_kv_stats now = session.stats();
  const skv_kv_stats& start = session.stats_at_start();
  const Totals& totals = session.totals();
  Measurement m;
  m.tokens = session.document_tokens() + totals.longest_question;
  m.budget = now.budget_tokens;
  m.rank = session.rank();
  m.prefill_s = session.prefill_s();
  m.decode_tok_s = ratio(static_cast<double>(totals.decode_rows), totals.decode_s);
  m.kv_bytes_fast = kv_bytes(session.usage_at_start(), SKV_TIER_FAST);
  m.kv_bytes_slow = kv_bytes(session.usage_at_start(), SKV_TIER_SLOW);
  m.kv_bytes_read_per_token = ratio(static_cast<double>(now.bytes_read - start.bytes_read),
                                    static_cast<double>(now.decode_tokens - start.decode_tokens));
  m.attended_tokens_mean = ratio(static_cast<double>(now.attended_tokens - start.attended_tokens),
                                 static_cast<double>(now.attention_calls - start.attention_calls));
  m.hit_rate = ratio(static_cast<double>(now.slot_hits - start.slot_hits),
                     static_cast<double>(now.selected_chunks - start.selected_chunks));
  m.key_energy = now.key_energy;
  m.dropped_tokens = now.n_dropped;
  m.missed_mass = now.missed_mass;
  m.guard_capped = ratio(static_cast<double>(now.guard_capped), static_cast<double>(now.guard_calls));
  m.rss_bytes = process_bytes("VmRSS");
  m.peak_rss_bytes = process_bytes("VmHWM");
  return m;
}

}  // namespace shell
