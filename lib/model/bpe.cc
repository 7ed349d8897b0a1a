#include "lib/model/bpe.h"

#include <algorithm>

#include "lib/base/json.h"
#include "lib/base/status.h"
#include "lib/model/utf8.h"

namespace skv::model {

namespace {

constexpr std::size_t kShortWord = 24;  // symbols; up to here scanning beats a heap

struct ByteSpelling {
  std::array<uint32_t, 256> code{};
  std::array<int16_t, 324> byte{};  // by code point; -1 if it spells none
  ByteSpelling() {
    byte.fill(-1);
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      code[b] = printable ? b : next++;
      byte[code[b]] = static_cast<int16_t>(b);
    }
  }
};

const ByteSpelling& spelling() {
  static const ByteSpelling table;
  return table;
}

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 32)) * 0x9e3779b97f4a7c15ull;
  return x ^ (x >> 29);
}

void refuse_if_set(const nlohmann::json& model, const char* key) {
  const nlohmann::json* value = find_member(model, key);
  if (!value || (value->is_string() && value->get_ref<const std::string&>().empty())) return;
  if (value->is_boolean() && !value->get<bool>()) return;
  if (value->is_number() && value->get<double>() == 0.0) return;
  fail(SKV_E_MODEL, "tokenizer.json: model: %s is not supported by byte-level BPE here", key);
}

}  // namespace

std::string spell_bytes(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) append_utf8(out, spelling().code[static_cast<uint8_t>(c)]);
  return out;
}

std::string unspell_bytes(const std::string& spelled) {
  std::string out;
  const auto& byte = spelling().byte;
  for (std::size_t at = 0; at < spelled.size();) {
    uint32_t code = 0;
    const int length = decode_utf8(spelled, at, &code);
    if (length == 0 || code >= byte.size() || byte[code] < 0) return spelled;
    out.push_back(static_cast<char>(byte[code]));
    at += static_cast<std::size_t>(length);
  }
  return out;
}

Bpe::Bpe(const nlohmann::json& model, int32_t vocab) {
  const std::string type = get_string_or(model, "type", "BPE");
  if (type != "BPE") fail(SKV_E_MODEL, "tokenizer.json: model type '%.60s' is not supported (BPE)", type.c_str());
  for (const char* key : {"byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout"})
    refuse_if_set(model, key);
  ignore_merges_ = get_bool_or(model, "ignore_merges", false);
  read_vocab(get_object(model, "vocab"), vocab);
  read_merges(get_array(model, "merges"));
}

void Bpe::read_vocab(const nlohmann::json& vocab, int32_t limit) {
  ids_.reserve(vocab.size());
  bytes_.resize(static_cast<std::size_t>(limit));
  std::vector<bool> seen(static_cast<std::size_t>(limit));
  for (const auto& [token, value] : vocab.items()) {
    if (!value.is_number_integer())
      fail(SKV_E_DATA, "tokenizer.json: the id of token '%.60s' is not an integer", token.c_str());
    const int64_t id = value.is_number_unsigned() && value.get<uint64_t>() > INT32_MAX ? -1 : value.get<int64_t>();
    if (id < 0 || id >= limit)
      fail(SKV_E_DATA, "tokenizer.json: the id of token '%.60s' is outside the model's vocabulary of %d",
           token.c_str(), limit);
    const auto index = static_cast<std::size_t>(id);
    if (seen[index]) fail(SKV_E_DATA, "tokenizer.json: id %d stands for two tokens", static_cast<int>(id));
    seen[index] = true;
    ids_.emplace(token, static_cast<int32_t>(id));
    bytes_[index] = unspell_bytes(token);
  }
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    byte_ids_[static_cast<std::size_t>(b)] = find(spell_bytes({&byte, 1}));
  }
}

void Bpe::read_merges(const nlohmann::json& merges) {
  if (merges.size() > (1u << 24))
    fail(SKV_E_DATA, "tokenizer.json: %zu merges; at most %u are allowed", merges.size(), 1u << 24);
  std::size_t slots = 16;
  while (slots < 2 * merges.size()) slots *= 2;
  slots_.resize(slots);
  int32_t rank = 0;
  for (const nlohmann::json& merge : merges) {
    if (merge.is_string()) {
      const std::string_view text = merge.get_ref<const std::string&>();
      const std::size_t space = text.find(' ');
      if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
        fail(SKV_E_DATA, "tokenizer.json: merge %d is not two tokens with a space between them", rank);
      add_merge(text.substr(0, space), text.substr(space + 1), rank);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(), rank);
    } else {
      fail(SKV_E_DATA, "tokenizer.json: merge %d is neither a string nor a pair of strings", rank);
    }
    ++rank;
  }
}

