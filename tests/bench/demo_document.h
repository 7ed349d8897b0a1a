// A text of the demo language and questions about it, as tokens: what `shadowkv demo-text` writes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/model/tokenizer.h"

namespace skv::bench {

struct DemoQuestion {
  std::vector<int32_t> ask;     // from the new line to where the answer follows
  std::vector<int32_t> answer;  // a space and five digits
};

struct DemoDocument {
  std::vector<int32_t> tokens;  // the begin token first
  std::vector<DemoQuestion> questions;
};

// tokens: of the document with one question. facts: 0 = demo-text's own rule.
DemoDocument demo_document(const std::string& model_directory, const model::Tokenizer& tokenizer, int64_t tokens,
                           int32_t facts, int32_t questions, uint64_t seed);

}  // namespace skv::bench
