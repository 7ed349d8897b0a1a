#include "examples/shell/demo_language.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "examples/shell/shell_api.h"

namespace shell {

namespace {

std::vector<std::string> words(const nlohmann::json& json, const char* field) {
  const bool ok = json.contains(field) && json[field].is_array() && !json[field].empty() &&
                  std::all_of(json[field].begin(), json[field].end(), [](const auto& w) { return w.is_string(); });
  if (!ok) throw Failure(SKV_E_DATA, std::string("language.json: ") + field + " is not a list of words");
  return json[field].get<std::vector<std::string>>();
}

std::string text(const nlohmann::json& json, const char* field) {
  if (!json.contains(field) || !json[field].is_string()) {
    throw Failure(SKV_E_DATA, std::string("language.json: ") + field + " is not a text");
  }
  return json[field].get<std::string>();
}

std::string fill(std::string pattern, const Fact& fact) {
  for (const auto& [place, word] : {std::pair<const char*, const std::string*>{"{name}", &fact.name},
                                    {"{attribute}", &fact.attribute},
                                    {"{value}", &fact.value}}) {
    for (std::size_t at = pattern.find(place); at != std::string::npos; at = pattern.find(place, at + word->size())) {
      pattern.replace(at, std::char_traits<char>::length(place), *word);
    }
  }
  return pattern;
}

std::string capitalized(std::string word) {
  word[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(word[0])));
  return word;
}

}  // namespace

uint64_t Random::next() {
  state_ += 0x9E3779B97F4A7C15u;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

Language::Language(const std::string& json_text) {
  const auto json = nlohmann::json::parse(json_text, nullptr, false);
  if (!json.is_object()) throw Failure(SKV_E_DATA, "language.json: not a JSON object");
  names_ = words(json, "names");
  nouns_ = words(json, "nouns");
  adjectives_ = words(json, "adjectives");
  verbs_ = words(json, "verbs");
  adverbs_ = words(json, "adverbs");
  prepositions_ = words(json, "prepositions");
  attributes_ = words(json, "attributes");
  fact_ = text(json, "fact");
  question_ = text(json, "question");
}

std::vector<std::string> Language::some_names(Random& random, int64_t n) const {
  std::vector<std::string> all = names_;
  random.shuffle(&all);
  all.resize(std::min(all.size(), static_cast<std::size_t>(n)));
  return all;
}

// The kinds and their shares are those of the text that the model was trained on (examples/model/language.py).
std::string Language::sentence(Random& random) const {
  const auto noun = [&] { return random.choice(nouns_); };
  const auto adjective = [&] { return random.choice(adjectives_); };
  const auto verb = [&] { return random.choice(verbs_); };
  const auto adverb = [&] { return random.choice(adverbs_); };
  const auto preposition = [&] { return random.choice(prepositions_); };
  // One statement a word: the order in which operands of + are evaluated is not fixed.
  std::string s;
  const auto add = [&s](const std::string& part) { s += part; };
  const uint64_t kind = random.below(100);
  if (kind < 35) {
    add("The "), add(adjective()), add(" "), add(noun()), add(" "), add(verb()), add(" the "), add(noun());
    add(" "), add(preposition()), add(" the "), add(adjective()), add(" "), add(noun());
  } else if (kind < 60) {
    add("A "), add(noun()), add(" "), add(adverb()), add(" "), add(verb()), add(" the "), add(adjective());
    add(" "), add(noun());
  } else if (kind < 80) {
    add(capitalized(preposition())), add(" the "), add(noun()), add(", the "), add(noun()), add(" ");
    add(verb()), add(" a "), add(noun()), add(" "), add(adverb());
  } else if (kind < 90) {
    add("There were "), add(std::to_string(2 + random.below(98))), add(" "), add(adjective()), add(" ");
    add(noun()), add("s "), add(preposition()), add(" the "), add(noun());
  } else {
    add("The "), add(noun()), add(" and the "), add(noun()), add(" "), add(verb()), add(" the "), add(noun());
  }
  return s + ".";
}

std::string Language::value(Random& random) const { return std::to_string(10000 + random.below(90000)); }
std::string Language::fact(const Fact& fact) const { return fill(fact_, fact); }
std::string Language::question(const Fact& fact) const { return fill(question_, fact); }

}  // namespace shell
