// Decode attention per layer, 32/8/128, batch 1, cycling through layers of distinct data: full attention and
// configurations of shadowkv. Each is checked against the reference ops first. One JSON line a configuration, and how many
// times full attention takes as long.
//   attention_bench [--bench-small] [--tokens N] [--layers N] [--samples N] [--correlation C] [--configs NAME,NAME,...]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <omp.h>

#include "kernels/ops.h"
#include "lib/base/status.h"
#include "lib/kv/store.h"
#include "tests/bench/synthetic_kv.h"
#include "tests/kernels/kernel_bench.h"

namespace skv::bench {
namespace {

constexpr int64_t kBlock = 512;
constexpr int kWarmUp = 3;
constexpr double kTolerance = 2e-2;  // bf16 keys and values

struct Options {
  int64_t tokens = 131072;
  int32_t layers = 16;
  int samples = 15;
  double correlation = 0.925;  // about 60 % of a step's chunks were selected by the step before
  std::vector<std::string> configs = {"full", "exact"};
};

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x.size() % 2 ? x[x.size() / 2] : 0.5 * (x[x.size() / 2 - 1] + x[x.size() / 2]);
}

kv::Geometry geometry(int32_t layers) { return {layers, 32, 8, 128, 1.0f / std::sqrt(128.0f)}; }

constexpr const char* kConfigNames =
    "full, exact, exact_int8, exact_int4, two_bit, estimated, guarded, low_rank, low_rank_int8";

void set_codecs(skv_kv_params* p, skv_codec keys, skv_codec values, skv_codec digests) {
  p->key_codec = keys;
  p->value_codec = values;
  p->digest_codec = digests;
}

std::optional<skv_kv_params> config_params(const std::string& name) {
  skv_kv_params p = kv::default_kv_params();
  p.policy = name == "full" ? SKV_POLICY_FULL : SKV_POLICY_SHADOWKV;
  p.keys = name == "low_rank" || name == "low_rank_int8" ? SKV_KEYS_LOWRANK : SKV_KEYS_EXACT;
  if (name == "full" || name == "exact" || name == "low_rank") return p;
  const skv_codec raw = SKV_CODEC_RAW, int8 = SKV_CODEC_INT8, int4 = SKV_CODEC_INT4;
  if (name == "exact_int8" || name == "low_rank_int8") {
    set_codecs(&p, int8, int8, int8);
  } else if (name == "exact_int4") {
    set_codecs(&p, int4, int4, int8);
  } else if (name == "two_bit" || name == "guarded") {
    set_codecs(&p, int8, int8, raw);
    p.digest = SKV_DIGEST_KEYS_2BIT;
    if (name == "guarded") p.max_missed_mass = 0.1;
  } else if (name == "estimated") {
    set_codecs(&p, int8, int8, int8);
    p.digest = SKV_DIGEST_MEAN_VARIANCE;
    p.unselected = SKV_UNSELECTED_ESTIMATED;
  } else {
    return std::nullopt;
  }
  return p;
}

// A store with one sequence of synthetic tokens. No rotation: the keys are made as they are after it.
class Workload {
 public:
  Workload(const std::string& config, int32_t layers, int64_t tokens, const kernels::Ops& ops, SyntheticKv* data)
      : data_(data),
        geometry_(geometry(layers)),
        store_(std::make_unique<kv::Store>(geometry_, kv::resolve_policy(*config_params(config), geometry_),
                                           kernels::RopeView{}, ops, account_)) {
    sequence_ = store_->open();
    std::vector<float> k(static_cast<std::size_t>(kBlock * geometry_.key_width())), v(k.size());
    store_->begin_prefill(sequence_, tokens);
    for (int32_t layer = 0; layer < layers; ++layer) {
      for (int64_t at = 0; at < tokens; at += kBlock) {
        const int64_t n = std::min(kBlock, tokens - at);
        data->keys(layer, at, n, k.data());
        data->values(layer, at, n, v.data());
        store_->prefill_append(sequence_, layer, at, n, k.data(), v.data());
      }
      store_->prefill_finish_layer(sequence_, layer);
    }
    store_->prefill_commit(sequence_);
  }

