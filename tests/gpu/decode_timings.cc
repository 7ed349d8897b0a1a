// Decode steps per second of a model of Llama-3.1-8B's shape over long contexts: full attention and ShadowKV in several
// codecs and batches; and the time of a prefill with its compression. Weights and KV are random, so what is selected is
// what random queries select: hit rates are printed beside every row.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "lib/base/status.h"
#include "lib/engine/buffers.h"
#include "lib/kv/store.h"
#include "tests/gpu/synthetic_llama.h"

namespace skv::gpu {
namespace {

constexpr int64_t kBlock = 4096;
constexpr int64_t kPinnedLimit = int64_t{100} << 30;  // of 128 GiB of host memory

struct Setup {
  const char* name;
  skv_policy policy;
  skv_codec codec;         // of values
  skv_codec small_codec;   // of A and landmarks
};
constexpr Setup kFull = {"full attention", SKV_POLICY_FULL, SKV_CODEC_RAW, SKV_CODEC_RAW};
constexpr Setup kRaw = {"ShadowKV 16-bit", SKV_POLICY_SHADOWKV, SKV_CODEC_RAW, SKV_CODEC_RAW};
constexpr Setup kInt8 = {"ShadowKV int8", SKV_POLICY_SHADOWKV, SKV_CODEC_INT8, SKV_CODEC_INT8};
constexpr Setup kInt4 = {"ShadowKV int8, values int4", SKV_POLICY_SHADOWKV, SKV_CODEC_INT4, SKV_CODEC_INT8};

kv::Policy policy_of(const Setup& setup, const kv::Geometry& geometry) {
  skv_kv_params params = kv::preset_kv_params(setup.policy);
  if (setup.policy != SKV_POLICY_FULL) {
    params.value_codec = setup.codec;
    params.key_codec = params.digest_codec = setup.small_codec;
  }
  kv::Policy policy = kv::resolve_policy(params, geometry);
  policy.work_tier = SKV_TIER_FAST;
  return policy;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A store with a batch of sequences, and what a step needs.
class Workload {
 public:
  Workload(Gpu& gpu, const SyntheticLlama& llama, const Setup& setup, int64_t tokens)
      : gpu_(gpu), llama_(llama), tokens_(tokens),
        store_(llama.geometry(), policy_of(setup, llama.geometry()), llama.rope(), gpu.ops(), gpu.account()),
        buffers_(gpu.account(), SKV_TIER_FAST, llama.config(), llama.forward(), 64) {}

  // Random keys and values, compressed as a prompt's would be. Throws Error(SKV_E_BUDGET / SKV_E_NOMEM).
  void add_synthetic() {
    const kv::Geometry g = llama_.geometry();
    const Buffer noise = gpu_.filled(noise_floats(kBlock * g.key_width()));
    kv::Sequence* sequence = store_.open();
    store_.begin_prefill(sequence, tokens_);
    for (int32_t layer = 0; layer < g.layers; ++layer) {
      for (int64_t at = 0; at < tokens_; at += kBlock) {
        const int64_t n = std::min(kBlock, tokens_ - at);
        store_.prefill_append(sequence, layer, at, n, noise.as<float>(), noise.as<float>());
      }
      store_.prefill_finish_layer(sequence, layer);
    }
    store_.prefill_commit(sequence);
    sequences_.push_back(sequence);
    gpu_.check();
  }

  // A whole prompt through the model; seconds in all, and those of compression.
  void prefill(double* total, double* compress) {
    const kv::Geometry g = llama_.geometry();
    const model::Forward& forward = llama_.forward();
    engine::PrefillBuffers b(gpu_.account(), SKV_TIER_FAST, llama_.config(), forward, tokens_, kBlock);
    std::vector<int32_t> ids(static_cast<std::size_t>(kBlock));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 37 % 1000);
    kv::Sequence* sequence = store_.open();
    store_.begin_prefill(sequence, tokens_);
    gpu_.ops().wait();
    const double start = now();
    *compress = 0;
    for (int32_t layer = 0; layer < g.layers; ++layer) {
      for (int64_t at = 0; at < tokens_; at += kBlock) {
        const int64_t n = std::min(kBlock, tokens_ - at);
        float* x = b.hidden() + at * llama_.config().hidden;
        if (layer == 0) {
          gpu_.ops().upload(b.rows.ids, ids.data(), n * 4);
          forward.embed(b.rows.ids, n, x);
        }
        const model::RowRange range{0, n, at};
        forward.qkv(layer, x, n, {&range, 1}, b.rows.q, b.rows.k, b.rows.v, b.rows.forward);
        store_.prefill_append(sequence, layer, at, n, b.rows.k, b.rows.v);
        store_.prefill_attend(sequence, layer, at, n, b.rows.q, b.rows.attn);
        forward.finish(layer, x, b.rows.attn, n, b.rows.forward);
      }
      gpu_.ops().wait();
      const double before = now();
      store_.prefill_finish_layer(sequence, layer);
      gpu_.ops().wait();
      *compress += now() - before;
    }
    *total = now() - start;
    store_.prefill_commit(sequence);
    gpu_.check();
  }

  // Seconds of a step in which every sequence takes one token.
  double step_seconds() {
    for (int i = 0; i < 3; ++i) step();
    std::vector<double> samples;
    for (int i = 0; i < 15; ++i) {
      const double start = now();
      step();
      samples.push_back(now() - start);
    }
    std::sort(samples.begin(), samples.end());
    return samples[samples.size() / 2];
  }

  double hit_rate() const {
    int64_t selected = 0, hits = 0;
    for (const kv::Sequence* sequence : sequences_) {
      skv_kv_stats stats{};
      store_.stats(sequence, &stats);
      selected += stats.selected_chunks, hits += stats.slot_hits;
    }
    return selected > 0 ? static_cast<double>(hits) / static_cast<double>(selected) : 0.0;
  }

 private:
  static std::vector<float> noise_floats(int64_t n) {
    std::vector<float> x(static_cast<std::size_t>(n));
    uint32_t state = 12345;
    for (float& v : x) {
      state = state * 1664525u + 1013904223u;
      v = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f * 1.7f;
    }
    return x;
  }

  void step() {
    const auto n = static_cast<int64_t>(sequences_.size());
    const model::Forward& forward = llama_.forward();
    engine::RowBuffers& b = buffers_.rows;
    std::vector<kv::DecodeRow> rows;
    std::vector<model::RowRange> ranges;
    std::vector<kernels::SampleItem> samples;
    for (int64_t i = 0; i < n; ++i) {
      kv::Sequence* sequence = sequences_[static_cast<std::size_t>(i)];
      store_.decode_reserve(sequence, 1);
      rows.push_back({sequence, i, 1});
      ranges.push_back({i, 1, store_.length(sequence)});
      buffers_.host_ids[i] = static_cast<int32_t>((i * 31 + ++token_) % llama_.config().vocab);
      kernels::SampleItem item;
      item.logits = buffers_.logits + i * llama_.config().vocab;
      item.vocab = llama_.config().vocab;
      item.token = buffers_.tokens + i;
      samples.push_back(item);
    }
    gpu_.ops().upload(b.ids, buffers_.host_ids, n * 4);
    forward.embed(b.ids, n, buffers_.x);
    for (int32_t layer = 0; layer < llama_.config().layers; ++layer) {
      forward.qkv(layer, buffers_.x, n, ranges, b.q, b.k, b.v, b.forward);
      store_.decode_append(layer, rows, b.k, b.v);
      store_.decode_attend(layer, rows, b.q, b.attn);
      forward.finish(layer, buffers_.x, b.attn, n, b.forward);
    }
    forward.logits(buffers_.x, n, buffers_.logits, b.forward);
    gpu_.ops().sample(samples, buffers_.sample);
    gpu_.ops().download(buffers_.host_tokens, buffers_.tokens, n * 4);
    for (kv::Sequence* sequence : sequences_) store_.decode_commit(sequence, 1);
    gpu_.check();
  }

  Gpu& gpu_;
  const SyntheticLlama& llama_;
  int64_t tokens_;
  kv::Store store_;
  engine::DecodeBuffers buffers_;
  std::vector<kv::Sequence*> sequences_;
  int64_t token_ = 0;
};

std::string shape_of(const Setup& setup, int64_t tokens, int32_t batch) {
  return std::string(setup.name) + ", " + std::to_string(tokens) + " tokens, batch " + std::to_string(batch);
}

// One row a batch; larger batches of a setup go on from the sequences of smaller ones.
void measure_decode(Gpu& gpu, Report& report, const SyntheticLlama& llama, const Setup& setup, int64_t tokens,
                    std::initializer_list<int32_t> batches) {
  std::unique_ptr<Workload> load;
  int32_t held = 0;
  bool full = false;
  for (const int32_t batch : batches) {
    report.measure({"decode step", shape_of(setup, tokens, batch)}, [&] {
      try {
        if (!load) load = std::make_unique<Workload>(gpu, llama, setup, tokens);
        for (; held < batch && !full; ++held) load->add_synthetic();
      } catch (const Error& error) {
        full = true;
        std::printf("%s: %s\n", shape_of(setup, tokens, batch).c_str(), error.what());
      }
      if (held < batch) return 0.0;
      const double seconds = load->step_seconds();
      std::printf("%s: %.1f tokens/s, hit rate %.2f\n", shape_of(setup, tokens, batch).c_str(), batch / seconds,
                  load->hit_rate());
      return seconds;
    });
  }
}

void measure_prefill(Gpu& gpu, Report& report, const SyntheticLlama& llama, int64_t tokens) {
  double compress = 0;
  report.measure({"prefill", shape_of(kInt8, tokens, 1)}, [&] {
    double total = 0;
    Workload load(gpu, llama, kInt8, tokens);
    load.prefill(&total, &compress);
    std::printf("prefill of %lld tokens: %.2f s, compression %.3f of it\n", static_cast<long long>(tokens), total,
                compress / total);
    return total;
  });
}

}  // namespace
}  // namespace skv::gpu

