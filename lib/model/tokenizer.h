// Byte-level BPE from tokenizer.json: pre-split regexes of GPT-2, Llama 3 and Qwen 2, added tokens.
// Immutable after construction; safe from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace skv::model {

class Tokenizer {
 public:
  // vocab bounds ids. Throws Error(SKV_E_IO / SKV_E_DATA / SKV_E_MODEL).
  Tokenizer(const std::string& directory, int32_t vocab);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // parse_special: text that spells an added special token becomes its id; otherwise it is plain text.
  // add_special: what the post-processor adds (usually the begin token). Any bytes are accepted (invalid UTF-8 too).
  std::vector<int32_t> encode(std::string_view text, bool add_special, bool parse_special) const;
  // Bytes of one token, possibly part of a character; special tokens give their text only if with_special.
  std::string_view token_bytes(int32_t id, bool with_special) const;
  bool is_special(int32_t id) const;
  int32_t find(std::string_view token_text) const;  // added token by its text; -1 if none

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace skv::model
