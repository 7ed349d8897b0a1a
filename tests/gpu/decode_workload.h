// A batch of sequences of one length on the GPU: random keys and values, compressed as a prompt's would be, and
// decode steps as a session takes them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "lib/engine/buffers.h"
#include "lib/kv/store.h"
#include "tests/gpu/factorisation_timer.h"
#include "tests/gpu/synthetic_llama.h"

namespace skv::gpu {

struct Setup {
  const char* name;
  skv_policy policy;
  skv_codec value_codec;
  skv_codec small_codec;  // of A and landmarks
};

struct Decoded {
  double seconds = 0;    // of a step in which every sequence takes one token
  int64_t selected = 0;  // chunks, in the steps that were timed
  int64_t hits = 0;      // those of them that were in slots
  double hit_rate() const { return selected > 0 ? static_cast<double>(hits) / static_cast<double>(selected) : 0.0; }
};

struct Compressed {
  double seconds = 0;        // of all layers, one after another
  double factorisation = 0;  // of that: Gram matrices and their leading directions
};

struct Limits {
  MemorySource& kv_memory;  // where keys and values lie
  int64_t fast_bytes;       // of device memory, weights and all else included
  int samples;              // steps that are timed
};

class Workload {
 public:
  Workload(Gpu& gpu, const Limits& limits, const SyntheticLlama& llama, const Setup& setup, int64_t tokens);
  ~Workload();  // waits

  static kv::Policy policy_of(const Setup& setup, const kv::Geometry& geometry);
  int32_t batch() const { return static_cast<int32_t>(sequences_.size()); }

  // These throw Error(SKV_E_BUDGET / SKV_E_NOMEM) where something does not fit; then the workload is of no more use.
  Compressed add_synthetic();
  Decoded decode();                       // other tokens each step: what is in slots is there by chance
  Decoded decode_with_hits(double rate);  // one step repeated, with a share of its selection in slots
  double prefill_seconds();               // of one more sequence, through the model

 private:
  enum class Ending { commit, drop };
  void step(Ending ending);
  void run_layers(const std::vector<kv::DecodeRow>& rows, const std::vector<model::RowRange>& ranges);
  Decoded time_steps(Ending ending, const std::function<void()>& before);
  void count(Decoded* sums) const;

  Gpu& gpu_;
  const SyntheticLlama& llama_;
  const int64_t tokens_;
  const int samples_;
  Buffer noise_;
  engine::DecodeBuffers buffers_;
  MemoryAccount account_;
  FactorisationTimer ops_;
  kv::Store store_;
  std::vector<kv::Sequence*> sequences_;
  int32_t token_ = 0;
};

}  // namespace skv::gpu
