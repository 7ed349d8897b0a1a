// Tokens that are cut out of the text before anything else looks at it: "added_tokens" of tokenizer.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace skv::model {

struct AddedToken {
  int32_t id = -1;
  std::string text;
  bool special = false;
  bool left_strip = false;   // takes the white space before it
  bool right_strip = false;  // and after it
  bool normalized = false;   // looked for after all that are not
};

// At most `vocab` entries with ids in [0, vocab). Throws Error(SKV_E_DATA / SKV_E_MODEL).
std::vector<AddedToken> read_added_tokens(const nlohmann::json& root, int32_t vocab);

// Longest match first, leftmost first, over one set of added tokens.
class AddedTokenMatcher {
 public:
  // tokens must outlive this.
  void build(const std::vector<AddedToken>& tokens, bool normalized, bool with_special);

  // Walks text in order: gap(piece) for non-empty text between tokens, token(id) for each token.
  template <class Gap, class Token>
  void split(std::string_view text, Gap&& gap, Token&& token) const {
    std::size_t done = 0;
    Match match;
    while (next(text, done, &match)) {
      if (match.begin > done) gap(text.substr(done, match.begin - done));
      token(match.id);
      done = match.end;
    }
    if (done < text.size()) gap(text.substr(done));
  }

 private:
  struct Match {
    std::size_t begin = 0, end = 0;
    int32_t id = -1;
  };
  struct Node {
    std::vector<std::pair<char, int32_t>> children;  // sorted by byte
    int32_t token = -1;                              // index into tokens_
  };
  bool next(std::string_view text, std::size_t from, Match* match) const;
  int32_t child(int32_t node, char byte) const;
  void insert(int32_t token);

  const std::vector<AddedToken>* tokens_ = nullptr;
  std::vector<Node> nodes_;  // [0] is the root; empty if there is nothing to match
  bool first_[256] = {};     // bytes that some token begins with
};

}  // namespace skv::model
