// Byte-pair encoding of one word. Immutable once built; a Merger is one thread's scratch.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

namespace skv::model {

class Bpe {
 public:
  // model: tokenizer.json's "model"; ids must be in [0, vocab). Throws Error(SKV_E_MODEL / SKV_E_DATA).
  Bpe(const nlohmann::json& model, int32_t vocab);

  struct Merge {
    int32_t rank = -1;  // lower ranks merge first; -1: the pair does not merge
    int32_t id = -1;
  };
  Merge merge(int32_t left, int32_t right) const;
  int32_t byte_id(uint8_t byte) const { return byte_ids_[byte]; }  // -1 if the vocabulary lacks the byte
  // Id of a whole word, if it is to be used without merging (ignore_merges); -1 otherwise.
  int32_t whole_word(std::string_view word) const;
  int32_t find(const std::string& spelled) const;  // a token as tokenizer.json spells it; -1 if there is none
  // Bytes by id; empty for ids that no token has.
  const std::vector<std::string>& token_bytes() const { return bytes_; }

  // Appends the ids of one word of any bytes. Throws Error(SKV_E_INVALID) for a byte that the vocabulary lacks.
  class Merger {
   public:
    explicit Merger(const Bpe& bpe) : bpe_(bpe) {}
    void append(std::string_view word, std::vector<int32_t>& out);

   private:
    struct Symbol {
      int32_t id = 0;
      int32_t previous = -1;
      int32_t next = -1;
    };
    struct Candidate {
      int32_t rank = 0;
      int32_t at = 0;  // index of the left symbol
      int32_t left = 0, right = 0, id = 0;
      bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
    };
    void merge_short(std::vector<int32_t>& out);
    void merge_long(std::vector<int32_t>& out);
    void offer(int32_t at);

    const Bpe& bpe_;
    std::vector<int32_t> ids_;
    std::vector<Symbol> symbols_;
    std::vector<Candidate> heap_;
  };

 private:
  void read_vocab(const nlohmann::json& vocab, int32_t limit);
  void read_merges(const nlohmann::json& merges);
  void add_merge(std::string_view left, std::string_view right, int32_t rank);

  std::unordered_map<std::string, int32_t> ids_;  // by spelling
  std::vector<std::string> bytes_;
  std::array<int32_t, 256> byte_ids_{};
  bool ignore_merges_ = false;

  // Open addressing, at most half full: one lookup per adjacent pair is most of the work.
  struct Slot {
    uint64_t pair = UINT64_MAX;
    Merge merge;
  };
  std::vector<Slot> slots_;
};

// The reversible spelling of bytes as printable characters that byte-level vocabularies use (GPT-2's).
std::string spell_bytes(std::string_view bytes);
// Back to bytes; a spelling with any other character stands for itself.
std::string unspell_bytes(const std::string& spelled);

}  // namespace skv::model
