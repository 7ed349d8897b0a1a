#include "tests/gpu/decode_workload.h"

#include <algorithm>
#include <chrono>

#include "tests/gpu/forced_hits.h"

namespace skv::gpu {

namespace {

constexpr int64_t kBlock = 4096;  // tokens of a prefill
constexpr int32_t kMaxBatch = 64;
constexpr int kWarmUp = 3;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<float> noise_floats(int64_t n) {
  std::vector<float> x(static_cast<std::size_t>(n));
  uint32_t state = 12345;
  for (float& v : x) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f * 1.7f;
  }
  return x;
}

// Blocks begin at other rows of the noise, and not in step with chunks, so that no two chunks are the same.
int64_t noise_row(int64_t block) { return block * 257 % kBlock; }

}  // namespace

kv::Policy Workload::policy_of(const Setup& setup, const kv::Geometry& geometry) {
  skv_kv_params params = kv::preset_kv_params(setup.policy);
  if (setup.policy != SKV_POLICY_FULL) {
    params.value_codec = setup.value_codec;
    params.key_codec = params.digest_codec = setup.small_codec;
    params.dense_below_tokens = 0;  // for rehearsals, whose contexts are short
  }
  kv::Policy policy = kv::resolve_policy(params, geometry);
  policy.work_tier = SKV_TIER_FAST;
  return policy;
}

Workload::Workload(Gpu& gpu, const Limits& limits, const SyntheticLlama& llama, const Setup& setup, int64_t tokens)
    : gpu_(gpu), llama_(llama), tokens_(tokens), samples_(limits.samples),
      noise_(gpu.filled(noise_floats(2 * kBlock * llama.geometry().key_width()))),
      buffers_(gpu.account(), SKV_TIER_FAST, llama.config(), llama.forward(), kMaxBatch), ops_(gpu.ops()),
      store_(llama.geometry(), policy_of(setup, llama.geometry()), llama.rope(), ops_, account_) {
  account_.set_source(&limits.kv_memory);
  const int64_t left = limits.fast_bytes - gpu.account().used(SKV_TIER_FAST);
  account_.set_limit(SKV_TIER_FAST, static_cast<uint64_t>(std::max<int64_t>(left, 0)));
}

Workload::~Workload() { gpu_.ops().wait(); }

Compressed Workload::add_synthetic() {
  const kv::Geometry g = llama_.geometry();
  Compressed times;
  const double factored = ops_.seconds();
  kv::Sequence* sequence = store_.open();
  store_.begin_prefill(sequence, tokens_);
  for (int32_t layer = 0; layer < g.layers; ++layer) {
    for (int64_t at = 0; at < tokens_; at += kBlock) {
      const int64_t n = std::min(kBlock, tokens_ - at);
      const float* noise = noise_.as<float>() + noise_row(at / kBlock) * g.key_width();
      store_.prefill_append(sequence, layer, at, n, noise, noise);
    }
    ops_.wait();
    const double start = now();
    store_.prefill_finish_layer(sequence, layer);
    ops_.wait();
    times.seconds += now() - start;
  }
  store_.prefill_commit(sequence);
  sequences_.push_back(sequence);
  gpu_.check();
  times.factorisation = ops_.seconds() - factored;
  return times;
}

double Workload::prefill_seconds() {
  const model::Forward& forward = llama_.forward();
  engine::PrefillBuffers b(gpu_.account(), SKV_TIER_FAST, llama_.config(), forward, tokens_, kBlock);
  std::vector<int32_t> ids(static_cast<std::size_t>(kBlock));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 37 % 1000);
  kv::Sequence* sequence = store_.open();
  store_.begin_prefill(sequence, tokens_);
  gpu_.ops().wait();
  const double start = now();
  for (int32_t layer = 0; layer < llama_.config().layers; ++layer) {
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
    store_.prefill_finish_layer(sequence, layer);
  }
  store_.prefill_commit(sequence);
  gpu_.ops().wait();
  const double seconds = now() - start;
  gpu_.check();
  return seconds;
}

Decoded Workload::decode() {
  return time_steps(Ending::commit, [] {});
}

// A step that is dropped leaves the sequence as it was: the next one has the same token at the same position, and
// selects the same chunks.
Decoded Workload::decode_with_hits(double rate) {
  step(Ending::commit);  // so that the repeated step finds its page of exact tokens
  for (kv::Sequence* sequence : sequences_) store_.clear_slots(sequence);
  step(Ending::drop);
  ForcedHits hits(gpu_, {store_.geometry(), store_.policy()}, sequences_, rate);
  return time_steps(Ending::drop, [&] { hits.arrange(); });
}

Decoded Workload::time_steps(Ending ending, const std::function<void()>& before) {
  std::vector<double> samples;
  Decoded earlier, sums;
  for (int i = 0; i < kWarmUp + samples_; ++i) {
    if (i == kWarmUp) count(&earlier);
    before();
    gpu_.ops().wait();
    const double start = now();
    step(ending);
    if (i >= kWarmUp) samples.push_back(now() - start);
  }
  count(&sums);
  std::sort(samples.begin(), samples.end());
  return {samples[samples.size() / 2], sums.selected - earlier.selected, sums.hits - earlier.hits};
}

void Workload::count(Decoded* sums) const {
  for (const kv::Sequence* sequence : sequences_) {
    skv_kv_stats stats{};
    store_.stats(sequence, &stats);
    sums->selected += stats.selected_chunks, sums->hits += stats.slot_hits;
  }
}

void Workload::step(Ending ending) {
  std::vector<kv::DecodeRow> rows;
  std::vector<model::RowRange> ranges;
  if (ending == Ending::commit) ++token_;
  for (int32_t i = 0; i < batch(); ++i) {
    kv::Sequence* sequence = sequences_[static_cast<std::size_t>(i)];
    store_.decode_reserve(sequence, 1);
    rows.push_back({sequence, i, 1});
    ranges.push_back({i, 1, store_.length(sequence)});
    buffers_.host_ids[i] = (i * 31 + token_ * 61) % llama_.config().vocab;
  }
  run_layers(rows, ranges);
  for (kv::Sequence* sequence : sequences_) {
    if (ending == Ending::commit) store_.decode_commit(sequence, 1);
    else store_.decode_drop(sequence);
  }
  gpu_.check();
}

void Workload::run_layers(const std::vector<kv::DecodeRow>& rows, const std::vector<model::RowRange>& ranges) {
  const model::Forward& forward = llama_.forward();
  const int64_t n = batch();
  const engine::RowBuffers& b = buffers_.rows;
  std::vector<kernels::SampleItem> samples;
  for (int64_t i = 0; i < n; ++i) {
    kernels::SampleItem item;
    item.logits = buffers_.logits + i * llama_.config().vocab;
    item.vocab = llama_.config().vocab;
    item.token = buffers_.tokens + i;
    samples.push_back(item);
  }
  {
    const kernels::Recording recording(gpu_.ops());
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
  }
  gpu_.ops().download(buffers_.host_tokens, buffers_.tokens, n * 4);
}

}  // namespace skv::gpu
