// Activations of a decode step and of a prefill job: one layout each, which allocates and answers the budget alike. They
// are data (kernels/common/paged.h), in the device's work tier, but for what is called host.
#pragma once

#include <cstdint>

#include "kernels/common/workspace.h"
#include "lib/base/memory.h"
#include "lib/model/config.h"
#include "lib/model/forward.h"

namespace skv::engine {

// Activations of up to m rows of one layer.
struct RowBuffers {
  int32_t* ids = nullptr;    // [m]
  float* q = nullptr;        // [m, q_heads * head_dim]
  float* k = nullptr;        // [m, kv_heads * head_dim]
  float* v = nullptr;
  float* attn = nullptr;     // [m, q_heads * head_dim]
  void* forward = nullptr;   // scratch of the forward pass
  void take(kernels::WorkspaceCursor& cursor, const model::Config& config, const model::Forward& forward, int64_t m);
};

// Of a session, for steps of up to max_rows tokens.
class DecodeBuffers {
 public:
  DecodeBuffers(MemoryAccount& account, skv_tier work_tier, const model::Config& config, const model::Forward& forward,
                int32_t max_rows);
  static int64_t bytes(const model::Config& config, const model::Forward& forward, int32_t max_rows);
  static int64_t host_bytes(const model::Config& config, int32_t max_rows);

  RowBuffers rows;
  float* x = nullptr;           // [max_rows, hidden]
  float* final_x = nullptr;     // [max_rows, hidden]: rows whose logits are wanted
  float* logits = nullptr;      // [max_rows, vocab]
  void* sample = nullptr;       // scratch of the sample op
  int32_t* history = nullptr;   // [vocab] distinct ids of a history
  int32_t* tokens = nullptr;    // [max_rows] sampled
  int32_t* host_ids = nullptr;      // [max_rows]
  int32_t* host_tokens = nullptr;   // [max_rows]
  int32_t* host_history = nullptr;  // [vocab]
  uint64_t* host_seen = nullptr;    // [(vocab + 63) / 64] bits: ids that a history holds

 private:
  DecodeBuffers() = default;
  void take(kernels::WorkspaceCursor& cursor, const model::Config& config, const model::Forward& forward,
            int32_t max_rows);
  void take_host(kernels::WorkspaceCursor& cursor, const model::Config& config, int32_t max_rows);
  Buffer buffer_;
  Buffer host_;
};

// Of one running prompt of n tokens, worked off in blocks.
class PrefillBuffers {
 public:
  PrefillBuffers(MemoryAccount& account, skv_tier work_tier, const model::Config& config, const model::Forward& forward,
                 int64_t n, int32_t block);
  static int64_t hidden_bytes(const model::Config& config, int64_t n);
  static int64_t block_bytes(const model::Config& config, const model::Forward& forward, int64_t n, int32_t block);

  RowBuffers rows;
  float* hidden() const { return hidden_.as<float>(); }  // [n, hidden]

 private:
  Buffer hidden_;
  Buffer block_;
};

// Logits that a sequence keeps of its last token.
int64_t kept_logits_bytes(const model::Config& config);

}  // namespace skv::engine
