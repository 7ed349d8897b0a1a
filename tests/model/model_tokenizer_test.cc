#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <thread>

#include "lib/model/tokenizer.h"
#include "tests/model/fixture.h"

namespace skv::model {
namespace {

using nlohmann::json;
using test::fixture_path;
using test::ScratchModel;
using test::status_of;

constexpr int32_t kVocab = 1000;
constexpr const char* kTokenizers[] = {"tokenizer_gpt2", "tokenizer_llama3", "tokenizer_qwen2", "tokenizer_digits"};

json read_cases(const std::string& name) {
  return json::parse(read_file(fixture_path(name) + "/cases.json", 1 << 22));
}

std::string decode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += tokenizer.token_bytes(id, true);
  return text;
}

void expect_cases(const Tokenizer& tokenizer, const json& cases, const std::string& name) {
  ASSERT_GE(cases.size(), 50u);
  for (const json& c : cases) {
    const auto text = c["text"].get<std::string>();
    const auto got = tokenizer.encode(text, c["add_special"].get<bool>(), c["parse_special"].get<bool>());
    EXPECT_EQ(got, c["ids"].get<std::vector<int32_t>>()) << name << ": " << c.dump().substr(0, 200);
  }
}

TEST(Tokenizer, GivesTheIdsOfTheReferenceLibrary) {
  for (const char* name : kTokenizers) expect_cases(Tokenizer(fixture_path(name), kVocab), read_cases(name), name);
  expect_cases(Tokenizer(SKV_DEMO_MODEL, 1536), read_cases("tokenizer_demo"), "demo model");
}

TEST(Tokenizer, ManyThreadsMayShareOne) {
  const Tokenizer tokenizer(fixture_path("tokenizer_llama3"), kVocab);
  const json cases = read_cases("tokenizer_llama3");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { expect_cases(tokenizer, cases, "thread"); });
  for (std::thread& t : threads) t.join();
}

TEST(Tokenizer, RandomBytesComeBackUnchanged) {
  std::mt19937 random(7);
  for (const char* name : kTokenizers) {
    const Tokenizer tokenizer(fixture_path(name), kVocab);
    for (int round = 0; round < 200; ++round) {
      std::string text(random() % 200, '\0');
      // Every other round draws from bytes that make whole and broken characters.
      for (char& c : text) {
        const char broken = " a\n1\xc3\xa9\xe4\xb8\xad\xf0\x9f"[random() % 11];
        c = round % 2 ? static_cast<char>(random() & 0xff) : broken;
      }
      ASSERT_EQ(decode(tokenizer, tokenizer.encode(text, false, false)), text) << name << " round " << round;
    }
  }
}

TEST(Tokenizer, InvalidUtf8DoesNotDisturbTheTextAroundIt) {
  const Tokenizer tokenizer(fixture_path("tokenizer_qwen2"), kVocab);
  const auto ids = [&](std::string_view text) { return tokenizer.encode(text, false, true); };
  const std::string_view broken[] = {"\x80",         "\xff\xfe",     "\xc0\xaf",         "\xed\xa0\x80",
                                     "\xf4\x90\x80\x80",
                                     "\xe4\xb8",     "\xf0\x9f\x98", "\xf8\x88\x80\x80", "\xe0\x80\x80", "\xc3"};
  for (const std::string_view bytes : broken) {
    std::vector<int32_t> want = ids("The quick ");
    for (const int32_t id : ids(bytes)) want.push_back(id);
    for (const int32_t id : ids(" fox 12<|end|>")) want.push_back(id);
    EXPECT_EQ(ids("The quick " + std::string(bytes) + " fox 12<|end|>"), want);
  }
}

TEST(Tokenizer, LongWordsAndLongTextsTakeLinearTime) {
  const Tokenizer tokenizer(fixture_path("tokenizer_llama3"), kVocab);
  // Quadratic merging of a word this long would run into the test's time limit.
  for (const char* unit : {"a", " ", "\n ", "the", "\xe4\xb8\xad", "\x80", "!", "1", "aB'"}) {
    std::string text;
    while (text.size() < 2000000) text += unit;
    EXPECT_EQ(decode(tokenizer, tokenizer.encode(text, false, true)), text) << unit;
  }
}

