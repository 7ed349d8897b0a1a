// Traces of the demo model: the true activations of a document and of questions about it, by its own forward pass
// with full attention over a 16-bit cache.
#pragma once

#include <cstdint>
#include <string>

#include "tests/bench/trace.h"

namespace skv::bench {

struct ModelTraceOptions {
  std::string model;  // directory
  int64_t tokens = 16384;
  int32_t facts = 0;  // 0 = demo-text's rule: 64 to 200. 700 in 16,384 tokens crowd the document
  int32_t questions = 32;
  int32_t reading_steps = 128;  // 0 = none
  uint64_t seed = 1;
};

struct ModelTraces {
  // The document; a step a token of "ask", then of the answer, which is fed whatever the model would have said.
  // `answer` is the step at whose end the answer begins. The steps before it look for many facts at once: mass is
  // spread.
  Trace questions;
  // The document, then reading_steps tokens of another text with facts of its own.
  Trace reading;
};

ModelTraces model_traces(const ModelTraceOptions& options);

// Extraction: `together` questions asked of every KV head in the same step, so that one selection must serve as many
// scattered facts. Query heads are those of all questions, side by side in their group: q_heads * together. Positions
// and queries are the recorded ones; the tokens after the prompt are those of the group's first question, so that a
// query's look at its own question is only nearly right, while exact attention sees the same. Questions of other
// lengths than the first are left out, as is a rest of fewer than `together`.
Trace extraction_trace(const Trace& questions, int32_t together);

}  // namespace skv::bench
