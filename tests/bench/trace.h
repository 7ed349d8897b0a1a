// A trace: what a kv::Store is given by one sequence, from a model or synthetic, and what exact attention makes of
// it.
//
//   const Trace trace = synthetic_trace(options);          // or model_trace(options)
//   kv::Store store(trace.geometry, policy, trace.rope->view, ops, account);
//   kv::Sequence* sequence = store.open();
//   append_prompt(store, sequence, trace);
//   for (const Question& question : trace.questions) {
//     for (int64_t step = 0; step < question.n; ++step) {
//       append_step(store, sequence, trace, question, step, &outputs);
//       const Exact exact = attend_exactly(trace, question, layer, step);   // weights and output to compare with
//     }
//     store.truncate(sequence, trace.n_prompt);
//   }
//
// Keys and values are rounded to bf16, so what a configuration loses is not mixed with what 16-bit caches lose.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/common/rope_view.h"
#include "lib/kv/policy.h"
#include "lib/kv/store.h"

namespace skv::bench {

using Layers = std::vector<std::vector<float>>;  // [layers] of [tokens, width], row-major

// A RopeView with the tables it points to; shared by const pointer, never copied.
struct RopeTables {
  std::vector<float> lo, hi;
  kernels::RopeView view;
};
std::shared_ptr<const RopeTables> copy_rope(const kernels::RopeView& rope);
// Every dim rotated, angle of pair i = position * theta^(-2i / head_dim).
std::shared_ptr<const RopeTables> plain_rope(double theta, int32_t head_dim, int64_t max_positions);

// Of a prompt's tokens only the last have their queries kept: a store may look at them when it compresses.
inline constexpr int64_t kPromptQueries = 64;

// Post-RoPE keys and values of the tokens before the questions.
struct Prompt {
  Layers k, v;
};

// Tokens that follow the prompt, one decode step each, at positions n_prompt, n_prompt + 1, ...: post-RoPE q, k, v.
struct Question {
  std::string name;
  int64_t n = 0;
  int64_t answer = 0;  // the first step that figures are about: those before only bring the sequence there
  Layers q, k, v;      // q: [n, q_heads * head_dim]
  // Of a model's run only: what its full attention gave [n, q_heads * head_dim], and how many of the answer's tokens
  // were greedily predicted.
  Layers attention;
  int64_t right = 0, asked = 0;
};

// Each question follows the same prompt: truncate to n_prompt between them.
struct Trace {
  std::string name;
  kv::Geometry geometry;
  std::shared_ptr<const RopeTables> rope;
  int64_t n_prompt = 0;
  std::shared_ptr<const Prompt> prompt;  // shared by traces that differ in their questions
  Layers prompt_q;                       // post-RoPE, of the last kPromptQueries tokens: [kPromptQueries, q_width]
  std::vector<Question> questions;

  int64_t q_width() const { return int64_t{geometry.q_heads} * geometry.head_dim; }
  int64_t kv_width() const { return geometry.key_width(); }
};

// The whole prompt into an empty sequence; its last kPromptQueries tokens attend.
void append_prompt(kv::Store& store, kv::Sequence* sequence, const Trace& trace);
// One step, all layers; the sequence is n_prompt + step tokens long. outputs: [layers] of [q_width].
void append_step(kv::Store& store, kv::Sequence* sequence, const Trace& trace, const Question& question, int64_t step,
                 Layers* outputs);

// Causal softmax attention of one step of a layer, in double.
struct Exact {
  int64_t tokens = 0;           // n_prompt + step + 1
  std::vector<double> weights;  // [q_heads, tokens], each row sums to 1
  std::vector<double> output;   // [q_width]
};
Exact attend_exactly(const Trace& trace, const Question& question, int32_t layer, int64_t step);

// Mass of chunks of `chunk` tokens under one KV head, mean over its query heads; the last chunk may be cut short.
std::vector<double> chunk_mass(const Trace& trace, const Exact& exact, int32_t kv_head, int32_t chunk);
// Sum of the `count` largest.
double largest_sum(std::vector<double> mass, int64_t count);

void round_to_bf16(std::vector<float>* x);

}  // namespace skv::bench
