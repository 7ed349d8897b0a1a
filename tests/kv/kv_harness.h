// A store on synthetic keys, values and queries, and brute-force attention to hold it against.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/common/rope_view.h"
#include "lib/base/memory.h"
#include "lib/kv/policy.h"
#include "lib/kv/store.h"

namespace skv::test {

uint64_t kv_seed();  // SKV_TEST_SEED or drawn; printed by a failing test through SCOPED_TRACE

// Post-RoPE keys, values and queries of one sequence, all layers, f32 row-major.
struct Trace {
  int64_t n = 0;
  std::vector<std::vector<float>> k, v, q;  // [layers] of [n, width]
};

struct TraceShape {
  int32_t rank = 0;        // of the pre-RoPE keys; 0 = full
  float noise = 0.0f;      // added to low-rank keys, relative to their spread
  float bias = 0.0f;       // constant added to every pre-RoPE key, in units of their spread
  int64_t shift_at = -1;   // from this token on the keys live in another subspace
};

class Bench {  // a store with its geometry; "bench" as in workbench
 public:
  Bench(const kv::Geometry& geometry, const skv_kv_params& params, uint64_t limit_fast = UINT64_MAX);
  ~Bench();

  kv::Store& store() { return *store_; }
  MemoryAccount& account() { return account_; }
  const kv::Geometry& geometry() const { return geometry_; }
  const kv::Policy& policy() const { return policy_; }
  const kernels::RopeView& rope() const { return rope_; }

  Trace make_trace(int64_t n, const TraceShape& shape, uint64_t seed) const;

  // One whole append; returns the attention outputs of its tokens, [layers] of [n, q width]. Blocks of `block` tokens.
  std::vector<std::vector<float>> prefill(kv::Sequence* sequence, const Trace& trace, int64_t from, int64_t n,
                                          int64_t block = 128);
  // One decode row of n tokens; returns [layers] of [n, q width].
  std::vector<std::vector<float>> decode(kv::Sequence* sequence, const Trace& trace, int64_t from, int32_t n = 1);

 private:
  kv::Geometry geometry_;
  kv::Policy policy_;
  std::vector<float> rope_lo_, rope_hi_;
  kernels::RopeView rope_;
  MemoryAccount account_;
  std::unique_ptr<kv::Store> store_;
};

// Exact attention in double of token `at` of a layer over tokens visible(j), causal. [q width]
std::vector<double> brute_attention(const Bench& bench, const Trace& trace, int32_t layer, int64_t at,
                                    const std::function<bool(int32_t head, int64_t j)>& visible);
std::vector<double> brute_attention(const Bench& bench, const Trace& trace, int32_t layer, int64_t at);

// |a - b|_2 / |b|_2
double relative_error(const float* a, const std::vector<double>& b);
double relative_error(const std::vector<float>& a, const std::vector<float>& b);

// Parameters small enough for tests: everything is compressed beyond a few dozen tokens.
skv_kv_params small_params(skv_policy policy, skv_key_store keys, skv_dtype dtype);

}  // namespace skv::test
