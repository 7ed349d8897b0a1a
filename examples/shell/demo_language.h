// The synthetic language of the demo model, from its language.json.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace shell {

// SplitMix64: the same text from the same seed with any C++ library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next();
  uint64_t below(uint64_t n) { return next() % n; }
  const std::string& choice(const std::vector<std::string>& words) { return words[below(words.size())]; }
  template <class T>
  void shuffle(std::vector<T>* items) {
    for (uint64_t i = items->size(); i > 1; --i) std::swap((*items)[i - 1], (*items)[below(i)]);
  }

 private:
  uint64_t state_;
};

struct Fact {
  std::string name, attribute, value;
};

class Language {
 public:
  // Throws SKV_E_DATA if the JSON lacks a part.
  explicit Language(const std::string& json_text);

  const std::vector<std::string>& attributes() const { return attributes_; }
  std::vector<std::string> some_names(Random& random, int64_t n) const;
  std::string sentence(Random& random) const;
  std::string value(Random& random) const;  // five digits
  std::string fact(const Fact& fact) const;
  std::string question(const Fact& fact) const;  // up to where the value follows

 private:
  std::vector<std::string> names_, nouns_, adjectives_, verbs_, adverbs_, prepositions_, attributes_;
  std::string fact_, question_;
};

}  // namespace shell
