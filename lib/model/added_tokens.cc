#include "lib/model/added_tokens.h"

#include <algorithm>

#include "lib/base/json.h"
#include "lib/base/status.h"
#include "lib/model/utf8.h"

namespace skv::model {

namespace {

constexpr std::size_t kLongestText = 1024;  // bounds what a match may look at

std::size_t space_before(std::string_view text, std::size_t at, std::size_t floor) {
  while (at > floor) {
    std::size_t start = at - 1;
    while (start > floor && at - start < 4 && (static_cast<uint8_t>(text[start]) & 0xc0) == 0x80) --start;
    uint32_t code = 0;
    const int length = decode_utf8(text, start, &code);
    if (length == 0 || start + static_cast<std::size_t>(length) != at || !is_white_space(code)) break;
    at = start;
  }
  return at;
}

std::size_t space_after(std::string_view text, std::size_t at) {
  uint32_t code = 0;
  for (int length = 0; (length = decode_utf8(text, at, &code)) > 0 && is_white_space(code);)
    at += static_cast<std::size_t>(length);
  return at;
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const nlohmann::json& root, int32_t vocab) {
  std::vector<AddedToken> tokens;
  if (!find_member(root, "added_tokens")) return tokens;
  const nlohmann::json& list = get_array(root, "added_tokens");
  if (list.size() > static_cast<std::size_t>(vocab))
    fail(SKV_E_DATA, "tokenizer.json: %zu added tokens in a vocabulary of %d", list.size(), vocab);
  for (const nlohmann::json& entry : list) {
    AddedToken token;
    token.text = get_string(entry, "content");
    if (token.text.size() > kLongestText)
      fail(SKV_E_MODEL, "tokenizer.json: an added token has %zu bytes; %zu are allowed", token.text.size(),
           kLongestText);
    const int64_t id = get_int(entry, "id", 0, INT32_MAX);
    if (id >= vocab)
      fail(SKV_E_DATA, "tokenizer.json: the id of added token '%.60s' is outside the model's vocabulary of %d",
           token.text.c_str(), vocab);
    token.id = static_cast<int32_t>(id);
    token.special = get_bool_or(entry, "special", false);
    token.left_strip = get_bool_or(entry, "lstrip", false);
    token.right_strip = get_bool_or(entry, "rstrip", false);
    token.normalized = get_bool_or(entry, "normalized", !token.special);
    if (get_bool_or(entry, "single_word", false))
      fail(SKV_E_MODEL, "tokenizer.json: added token '%.60s': single_word is not supported", token.text.c_str());
    if (!token.text.empty()) tokens.push_back(std::move(token));
  }
  return tokens;
}

void AddedTokenMatcher::build(const std::vector<AddedToken>& tokens, bool normalized, bool with_special) {
  tokens_ = &tokens;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i].normalized == normalized && (with_special || !tokens[i].special)) insert(static_cast<int32_t>(i));
}

int32_t AddedTokenMatcher::child(int32_t node, char byte) const {
  const auto& children = nodes_[static_cast<std::size_t>(node)].children;
  const auto it = std::lower_bound(children.begin(), children.end(), byte,
                                   [](const auto& entry, char wanted) { return entry.first < wanted; });
  return it == children.end() || it->first != byte ? -1 : it->second;
}

void AddedTokenMatcher::insert(int32_t token) {
  if (nodes_.empty()) nodes_.emplace_back();
  const std::string& text = (*tokens_)[static_cast<std::size_t>(token)].text;
  first_[static_cast<uint8_t>(text[0])] = true;
  int32_t node = 0;
  for (const char byte : text) {
    int32_t below = child(node, byte);
    if (below < 0) {
      below = static_cast<int32_t>(nodes_.size());
      nodes_.emplace_back();
      auto& children = nodes_[static_cast<std::size_t>(node)].children;
      const std::pair<char, int32_t> entry(byte, below);
      children.insert(std::lower_bound(children.begin(), children.end(), entry), entry);
    }
    node = below;
  }
  nodes_[static_cast<std::size_t>(node)].token = token;
}

bool AddedTokenMatcher::next(std::string_view text, std::size_t from, Match* match) const {
  if (nodes_.empty()) return false;
  for (std::size_t begin = from; begin < text.size(); ++begin) {
    if (!first_[static_cast<uint8_t>(text[begin])]) continue;
    int32_t node = 0, found = -1;
    std::size_t end = begin;
    for (std::size_t at = begin; at < text.size() && (node = child(node, text[at])) >= 0; ++at) {
      if (nodes_[static_cast<std::size_t>(node)].token < 0) continue;
      found = nodes_[static_cast<std::size_t>(node)].token;
      end = at + 1;
    }
    if (found < 0) continue;
    const AddedToken& token = (*tokens_)[static_cast<std::size_t>(found)];
    match->begin = token.left_strip ? space_before(text, begin, from) : begin;
    match->end = token.right_strip ? space_after(text, end) : end;
    match->id = token.id;
    return true;
  }
  return false;
}

}  // namespace skv::model
