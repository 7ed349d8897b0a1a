#include "examples/shell/prompt_builder.h"

#include <algorithm>

#include "examples/shell/shell_api.h"

namespace shell {

Tokens tokenize(skv_model* model, std::string_view text, int32_t flags) {
  const auto bytes = static_cast<int64_t>(text.size());
  // Byte-level tokens are at least a byte each; special ones that the tokenizer adds are few.
  Tokens tokens(text.size() + 8);
  int64_t n = 0;
  check([&](skv_error* err) {
    return skv_model_tokenize(model, text.data(), bytes, flags, tokens.data(), static_cast<int64_t>(tokens.size()),
                              &n, err);
  });
  tokens.resize(static_cast<std::size_t>(n));
  return tokens;
}

PromptBuilder::PromptBuilder(skv_model* model, const Settings& settings) : model_(model), settings_(settings) {
  const skv_model_info info = model_info(model);
  if (!info.has_tokenizer) throw Failure(SKV_E_UNSUPPORTED, "the model has no tokenizer.json");
  chat_ = settings.use_chat(info);
  if (!chat_) {
    opening_ = tokenize(model, "", SKV_TOKENIZE_ADD_SPECIAL);
    if (opening_.empty() && info.bos_token >= 0) opening_.push_back(info.bos_token);
    return;
  }
  // The opening of a turn is what conversations with different contents have in common.
  const Tokens empty = chat("");
  const Tokens other = chat("A");
  const auto end = std::mismatch(empty.begin(), empty.end(), other.begin(), other.end()).first;
  opening_.assign(empty.begin(), end);
}

Tokens PromptBuilder::chat(std::string_view content) const {
  const skv_chat_message message{"user", content.data(), static_cast<int64_t>(content.size())};
  Tokens tokens(content.size() + 256);
  int64_t n = 0;
  check([&](skv_error* err) {
    return skv_model_tokenize_chat(model_, &message, 1, sizeof message, 1, tokens.data(),
                                   static_cast<int64_t>(tokens.size()), &n, err);
  });
  tokens.resize(static_cast<std::size_t>(n));
  return tokens;
}

Tokens PromptBuilder::document(std::string_view text) const {
  Tokens tokens = opening_;
  const Tokens body = tokenize(model_, text, 0);
  tokens.insert(tokens.end(), body.begin(), body.end());
  const auto limit = static_cast<std::size_t>(settings_.max_document_tokens);
  if (limit > 0 && tokens.size() > limit) tokens.resize(limit);
  return tokens;
}

Tokens PromptBuilder::question(const std::string& text) const {
  if (chat_) {
    Tokens all = chat("\n\n" + text);
    if (all.size() <= opening_.size() || !std::equal(opening_.begin(), opening_.end(), all.begin())) {
      throw Failure(SKV_E_UNSUPPORTED, "the model's chat format has no fixed opening: use --raw");
    }
    all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(opening_.size()));
    return all;
  }
  std::string prompt = settings_.question_template;
  const std::size_t place = prompt.find("{}");
  if (place == std::string::npos) throw Failure(SKV_E_INVALID, "--template has no {} for the question");
  prompt.replace(place, 2, text);
  Tokens tokens = tokenize(model_, prompt, 0);
  if (tokens.empty()) throw Failure(SKV_E_INVALID, "the question is empty");
  return tokens;
}

}  // namespace shell