  // One token through all layers; seconds per layer. out: [layers] of q width, or nullptr.
  double step(const std::vector<std::vector<float>>& queries, std::vector<std::vector<float>>* out) {
    const int64_t at = store_->length(sequence_);
    const auto width = static_cast<std::size_t>(geometry_.key_width());
    std::vector<float> k(width), v(width), o(queries[0].size());
    const kv::DecodeRow row{sequence_, 0, 1};
    double spent = 0;
    store_->decode_reserve(sequence_, 1);
    for (int32_t layer = 0; layer < geometry_.layers; ++layer) {
      data_->keys(layer, at, 1, k.data());
      data_->values(layer, at, 1, v.data());
      const double start = seconds();
      store_->decode_append(layer, {&row, 1}, k.data(), v.data());
      store_->decode_attend(layer, {&row, 1}, queries[static_cast<std::size_t>(layer)].data(), o.data());
      spent += seconds() - start;
      if (out) out->push_back(o);
    }
    store_->decode_commit(sequence_, 1);
    return spent / geometry_.layers;
  }

  skv_kv_stats stats() const {
    skv_kv_stats s{};
    s.struct_size = sizeof s;
    store_->stats(sequence_, &s);
    return s;
  }
  const kv::StageTimes& times() const { return store_->times(); }
  int64_t kv_bytes() const { return account_.used(SKV_TIER_FAST) + account_.used(SKV_TIER_SLOW); }

 private:
  SyntheticKv* data_;
  kv::Geometry geometry_;
  MemoryAccount account_;
  std::unique_ptr<kv::Store> store_;
  kv::Sequence* sequence_ = nullptr;
};

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

// Worst error of a few steps on a short context against the same store on the reference ops.
double check(const std::string& config, const Options& options) {
  constexpr int64_t kTokens = 8192;
  SyntheticKv data(geometry(1), 8, options.correlation, 7);
  Workload fast(config, 1, kTokens, kernels::cpu_ops(), &data);
  Workload reference(config, 1, kTokens, kernels::ref_ops(), &data);
  double worst = 0;
  for (int i = 0; i < 3; ++i) {
    const auto& queries = data.next_queries();
    std::vector<std::vector<float>> a, b;
    fast.step(queries, &a);
    reference.step(queries, &b);
    worst = std::max(worst, relative_error(a[0], b[0]));
  }
  return worst;
}

std::string device_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

// Median seconds per layer.
double measure(const std::string& config, const Options& options) {
  const double error = check(config, options);
  if (!(error <= kTolerance)) {
    std::fprintf(stderr, "%s: relative error %g against the reference; %g is allowed\n", config.c_str(), error,
                 kTolerance);
    std::exit(1);
  }
  SyntheticKv data(geometry(options.layers), 8, options.correlation, 1);
  Workload load(config, options.layers, options.tokens, kernels::cpu_ops(), &data);
  const int64_t kv_bytes = load.kv_bytes();
  for (int i = 0; i < kWarmUp; ++i) load.step(data.next_queries(), nullptr);
  std::vector<double> samples, shares, probes;
  const skv_kv_stats first = load.stats();
  const kv::StageTimes begun = load.times();
  int64_t bytes = first.bytes_read;
  for (int i = 0; i < options.samples; ++i) {
    samples.push_back(load.step(data.next_queries(), nullptr));
    const int64_t now = load.stats().bytes_read;
    probes.push_back(test::probe_read_bytes_per_second());
    shares.push_back(static_cast<double>(now - bytes) / options.layers / samples.back() / probes.back());
    bytes = now;
  }
  const skv_kv_stats last = load.stats();
  const auto per_layer = [&](int64_t total) { return static_cast<double>(total) / options.samples / options.layers; };
  const auto ratio = [](int64_t a, int64_t b) { return b ? static_cast<double>(a) / static_cast<double>(b) : 0.0; };
  const auto us = [&](int64_t end, int64_t begin) { return per_layer(end - begin) * 1e-3; };
  const auto [low, high] = std::minmax_element(samples.begin(), samples.end());
  const double mid = median(samples);
  // What a cycle through the layers touches: all of full's pages, else what is read of each layer.
  const double touched = per_layer(last.bytes_read - first.bytes_read) * options.layers;
  const char* commit = std::getenv("SKV_COMMIT");
  std::printf(
      "{\"bench\": \"attention\", \"op\": \"decode_attention\", \"variant\": \"%s\", \"shape\": \"32/8/128 bf16\", "
      "\"tokens\": %lld, \"layers\": %d, \"working_set_bytes\": %.0f, \"warm\": %s, \"kv_bytes\": %lld, "
      "\"seconds\": %.6g, \"seconds_min\": %.6g, \"seconds_spread\": %.3g, \"samples\": %d, \"bytes\": %.0f, "
      "\"bandwidth_share\": %.3f, \"machine_read_gb_per_s\": %.1f, \"attended_tokens\": %.0f, \"hit_rate\": %.3f, "
      "\"select_us\": %.0f, \"fetch_us\": %.0f, \"attend_us\": %.0f, \"error_vs_reference\": %.2g, "
      "\"device\": \"%s x%d\", \"commit\": \"%s\"}\n",
      config.c_str(), static_cast<long long>(options.tokens), options.layers, touched,
      touched < 4 * static_cast<double>(test::last_level_cache_bytes()) ? "true" : "false",
      static_cast<long long>(kv_bytes), mid, *low, (*high - *low) / mid, options.samples,
      per_layer(last.bytes_read - first.bytes_read), median(shares), median(probes) * 1e-9,
      ratio(last.attended_tokens - first.attended_tokens, last.attention_calls - first.attention_calls),
      ratio(last.slot_hits - first.slot_hits, last.selected_chunks - first.selected_chunks),
      us(load.times().select_ns, begun.select_ns), us(load.times().fetch_ns, begun.fetch_ns),
      us(load.times().decode_attention_ns, begun.decode_attention_ns), error, device_name().c_str(),
      omp_get_max_threads(), commit ? commit : "unknown");
  std::fflush(stdout);
  return mid;
}

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> names(1);
  for (const char c : list) {
    if (c == ',') names.emplace_back();
    else names.back() += c;
  }
  return names;
}