TEST(Tokenizer, SpecialTokensAreTextUnlessAskedFor) {
  const Tokenizer tokenizer(fixture_path("tokenizer_llama3"), kVocab);
  const int32_t end = tokenizer.find("<|end|>");
  ASSERT_GE(end, 0);
  EXPECT_EQ(tokenizer.encode("<|end|>", false, true), std::vector<int32_t>{end});
  EXPECT_GT(tokenizer.encode("<|end|>", false, false).size(), 1u);
  EXPECT_EQ(tokenizer.encode("", true, true), std::vector<int32_t>{tokenizer.find("<|begin|>")});
  EXPECT_TRUE(tokenizer.is_special(end));
  EXPECT_FALSE(tokenizer.is_special(tokenizer.find("<tool>")));
  EXPECT_EQ(tokenizer.token_bytes(end, true), "<|end|>");
  EXPECT_EQ(tokenizer.token_bytes(end, false), "");
  EXPECT_EQ(tokenizer.token_bytes(tokenizer.find("<tool>"), false), "<tool>");
  EXPECT_EQ(tokenizer.find("the"), -1);
}

TEST(Tokenizer, IdsThatNoTokenHasAreEmpty) {
  const Tokenizer tokenizer(fixture_path("tokenizer_llama3"), kVocab);
  for (const int32_t id : {-1, kVocab - 1, kVocab, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer.token_bytes(id, true), "") << id;
    EXPECT_FALSE(tokenizer.is_special(id)) << id;
  }
}

TEST(Tokenizer, AMissingByteIsAnErrorNotALoss) {
  ScratchModel model("tokenizer_qwen2");
  model.edit("tokenizer.json", [](json& t) { t["model"]["vocab"].erase("÷"); });  // spells byte 0xf7
  const Tokenizer tokenizer(model.directory(), kVocab);
  EXPECT_EQ(decode(tokenizer, tokenizer.encode("plain text 12", false, true)), "plain text 12");
  std::string message;
  EXPECT_EQ(status_of([&] { tokenizer.encode("x\xf7y", false, true); }, &message), SKV_E_INVALID);
  EXPECT_NE(message.find("0xf7"), std::string::npos) << message;
}

struct BadTokenizer {
  skv_status status;
  const char* named;
  std::function<void(json&)> change;
};

