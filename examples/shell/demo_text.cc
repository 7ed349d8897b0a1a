#include "examples/shell/demo_text.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "examples/shell/demo_language.h"
#include "examples/shell/prompt_builder.h"
#include "examples/shell/shell_api.h"

namespace shell {

namespace {

// A fact or sentence follows a space, a question a new line.
std::string after(char separator, const std::string& text) {
  std::string all(1, separator);
  all += text;
  return all;
}

class Writer {
 public:
  explicit Writer(const DemoText& demo)
      : demo_(demo),
        runtime_(create_runtime(1)),
        model_(open_model(runtime_.get(), demo.model, true)),
        language_(read_text_file(demo.model + "/language.json")),
        random_(demo.seed) {
    settings_.raw = true;
  }

  void write();

 private:
  int64_t count(const std::string& text) const {
    return static_cast<int64_t>(tokenize(model_.get(), text, 0).size());
  }
  void draw_facts();
  // Sentences of exactly this many tokens together.
  std::vector<std::string> filler(int64_t tokens);
  std::string mix(std::vector<std::string> filler);
  std::string questions();

  const DemoText& demo_;
  Settings settings_;
  Runtime runtime_;
  Model model_;
  Language language_;
  Random random_;
  std::vector<Fact> facts_;
};

// Most names carry several attributes, so that finding the name alone does not answer the question.
void Writer::draw_facts() {
  const int64_t wanted = demo_.facts > 0 ? demo_.facts : std::clamp<int64_t>(demo_.tokens / 256, 64, 200);
  const std::vector<std::string> names = language_.some_names(random_, static_cast<int64_t>(wanted / 2.5) + 2);
  if (wanted > static_cast<int64_t>(names.size() * language_.attributes().size())) {
    throw Failure(SKV_E_INVALID, "more facts than the language has names and attributes for");
  }
  std::map<std::pair<std::string, std::string>, bool> taken;
  while (static_cast<int64_t>(facts_.size()) < wanted) {
    Fact fact{random_.choice(names), random_.choice(language_.attributes()), language_.value(random_)};
    if (taken.emplace(std::pair(fact.name, fact.attribute), true).second) facts_.push_back(std::move(fact));
  }
}

std::vector<std::string> Writer::filler(int64_t tokens) {
  std::vector<std::string> sentences;
  // The last sentences are drawn again until they fit: a rest of one to three of them always does, soon.
  constexpr int64_t kRest = 60;
  constexpr int kPatience = 10000;
  std::vector<std::string> rest;
  int64_t rest_tokens = 0;
  for (int tries = 0; tokens > 0;) {
    std::string sentence = after(' ', language_.sentence(random_));
    const int64_t n = count(sentence);
    if (tokens > kRest) {
      sentences.push_back(std::move(sentence));
      tokens -= n;
      continue;
    }
    if (++tries > kPatience) throw Failure(SKV_E_INVALID, "no sentences fill the text to exactly this many tokens");
    if (rest_tokens + n > tokens) {
      rest.clear();
      rest_tokens = 0;
      continue;
    }
    rest.push_back(std::move(sentence));
    rest_tokens += n;
    if (rest_tokens == tokens) break;
  }
  sentences.insert(sentences.end(), rest.begin(), rest.end());
  return sentences;
}

// Facts at uniformly drawn places among the sentences.
std::string Writer::mix(std::vector<std::string> filler) {
  std::vector<std::pair<uint64_t, std::string>> facts;
  for (const Fact& fact : facts_)
    facts.emplace_back(random_.below(filler.size() + 1), after(' ', language_.fact(fact)));
  std::stable_sort(facts.begin(), facts.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string text;
  auto next = facts.begin();
  for (std::size_t i = 0; i <= filler.size(); ++i) {
    for (; next != facts.end() && next->first == i; ++next) text += next->second;
    if (i < filler.size()) text += filler[i];
  }
  return text;
}

std::string Writer::questions() {
  std::vector<Fact> order = facts_;
  random_.shuffle(&order);
  std::string lines;
  for (int32_t i = 0; i < demo_.questions; ++i) {
    const Fact& fact = order[static_cast<std::size_t>(i) % order.size()];
    const nlohmann::ordered_json line{{"ask", after('\n', language_.question(fact))}, {"expect", fact.value}};
    lines += line.dump() + "\n";
  }
  return lines;
}

void Writer::write() {
  draw_facts();
  int64_t used = static_cast<int64_t>(PromptBuilder(model_.get(), settings_).document("").size());
  int64_t longest = 0;
  for (const Fact& fact : facts_) {
    used += count(after(' ', language_.fact(fact)));
    longest = std::max(longest, count(after('\n', language_.question(fact))));
  }
  const int64_t left = demo_.tokens - used - longest;
  if (left <= 0)
    throw Failure(SKV_E_INVALID, "--tokens is too small for the facts: " + std::to_string(used + longest));
  write_text_file(demo_.text_file, mix(filler(left)));
  write_text_file(demo_.ask_file, questions());
}

}  // namespace

int write_demo_text(const DemoText& demo) {
  Writer(demo).write();
  return 0;
}

}  // namespace shell
