// Cuts text into the words that BPE may not merge across. Only the pre-splits whose patterns are known are accepted:
// a pattern that means something else in PCRE2 than in the model's own tokenizer would give wrong ids in silence.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace skv::model {

class Pretokenizer {
 public:
  // spec: tokenizer.json's "pre_tokenizer". Throws Error(SKV_E_MODEL) naming what is not supported.
  explicit Pretokenizer(const nlohmann::json& spec);
  ~Pretokenizer();

  // Scratch of one thread's walk.
  class Walk {
   public:
    explicit Walk(const Pretokenizer& splitter);
    ~Walk();
    Walk(const Walk&) = delete;
    Walk& operator=(const Walk&) = delete;

    // text is valid UTF-8; fn(word) for each word in order; the words are views into text and cover it.
    template <class Fn>
    void split(std::string_view text, Fn&& fn) {
      split_from(0, text, fn);
    }

   private:
    template <class Fn>
    void split_from(int step, std::string_view text, Fn& fn) {
      if (text.empty()) return;
      if (step == steps()) return fn(text);
      std::size_t done = 0, begin = 0, end = 0;
      while (next_match(step, text, done, &begin, &end)) {
        split_from(step + 1, text.substr(done, begin - done), fn);
        split_from(step + 1, text.substr(begin, end - begin), fn);
        done = end;
      }
      split_from(step + 1, text.substr(done), fn);
    }

    int steps() const;
    bool next_match(int step, std::string_view text, std::size_t at, std::size_t* begin, std::size_t* end);

    struct Scratch;
    const Pretokenizer& splitter_;
    std::unique_ptr<Scratch> scratch_;
  };

 private:
  struct Pattern;
  void add_step(const nlohmann::json& spec);
  std::vector<std::unique_ptr<Pattern>> patterns_;
};

}  // namespace skv::model