void Bpe::add_merge(std::string_view left, std::string_view right, int32_t rank) {
  std::string merged(left);
  const int32_t left_id = find(merged), right_id = find(std::string(right));
  merged += right;
  const int32_t id = find(merged);
  if (left_id < 0 || right_id < 0 || id < 0)
    fail(SKV_E_DATA, "tokenizer.json: merge %d uses a token that is not in the vocabulary", rank);
  const uint64_t key = pair_key(left_id, right_id);
  std::size_t i = mix(key) & (slots_.size() - 1);
  while (slots_[i].pair != UINT64_MAX && slots_[i].pair != key) i = (i + 1) & (slots_.size() - 1);
  slots_[i] = {key, {rank, id}};
}

Bpe::Merge Bpe::merge(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right);
  for (std::size_t i = mix(key) & (slots_.size() - 1);; i = (i + 1) & (slots_.size() - 1)) {
    if (slots_[i].pair == key) return slots_[i].merge;
    if (slots_[i].pair == UINT64_MAX) return {};
  }
}

int32_t Bpe::find(const std::string& spelled) const {
  const auto it = ids_.find(spelled);
  return it == ids_.end() ? -1 : it->second;
}

int32_t Bpe::whole_word(std::string_view word) const { return ignore_merges_ ? find(spell_bytes(word)) : -1; }

void Bpe::Merger::append(std::string_view word, std::vector<int32_t>& out) {
  constexpr std::size_t kLongestToken = 1024;  // a longer word is not looked up whole, which would copy it
  if (word.size() <= kLongestToken) {
    const int32_t whole = bpe_.whole_word(word);
    if (whole >= 0) return out.push_back(whole);
  }
  if (word.size() > INT32_MAX)
    fail(SKV_E_LIMIT, "a word of %zu bytes cannot be tokenized; %d are allowed", word.size(), INT32_MAX);
  ids_.clear();
  for (const char c : word) {
    const int32_t id = bpe_.byte_id(static_cast<uint8_t>(c));
    if (id < 0) fail(SKV_E_INVALID, "the text has a byte 0x%02x that the tokenizer's vocabulary lacks", c & 0xff);
    ids_.push_back(id);
  }
  if (ids_.size() <= kShortWord) merge_short(out);
  else merge_long(out);
}

void Bpe::Merger::merge_short(std::vector<int32_t>& out) {
  std::array<Merge, kShortWord> next;  // of symbol i with i + 1
  std::size_t n = ids_.size();
  for (std::size_t i = 0; i + 1 < n; ++i) next[i] = bpe_.merge(ids_[i], ids_[i + 1]);
  while (n > 1) {
    std::size_t best = n;
    for (std::size_t i = 0; i + 1 < n; ++i)
      if (next[i].rank >= 0 && (best == n || next[i].rank < next[best].rank)) best = i;
    if (best == n) break;
    ids_[best] = next[best].id;
    for (std::size_t i = best + 1; i + 1 < n; ++i) {
      ids_[i] = ids_[i + 1];
      next[i] = next[i + 1];
    }
    --n;
    if (best > 0) next[best - 1] = bpe_.merge(ids_[best - 1], ids_[best]);
    if (best + 1 < n) next[best] = bpe_.merge(ids_[best], ids_[best + 1]);
  }
  out.insert(out.end(), ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(n));
}

void Bpe::Merger::offer(int32_t at) {
  const Symbol& left = symbols_[static_cast<std::size_t>(at)];
  if (left.next < 0) return;
  const int32_t right_id = symbols_[static_cast<std::size_t>(left.next)].id;
  const Merge merge = bpe_.merge(left.id, right_id);
  if (merge.rank < 0) return;
  heap_.push_back({merge.rank, at, left.id, right_id, merge.id});
  std::push_heap(heap_.begin(), heap_.end());
}

// A linked list of symbols and a heap of candidate pairs; a candidate whose symbols have changed since is dropped
// when it comes up, so a word of n bytes takes O(n log n).
void Bpe::Merger::merge_long(std::vector<int32_t>& out) {
  const auto n = static_cast<int32_t>(ids_.size());
  symbols_.resize(ids_.size());
  for (int32_t i = 0; i < n; ++i)
    symbols_[static_cast<std::size_t>(i)] = {ids_[static_cast<std::size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1};
  heap_.clear();
  for (int32_t i = 0; i < n; ++i) offer(i);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end());
    const Candidate c = heap_.back();
    heap_.pop_back();
    Symbol& left = symbols_[static_cast<std::size_t>(c.at)];
    if (left.id != c.left || left.next < 0) continue;
    Symbol& right = symbols_[static_cast<std::size_t>(left.next)];
    if (right.id != c.right) continue;
    left.id = c.id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols_[static_cast<std::size_t>(left.next)].previous = c.at;
    offer(c.at);
    if (left.previous >= 0) offer(left.previous);
  }
  for (int32_t i = 0; i >= 0; i = symbols_[static_cast<std::size_t>(i)].next)
    out.push_back(symbols_[static_cast<std::size_t>(i)].id);
}

}  // namespace skv::model