TEST(Tokenizer, RefusesWhatItWouldGetWrong) {
  const json far = 1 << 30, negative = -1, fraction = 1.5, text = "1", beyond = 18446744073709551615u;
  const auto vocab_id = [](const json& id) { return [id](json& t) { t["model"]["vocab"]["!"] = id; }; };
  const auto merge = [](const json& m) { return [m](json& t) { t["model"]["merges"][3] = m; }; };
  const BadTokenizer cases[] = {
      {SKV_E_DATA, "'!'", vocab_id(far)},
      {SKV_E_DATA, "'!'", vocab_id(kVocab)},
      {SKV_E_DATA, "'!'", vocab_id(negative)},
      {SKV_E_DATA, "'!'", vocab_id(beyond)},
      {SKV_E_DATA, "'!'", vocab_id(fraction)},
      {SKV_E_DATA, "'!'", vocab_id(text)},
      {SKV_E_DATA, "two tokens", vocab_id(5)},
      {SKV_E_DATA, "merge 3", merge("ab")},
      {SKV_E_DATA, "merge 3", merge("a b c")},
      {SKV_E_DATA, "merge 3", merge("zq zq")},
      {SKV_E_DATA, "merge 3", merge(json{"a", 1})},
      {SKV_E_DATA, "merge 3", merge(json{"a", "b", "c"})},
      {SKV_E_DATA, "merge 3", merge(json{nullptr, "b"})},
      {SKV_E_MODEL, "merges", [](json& t) { t["model"].erase("merges"); }},
      {SKV_E_MODEL, "vocab", [](json& t) { t["model"]["vocab"] = json::array(); }},
      {SKV_E_MODEL, "model", [](json& t) { t.erase("model"); }},
      {SKV_E_MODEL, "WordPiece", [](json& t) { t["model"]["type"] = "WordPiece"; }},
      {SKV_E_MODEL, "byte_fallback", [](json& t) { t["model"]["byte_fallback"] = true; }},
      {SKV_E_MODEL, "continuing_subword_prefix", [](json& t) { t["model"]["continuing_subword_prefix"] = "##"; }},
      {SKV_E_MODEL, "dropout", [](json& t) { t["model"]["dropout"] = 0.1; }},
      {SKV_E_MODEL, "pre_tokenizer", [](json& t) { t["pre_tokenizer"] = nullptr; }},
      {SKV_E_MODEL, "Metaspace", [](json& t) { t["pre_tokenizer"] = {{"type", "Metaspace"}}; }},
      {SKV_E_MODEL, "byte-level", [](json& t) { t["pre_tokenizer"] = {{"type", "Digits"}}; }},
      {SKV_E_MODEL, "(a+)+$", [](json& t) { t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$"; }},
      {SKV_E_MODEL, "behavior", [](json& t) { t["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }},
      {SKV_E_MODEL, "add_prefix_space",
       [](json& t) { t["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; }},
      {SKV_E_MODEL, "Lowercase", [](json& t) { t["normalizer"] = {{"type", "Lowercase"}}; }},
      {SKV_E_MODEL, "Metaspace", [](json& t) { t["decoder"] = {{"type", "Metaspace"}}; }},
      {SKV_E_MODEL, "RobertaProcessing", [](json& t) { t["post_processor"] = {{"type", "RobertaProcessing"}}; }},
      {SKV_E_DATA, "<|end|>",
       [](json& t) { t["post_processor"]["special_tokens"]["<|end|>"]["ids"] = {kVocab}; }},
      {SKV_E_MODEL, "special_tokens", [](json& t) { t["post_processor"].erase("special_tokens"); }},
      {SKV_E_DATA, "<|end|>", [](json& t) { t["added_tokens"][1]["id"] = kVocab; }},
      {SKV_E_MODEL, "id", [](json& t) { t["added_tokens"][1]["id"] = -1; }},
      {SKV_E_MODEL, "content", [](json& t) { t["added_tokens"][1]["content"] = 1; }},
      {SKV_E_MODEL, "single_word", [](json& t) { t["added_tokens"][1]["single_word"] = true; }},
      {SKV_E_MODEL, "bytes", [](json& t) { t["added_tokens"][1]["content"] = std::string(5000, 'x'); }},
      {SKV_E_MODEL, "an object", [](json& t) { t["added_tokens"][1] = 4; }},
  };
  for (const BadTokenizer& bad : cases) {
    ScratchModel model("tokenizer_qwen2");
    model.edit("tokenizer.json", bad.change);
    std::string message;
    EXPECT_EQ(status_of([&] { Tokenizer t(model.directory(), kVocab); }, &message), bad.status)
        << bad.named << ": " << message;
    EXPECT_NE(message.find(bad.named), std::string::npos) << message;
  }
}

TEST(Tokenizer, DamagedFilesAreDataErrors) {
  ScratchModel model("tokenizer_qwen2");
  const std::string good = model.read("tokenizer.json");
  const std::string bad[] = {"", "{", good.substr(0, good.size() - 10), std::string(1 << 20, '['),
                             "{\"a\": \"\xff\"}"};
  for (const std::string& text : bad) {
    model.write("tokenizer.json", text);
    EXPECT_EQ(status_of([&] { Tokenizer t(model.directory(), kVocab); }), SKV_E_DATA) << text.substr(0, 40);
  }
  model.write("tokenizer.json", "[]");
  EXPECT_EQ(status_of([&] { Tokenizer t(model.directory(), kVocab); }), SKV_E_MODEL);
  model.remove("tokenizer.json");
  EXPECT_EQ(status_of([&] { Tokenizer t(model.directory(), kVocab); }), SKV_E_IO);
}

}  // namespace
}  // namespace skv::model