std::optional<Options> parse(int argc, char** argv) {
  Options o;
  test::parse_bench_flags(argc, argv);
  for (int i = test::bench_small() ? 2 : 1; i < argc; i += 2) {  // --bench-small comes first
    const std::string flag = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (!value) return std::nullopt;
    if (flag == "--tokens")
      o.tokens = std::atoll(value);
    else if (flag == "--layers")
      o.layers = std::atoi(value);
    else if (flag == "--samples")
      o.samples = std::atoi(value);
    else if (flag == "--correlation")
      o.correlation = std::atof(value);
    else if (flag == "--configs")
      o.configs = split(value);
    else
      return std::nullopt;
  }
  const bool known = std::all_of(o.configs.begin(), o.configs.end(), config_params);
  if (o.tokens < 8192 || o.layers < 1 || o.samples < 7 || o.correlation < 0 || o.correlation > 1 || !known)
    return std::nullopt;
  return o;
}

int run(const Options& options) {
  double full = 0;
  for (const std::string& config : options.configs) {
    const double seconds = measure(config, options);
    if (config == "full") {
      full = seconds;
    } else if (full > 0) {
      std::printf("{\"bench\": \"attention\", \"op\": \"speedup\", \"tokens\": %lld, \"layers\": %d, \"variant\": "
                  "\"%s\", \"full_over_it\": %.2f}\n",
                  static_cast<long long>(options.tokens), options.layers, config.c_str(), full / seconds);
    }
  }
  return 0;
}

}  // namespace
}  // namespace skv::bench

int main(int argc, char** argv) {
  const auto options = skv::bench::parse(argc, argv);
  if (!options) {
    std::fprintf(stderr,
                 "usage: %s [--tokens N (8192 or more)] [--layers N] [--samples N (7 or more)] [--correlation C] "
                 "[--configs NAME,NAME,...]\nconfigurations: %s\n",
                 argv[0], skv::bench::kConfigNames);
    return 2;
  }
  try {
    return skv::bench::run(*options);
  } catch (const skv::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
