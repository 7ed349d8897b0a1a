// The little of UTF-8 that the tokenizer needs: where valid text ends, and which characters are white space.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace skv::model {

// Decodes the character at text[at]: its length in bytes, or 0 if no valid one starts there (surrogates, overlong
// forms and code points past U+10FFFF are invalid). *code is written only for a length > 0.
int decode_utf8(std::string_view text, std::size_t at, uint32_t* code);

// Bytes from `at` on up to the next change between valid and invalid UTF-8.
std::size_t utf8_run(std::string_view text, std::size_t at, bool* valid);

// Unicode property White_Space (what \s means in the pre-split patterns).
bool is_white_space(uint32_t code);

void append_utf8(std::string& out, uint32_t code);

}  // namespace skv::model
