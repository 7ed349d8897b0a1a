// Chat formats by name, recognised from the template text in tokenizer_config.json. No template engine: a model's
// template is either one of these or unsupported, and the caller is told.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace skv::model {

enum class ChatFormat : uint8_t { none, llama3, chatml };

struct ChatMessage {
  std::string_view role;  // "system", "user", "assistant"
  std::string_view content;
};

ChatFormat detect_chat_format(const std::string& directory);
// Text to be tokenized with parse_special; ends with the opening of the assistant's turn if add_generation_prompt.
// Roles are system, user and assistant, contents must not spell control tokens: Error(SKV_E_INVALID), see chat.cc.
// Throws Error(SKV_E_UNSUPPORTED) for ChatFormat::none.
std::string format_chat(ChatFormat format, std::span<const ChatMessage> messages, bool add_generation_prompt);

}  // namespace skv::model
