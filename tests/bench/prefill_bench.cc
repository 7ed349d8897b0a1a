// Time and peak memory of a long prefill through the public API, beside what the budget query said before it.
//   prefill_bench MODEL_DIR TOKENS full|shadowkv|shadowkv_exact_keys
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "shadowkv/shadowkv.h"

namespace {

skv_error err = SKV_ERROR_INIT;

void check(skv_status status) {
  if (status == SKV_OK) return;
  std::fprintf(stderr, "status %d: %s\n", status, err.message);
  std::exit(1);
}

int64_t process_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  std::string word;
  int64_t kilobytes = 0;
  while (status >> word) {
    if (word == field + ":" && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

int64_t sum(const int64_t* tiers) { return tiers[SKV_TIER_FAST] + tiers[SKV_TIER_SLOW] + tiers[SKV_TIER_HOST]; }

struct Prefill {
  double seconds = 0;
  skv_session_usage usage{};
  int64_t rss_before = 0;
  int64_t rss_peak = 0;
};

Prefill prefill(skv_model* model, const skv_session_params& params, int64_t n, int32_t vocabulary) {
  std::vector<int32_t> tokens(static_cast<std::size_t>(n));
  uint64_t state = 1;
  for (int32_t& token : tokens) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    token = static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocabulary));
  }
  Prefill p;
  p.rss_before = process_bytes("VmRSS");
  skv_session* session = nullptr;
  skv_seq seq = 0;
  check(skv_session_create(model, &params, &session, &err));
  check(skv_sequence_open(session, SKV_AUTO, &seq, &err));
  check(skv_sequence_append(session, seq, tokens.data(), n, &err));
  const auto start = std::chrono::steady_clock::now();
  check(skv_session_prefill(session, nullptr, nullptr, &err));
  p.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  p.rss_peak = process_bytes("VmHWM");
  p.usage.struct_size = sizeof p.usage;
  check(skv_session_get_usage(session, &p.usage, &err));
  skv_session_destroy(session);
  return p;
}

void print(const std::string& variant, int64_t n, const Prefill& p, const skv_budget& budget) {
  const char* commit = std::getenv("SKV_COMMIT");
  const auto s = [](int64_t ns) { return static_cast<double>(ns) * 1e-9; };
  std::printf("{\"bench\": \"prefill\", \"op\": \"prefill\", \"variant\": \"%s\", \"tokens\": %" PRId64
              ", \"seconds\": %.4g, "
              "\"tokens_per_s\": %.0f, \"forward_s\": %.4g, \"attention_s\": %.4g, \"compress_s\": %.4g, "
              "\"peak_bytes\": %" PRId64 ", \"predicted_peak_bytes\": %" PRId64 ", \"peak_fast\": %" PRId64
              ", \"predicted_fast\": %" PRId64 ", \"peak_slow\": %" PRId64 ", \"predicted_slow\": %" PRId64
              ", \"peak_host\": %" PRId64 ", \"predicted_host\": %" PRId64 ", \"process_growth_bytes\": %" PRId64
              ", \"commit\": \"%s\"}\n",
              variant.c_str(), n, p.seconds, static_cast<double>(n) / p.seconds, s(p.usage.prefill_forward_ns),
              s(p.usage.prefill_attention_ns), s(p.usage.compress_ns), sum(p.usage.peak_bytes),
              sum(budget.peak_bytes), p.usage.peak_bytes[0], budget.peak_bytes[0], p.usage.peak_bytes[1],
              budget.peak_bytes[1], p.usage.peak_bytes[2], budget.peak_bytes[2], p.rss_peak - p.rss_before,
              commit ? commit : "unknown");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string variant = argc > 3 ? argv[3] : "";
  const int64_t n = argc > 2 ? std::atoll(argv[2]) : 0;
  if ((variant != "full" && variant != "shadowkv" && variant != "shadowkv_exact_keys") || n < 1) {
    std::fprintf(stderr, "usage: %s MODEL_DIR TOKENS full|shadowkv|shadowkv_exact_keys\n", argv[0]);
    return 2;
  }
  skv_runtime* runtime = nullptr;
  skv_model* model = nullptr;
  skv_model_info info{};
  info.struct_size = sizeof info;
  check(skv_runtime_create(nullptr, &runtime, &err));
  check(skv_model_open(runtime, argv[1], nullptr, &model, &err));
  check(skv_model_get_info(model, &info, &err));
  skv_kv_params kv;
  skv_session_params params;
  check(skv_kv_params_init(&kv, sizeof kv));
  check(skv_session_params_init(&params, sizeof params));
  kv.policy = variant == "full" ? SKV_POLICY_FULL : SKV_POLICY_SHADOWKV;
  kv.keys = variant == "shadowkv_exact_keys" ? SKV_KEYS_EXACT : SKV_KEYS_LOWRANK;
  params.kv = &kv;
  params.max_sequences = 1;
  skv_budget budget{};
  budget.struct_size = sizeof budget;
  check(skv_budget_query(model, &params, &n, 1, 0, &budget, &err));
  print(variant, n, prefill(model, params, n, info.vocab_size), budget);
  skv_model_destroy(model);
  skv_runtime_destroy(runtime);
  return 0;
}
