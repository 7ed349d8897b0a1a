// Text to tokens: a document that questions share, and the questions behind it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "examples/shell/shell_settings.h"

namespace shell {

using Tokens = std::vector<int32_t>;

// Plain tokens of a text.
Tokens tokenize(skv_model* model, std::string_view text, int32_t flags);

class PromptBuilder {
 public:
  PromptBuilder(skv_model* model, const Settings& settings);

  // The begin token (or the opening of the user's turn) and the document.
  Tokens document(std::string_view text) const;
  // What follows the document: never empty.
  Tokens question(const std::string& text) const;

 private:
  Tokens chat(std::string_view content) const;

  skv_model* model_;
  const Settings& settings_;
  bool chat_;
  Tokens opening_;  // before the document
};

}  // namespace shell
