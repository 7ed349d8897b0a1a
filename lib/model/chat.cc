#include "lib/model/chat.h"

#include <algorithm>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/status.h"

namespace skv::model {

namespace {

constexpr int64_t kMaxFileBytes = int64_t{16} << 20;  // some list every added token
constexpr int kMaxDepth = 16;

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

ChatFormat recognise(const std::string& source) {
  if (has(source, "<|start_header_id|>") && has(source, "<|end_header_id|>") && has(source, "<|eot_id|>"))
    return ChatFormat::llama3;
  if (has(source, "<|im_start|>") && has(source, "<|im_end|>")) return ChatFormat::chatml;
  return ChatFormat::none;
}

// Would tokenizing with parse_special turn part of the text into a control token of these formats?
bool spells_control_token(std::string_view text) {
  for (std::size_t at = text.find("<|"); at != std::string_view::npos; at = text.find("<|", at + 1)) {
    const std::size_t end = text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_",
                                                   at + 2);
    if (end != std::string_view::npos && end > at + 2 && text.substr(end, 2) == "|>") return true;
  }
  return false;
}

}  // namespace

ChatFormat detect_chat_format(const std::string& directory) {
  const std::string separate = directory + "/chat_template.jinja";
  if (file_exists(separate)) return recognise(read_file(separate, kMaxFileBytes));
  const std::string config = directory + "/tokenizer_config.json";
  if (!file_exists(config)) return ChatFormat::none;
  const nlohmann::json root = parse_json(read_file(config, kMaxFileBytes), "tokenizer_config.json", kMaxDepth,
                                         kMaxFileBytes);
  const nlohmann::json* source = root.is_object() ? find_member(root, "chat_template") : nullptr;
  if (!source) return ChatFormat::none;
  if (source->is_string()) return recognise(source->get<std::string>());
  // Several templates: [{"name": "default", "template": "..."}, ...].
  if (!source->is_array()) return ChatFormat::none;
  for (const nlohmann::json& entry : *source)
    if (entry.is_object() && get_string_or(entry, "name", "") == "default")
      return recognise(get_string_or(entry, "template", ""));
  return ChatFormat::none;
}

// The begin token is not part of the text: encode() adds it where the model's post-processor says so. A content that
// spells a control token would let the text of a user close its own turn, so it is refused; a host that wants such
// text tokenizes the frame with parse_special and the content without.
std::string format_chat(ChatFormat format, std::span<const ChatMessage> messages, bool add_generation_prompt) {
  if (format == ChatFormat::none) fail(SKV_E_UNSUPPORTED, "the model has no known chat format (llama3, chatml)");
  const bool llama3 = format == ChatFormat::llama3;
  const std::string_view open = llama3 ? "<|start_header_id|>" : "<|im_start|>";
  const std::string_view name_end = llama3 ? "<|end_header_id|>\n\n" : "\n";
  const std::string_view close = llama3 ? "<|eot_id|>" : "<|im_end|>\n";
  std::string text;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    if (role != "system" && role != "user" && role != "assistant")
      fail(SKV_E_INVALID, "message %zu: role '%.*s' is not system, user or assistant", i,
           static_cast<int>(std::min<std::size_t>(role.size(), 40)), role.data());
    if (spells_control_token(content)) fail(SKV_E_INVALID, "message %zu spells a control token (<|...|>)", i);
    text.append(open).append(role).append(name_end).append(content).append(close);
  }
  if (add_generation_prompt) text.append(open).append("assistant").append(name_end);
  return text;
}

}  // namespace skv::model