// --scale N rehearses with a model and contexts divided by N.
int main(int argc, char** argv) {
  using namespace skv::gpu;
  int32_t scale = 1;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--scale") == 0) scale = std::max(std::atoi(argv[i + 1]), 1);
  }
  Gpu gpu;
  gpu.account().set_limit(SKV_TIER_SLOW, static_cast<uint64_t>(kPinnedLimit));
  Report report(argc, argv);
  std::printf("device: %s\n", gpu.device().name.c_str());
  const SyntheticLlama llama(gpu, scale);
  const auto tokens = [&](int64_t n) { return n / scale; };
  measure_decode(gpu, report, llama, kFull, tokens(122880), {1, 2, 4});
  measure_decode(gpu, report, llama, kInt8, tokens(122880), {4, 14, 27});
  measure_decode(gpu, report, llama, kRaw, tokens(122880), {4, 12});
  measure_decode(gpu, report, llama, kInt4, tokens(122880), {14, 40});
  measure_prefill(gpu, report, llama, tokens(32768));
  measure_prefill(gpu, report, llama, tokens(122880));
  measure_decode(gpu, report, llama, kFull, tokens(61440), {1, 4, 8});
  measure_decode(gpu, report, llama, kInt8, tokens(61440), {8, 32});
  measure_decode(gpu, report, llama, kFull, tokens(245760), {1, 2});
  measure_decode(gpu, report, llama, kInt8, tokens(245760), {2, 8});
  report.table();
}
