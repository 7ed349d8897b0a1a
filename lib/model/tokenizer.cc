#include "lib/model/tokenizer.h"

#include <functional>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/status.h"
#include "lib/model/added_tokens.h"
#include "lib/model/bpe.h"
#include "lib/model/pretokenizer.h"
#include "lib/model/utf8.h"

namespace skv::model {

namespace {

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr int kMaxDepth = 16;

nlohmann::json read_json(const std::string& directory) {
  return parse_json(read_file(directory + "/tokenizer.json", kMaxFileBytes), "tokenizer.json", kMaxDepth,
                    kMaxFileBytes);
}

const nlohmann::json& member_or_null(const nlohmann::json& root, const char* key) {
  static const nlohmann::json none;
  const nlohmann::json* value = find_member(root, key);
  return value ? *value : none;
}

// Ids that the post-processor puts around a single text.
struct Template {
  std::vector<int32_t> before, after;

  void read(const nlohmann::json& spec, int32_t vocab) {
    const std::string type = get_string(spec, "type");
    if (type == "ByteLevel") return;  // moves offsets only
    if (type == "Sequence") {
      for (const nlohmann::json& step : get_array(spec, "processors")) read(step, vocab);
      return;
    }
    if (type != "TemplateProcessing")
      fail(SKV_E_MODEL,
           "tokenizer.json: post_processor type '%.60s' is not supported (ByteLevel, TemplateProcessing)",
           type.c_str());
    bool past_text = false;
    for (const nlohmann::json& piece : get_array(spec, "single")) {
      if (find_member(piece, "Sequence")) {
        if (past_text) fail(SKV_E_MODEL, "tokenizer.json: post_processor: the text occurs twice");
        past_text = true;
        continue;
      }
      const std::string name = get_string(get_object(piece, "SpecialToken"), "id");
      const nlohmann::json& token = get_object(get_object(spec, "special_tokens"), name.c_str());
      for (const nlohmann::json& id : get_array(token, "ids")) {
        if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocab))
          fail(SKV_E_DATA, "tokenizer.json: post_processor: an id of '%.60s' is outside the vocabulary of %d",
               name.c_str(), vocab);
        (past_text ? after : before).push_back(static_cast<int32_t>(id.get<uint64_t>()));
      }
    }
    if (!past_text) fail(SKV_E_MODEL, "tokenizer.json: post_processor: the text is missing from the template");
  }
};

// Words repeat: a direct-mapped memory of where a word's ids already stand in the output.
class WordCache {
 public:
  explicit WordCache(std::size_t text_bytes) {
    std::size_t slots = 64;
    while (slots < kMaxSlots && slots < text_bytes / 16) slots *= 2;
    slots_.resize(slots);
  }
  void append(std::string_view word, Bpe::Merger& merger, std::vector<int32_t>& out) {
    if (word.size() > kMaxWord) return merger.append(word, out);
    Slot& slot = slots_[std::hash<std::string_view>()(word) & (slots_.size() - 1)];
    if (slot.word == word) {
      for (std::size_t i = 0; i < slot.n; ++i) out.push_back(out[slot.first + i]);
      return;
    }
    const std::size_t first = out.size();
    merger.append(word, out);
    slot = {word, first, out.size() - first};
  }

 private:
  static constexpr std::size_t kMaxSlots = 1 << 16, kMaxWord = 256;
  struct Slot {
    std::string_view word;
    std::size_t first = 0, n = 0;
  };
  std::vector<Slot> slots_;
};

}  // namespace

struct Tokenizer::Impl {
  Impl(const nlohmann::json& root, int32_t vocab)
      : bpe(get_object(root, "model"), vocab),
        splitter(member_or_null(root, "pre_tokenizer")),
        added(read_added_tokens(root, vocab)),
        bytes(bpe.token_bytes()),
        special(static_cast<std::size_t>(vocab)) {
    if (const nlohmann::json* normalizer = find_member(root, "normalizer"))
      fail(SKV_E_MODEL, "tokenizer.json: normalizer '%.60s' is not supported",
           get_string_or(*normalizer, "type", "without a type").c_str());
    if (const nlohmann::json* decoder = find_member(root, "decoder")) {
      const std::string type = get_string(*decoder, "type");
      if (type != "ByteLevel")
        fail(SKV_E_MODEL, "tokenizer.json: decoder '%.60s' is not supported (ByteLevel)", type.c_str());
    }
    if (const nlohmann::json* post = find_member(root, "post_processor")) around.read(*post, vocab);
    for (const AddedToken& token : added) {
      bytes[static_cast<std::size_t>(token.id)] = token.text;
      special[static_cast<std::size_t>(token.id)] = token.special;
    }
    for (const bool with_special : {false, true})
      for (const bool normalized : {false, true})
        matchers[with_special][normalized].build(added, normalized, with_special);
  }

  Bpe bpe;
  Pretokenizer splitter;
  std::vector<AddedToken> added;
  AddedTokenMatcher matchers[2][2];  // [with special][normalized]
  Template around;
  std::vector<std::string> bytes;
  std::vector<bool> special;
};

Tokenizer::Tokenizer(const std::string& directory, int32_t vocab)
    : impl_(std::make_unique<Impl>(read_json(directory), vocab)) {}

Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special, bool parse_special) const {
  std::vector<int32_t> out;
  out.reserve(text.size() / 3 + 8);
  if (add_special) out = impl_->around.before;
  Pretokenizer::Walk walk(impl_->splitter);
  Bpe::Merger merger(impl_->bpe);
  WordCache cache(text.size());
  const auto word = [&](std::string_view w) { cache.append(w, merger, out); };
  // The patterns need valid UTF-8; other bytes are words of their own.
  const auto plain = [&](std::string_view piece) {
    while (!piece.empty()) {
      bool valid = true;
      const std::size_t n = utf8_run(piece, 0, &valid);
      if (valid) walk.split(piece.substr(0, n), word);
      else word(piece.substr(0, n));
      piece.remove_prefix(n);
    }
  };
  const auto token = [&](int32_t id) { out.push_back(id); };
  const auto& [exact, normalized] = impl_->matchers[parse_special];
  exact.split(text, [&](std::string_view gap) { normalized.split(gap, plain, token); }, token);
  if (add_special) out.insert(out.end(), impl_->around.after.begin(), impl_->around.after.end());
  return out;
}

std::string_view Tokenizer::token_bytes(int32_t id, bool with_special) const {
  if (id < 0 || static_cast<std::size_t>(id) >= impl_->bytes.size()) return {};
  if (!with_special && impl_->special[static_cast<std::size_t>(id)]) return {};
  return impl_->bytes[static_cast<std::size_t>(id)];
}

bool Tokenizer::is_special(int32_t id) const {
  const auto& special = impl_->special;
  return id >= 0 && static_cast<std::size_t>(id) < special.size() && special[static_cast<std::size_t>(id)];
}

int32_t Tokenizer::find(std::string_view token_text) const {
  for (const AddedToken& token : impl_->added)
    if (token.text == token_text) return token.id;
  return -1;
}

}  // namespace skv::model
