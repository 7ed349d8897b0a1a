#include "lib/engine/buffers.h"

#include <algorithm>

#include "kernels/sample/sample.h"

namespace skv::engine {

namespace {

int64_t counted(const kernels::WorkspaceCursor& cursor) { return static_cast<int64_t>(cursor.bytes()); }

}  // namespace

void RowBuffers::take(kernels::WorkspaceCursor& cursor, const model::Config& config, const model::Forward& pass,
                      int64_t m) {
  const int64_t q_width = static_cast<int64_t>(config.q_heads) * config.head_dim;
  const int64_t kv_width = static_cast<int64_t>(config.kv_heads) * config.head_dim;
  ids = cursor.take<int32_t>(m);
  q = cursor.take<float>(m * q_width);
  k = cursor.take<float>(m * kv_width);
  v = cursor.take<float>(m * kv_width);
  attn = cursor.take<float>(m * q_width);
  forward = cursor.take_bytes(static_cast<std::size_t>(pass.workspace_bytes(m)));
}

void DecodeBuffers::take(kernels::WorkspaceCursor& cursor, const model::Config& config, const model::Forward& forward,
                         int32_t max_rows) {
  const int64_t m = max_rows, vocab = config.vocab;
  rows.take(cursor, config, forward, m);
  x = cursor.take<float>(m * config.hidden);
  final_x = cursor.take<float>(m * config.hidden);
  logits = cursor.take<float>(m * vocab);
  sample = cursor.take_bytes(kernels::sample_workspace_bytes(config.vocab, m));
  history = cursor.take<int32_t>(vocab);
  tokens = cursor.take<int32_t>(m);
}

void DecodeBuffers::take_host(kernels::WorkspaceCursor& cursor, const model::Config& config, int32_t max_rows) {
  const int64_t vocab = config.vocab;
  host_ids = cursor.take<int32_t>(max_rows);
  host_tokens = cursor.take<int32_t>(max_rows);
  host_history = cursor.take<int32_t>(vocab);
  host_seen = cursor.take<uint64_t>((vocab + 63) / 64);
}

int64_t DecodeBuffers::bytes(const model::Config& config, const model::Forward& forward, int32_t max_rows) {
  kernels::WorkspaceCursor count(nullptr);
  DecodeBuffers().take(count, config, forward, max_rows);
  return counted(count);
}

int64_t DecodeBuffers::host_bytes(const model::Config& config, int32_t max_rows) {
  kernels::WorkspaceCursor count(nullptr);
  DecodeBuffers().take_host(count, config, max_rows);
  return counted(count);
}

DecodeBuffers::DecodeBuffers(MemoryAccount& account, skv_tier work_tier, const model::Config& config,
                             const model::Forward& forward, int32_t max_rows)
    : buffer_(account, work_tier, SKV_PURPOSE_WORKSPACE, bytes(config, forward, max_rows)),
      host_(account, SKV_TIER_HOST, SKV_PURPOSE_WORKSPACE, host_bytes(config, max_rows)) {
  kernels::WorkspaceCursor cursor(buffer_.data()), host(host_.data());
  take(cursor, config, forward, max_rows);
  take_host(host, config, max_rows);
}

int64_t PrefillBuffers::hidden_bytes(const model::Config& config, int64_t n) {
  return checked_bytes(n, static_cast<int64_t>(config.hidden) * 4);
}

int64_t PrefillBuffers::block_bytes(const model::Config& config, const model::Forward& forward, int64_t n,
                                    int32_t block) {
  kernels::WorkspaceCursor count(nullptr);
  RowBuffers().take(count, config, forward, std::min<int64_t>(n, block));
  return counted(count);
}

PrefillBuffers::PrefillBuffers(MemoryAccount& account, skv_tier work_tier, const model::Config& config,
                               const model::Forward& forward, int64_t n, int32_t block)
    : hidden_(account, work_tier, SKV_PURPOSE_HIDDEN, hidden_bytes(config, n)),
      block_(account, work_tier, SKV_PURPOSE_WORKSPACE, block_bytes(config, forward, n, block)) {
  kernels::WorkspaceCursor cursor(block_.data());
  rows.take(cursor, config, forward, std::min<int64_t>(n, block));
}

int64_t kept_logits_bytes(const model::Config& config) { return static_cast<int64_t>(config.vocab) * 4; }

}  // namespace skv::engine
