// The shell's text handling: whole characters, stop texts, sizes, budgets, right answers.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "examples/shell/cache_options.h"
#include "examples/shell/cache_words.h"
#include "examples/shell/run_report.h"
#include "examples/shell/shell_options.h"
#include "examples/shell/text_stream.h"

namespace shell {
namespace {

struct Shown {
  std::vector<std::string> pieces;
  TextStream::Sink sink() {
    return [this](std::string_view piece) { pieces.emplace_back(piece); };
  }
  std::string all() const {
    std::string text;
    for (const std::string& piece : pieces) text += piece;
    return text;
  }
};

bool well_formed(const std::string& text) {
  std::string bytes = text, characters;
  take_characters(&bytes, &characters);
  return bytes.empty() && characters == text;
}

const std::string kText = "a\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80 \xED\x95\x9C z";  // 1 to 4 bytes a character

TEST(TextStream, EveryCutOfATextShowsWholeCharactersOnly) {
  for (std::size_t i = 0; i <= kText.size(); ++i) {
    for (std::size_t j = i; j <= kText.size(); ++j) {
      Shown shown;
      TextStream stream({}, shown.sink());
      EXPECT_TRUE(stream.push(kText.substr(0, i)));
      EXPECT_TRUE(stream.push(kText.substr(i, j - i)));
      EXPECT_TRUE(stream.push(kText.substr(j)));
      stream.finish();
      EXPECT_EQ(shown.all(), kText);
      EXPECT_EQ(stream.text(), kText);
      for (const std::string& piece : shown.pieces) EXPECT_TRUE(well_formed(piece)) << i << " " << j;
    }
  }
}

TEST(TextStream, WholeCharactersAreNotHeldBack) {
  Shown shown;
  TextStream stream({"never met"}, shown.sink());
  stream.push("ab\xE2\x82");
  EXPECT_EQ(shown.all(), "ab");
  stream.push("\xAC");
  EXPECT_EQ(shown.all(), "ab\xE2\x82\xAC");
}

TEST(TextStream, IllFormedBytesBecomeReplacementCharacters) {
  const std::string mark = "\xEF\xBF\xBD";
  const std::pair<std::string, std::string> cases[] = {
      {"a\xFFz", "a" + mark + "z"},
      {"\x80", mark},
      {"\xC0\xAF", mark + mark},                        // overlong
      {"\xED\xA0\x80", mark + mark + mark},             // surrogate
      {"\xF4\x90\x80\x80", mark + mark + mark + mark},  // beyond U+10FFFF
      {"\xE2\x82", mark},                               // unfinished
      {"\xE2\x28\xA1", mark + "(" + mark},
  };
  for (const auto& [bytes, expected] : cases) {
    Shown shown;
    TextStream stream({}, shown.sink());
    for (const char byte : bytes) stream.push(std::string_view(&byte, 1));
    stream.finish();
    EXPECT_EQ(shown.all(), expected);
  }
}

TEST(TextStream, StopsBeforeAStopTextHoweverItIsCut) {
  const std::string text = "answer Question: next";
  for (std::size_t i = 0; i <= text.size(); ++i) {
    Shown shown;
    TextStream stream({"\n", "Question:", ""}, shown.sink());
    const bool first = stream.push(text.substr(0, i));
    EXPECT_FALSE(stream.push(text.substr(i)));
    stream.finish();
    EXPECT_EQ(shown.all(), "answer ");
    EXPECT_EQ(first, i < 16) << i;
  }
}

TEST(TextStream, WhatOnlyBeginsLikeAStopTextIsShown) {
  Shown shown;
  TextStream stream({"Question:"}, shown.sink());
  EXPECT_TRUE(stream.push("a Quest"));
  EXPECT_EQ(shown.all(), "a ");
  EXPECT_TRUE(stream.push("ing Q"));
  EXPECT_EQ(shown.all(), "a Questing ");
  stream.finish();
  EXPECT_EQ(shown.all(), "a Questing Q");
}

TEST(Options, SizesInBytes) {
  const std::pair<const char*, uint64_t> good[] = {
      {"0", 0}, {"512", 512}, {"1K", 1024}, {"1.5M", 3 << 19}, {"2G", uint64_t{2} << 30}, {"1T", uint64_t{1} << 40}};
  for (const auto& [text, bytes] : good) {
    uint64_t value = 1;
    EXPECT_TRUE(parse_bytes(text, &value)) << text;
    EXPECT_EQ(value, bytes) << text;
  }
  for (const char* text : {"", "K", "1KK", "1 K", "-1", "1e300", "nan", "inf", "9999999999T", "0x10"}) {
    uint64_t value = 0;
    EXPECT_FALSE(parse_bytes(text, &value)) << text;
  }
}

TEST(Options, BudgetsInTokensOrShares) {
  CacheSettings tokens, share;
  EXPECT_TRUE(parse_budget("512", &tokens));
  EXPECT_EQ(tokens.budget_tokens, 512);
  EXPECT_FALSE(tokens.budget_fraction);
  EXPECT_TRUE(parse_budget("1.5625%", &share));
  EXPECT_DOUBLE_EQ(share.budget_fraction.value(), 0.015625);
  EXPECT_FALSE(share.budget_tokens);
  for (const char* text : {"", "%", "0", "-5", "1.5", "100.1%", "x", "5%%", "nan"}) {
    CacheSettings settings;
    EXPECT_FALSE(parse_budget(text, &settings)) << text;
  }
}

TEST(Options, ListsOfLayers) {
  std::vector<int32_t> layers = {7};
  EXPECT_TRUE(parse_layers("none", &layers));
  EXPECT_TRUE(layers.empty());
  EXPECT_TRUE(parse_layers("0,12,3", &layers));
  EXPECT_EQ(layers, (std::vector<int32_t>{0, 12, 3}));
  for (const char* text : {"", ",", "0,", ",0", "0,,1", "-1", "0, 1", "none,0", "1x", "2147483648"}) {
    EXPECT_FALSE(parse_layers(text, &layers)) << text;
  }
}

TEST(Cache, OnlyWhatIsGivenChangesAPreset) {
  for (const Word& policy : kPolicies) {
    CacheSettings settings;
    settings.policy = policy.value;
    skv_kv_params preset{}, params = kv_params(settings);
    ASSERT_EQ(skv_kv_params_preset(&preset, sizeof preset, policy.value), SKV_OK);
    EXPECT_EQ(describe(params), describe(preset));
    EXPECT_EQ(params.budget_tokens, preset.budget_tokens);
    EXPECT_EQ(params.budget_fraction, preset.budget_fraction);
    EXPECT_EQ(params.budget_min_tokens, preset.budget_min_tokens);
    EXPECT_EQ(params.flush_tokens, preset.flush_tokens);
    EXPECT_EQ(params.rank, preset.rank);
    EXPECT_EQ(params.dtype, preset.dtype);
  }
}

TEST(Cache, ABudgetReplacesAPresetsOwn) {
  CacheSettings settings;
  settings.policy = SKV_POLICY_QUEST;
  settings.chunk = 32;
  settings.budget_fraction = 0.25;
  const skv_kv_params share = kv_params(settings);
  EXPECT_EQ(share.budget_tokens, SKV_AUTO);
  EXPECT_EQ(share.budget_fraction, 0.25);
  EXPECT_EQ(share.budget_min_tokens, 32);
  EXPECT_EQ(share.chunk_tokens, 32);
  EXPECT_GE(share.flush_tokens, 32);
  settings.budget_fraction.reset();
  settings.budget_tokens = 512;
  EXPECT_EQ(kv_params(settings).budget_tokens, 512);
}

TEST(Cache, EveryWordHasItsValue) {
  for (const Words words : {Words(kPolicies), Words(kKeyStores), Words(kCodecs), Words(kDigestCodecs),
                            Words(kDigests), Words(kUnselected)}) {
    for (const Word& word : words) {
      EXPECT_EQ(value_of(words, word.name), word.value);
      EXPECT_STREQ(name_of(words, word.value), word.name);
    }
    EXPECT_FALSE(value_of(words, ""));
    EXPECT_FALSE(value_of(words, "magic"));
    EXPECT_STREQ(name_of(words, 99), "unknown");
  }
  EXPECT_EQ(list_of(kCodecs), "raw, int8 or int4");
}

TEST(Report, AnAnswerIsRightIfItIsTheWholeWord) {
  EXPECT_TRUE(is_right(" 48213", "48213"));
  EXPECT_TRUE(is_right("\n 48213. Question", "48213"));
  EXPECT_FALSE(is_right(" 482130", "48213"));
  EXPECT_FALSE(is_right(" 4821", "48213"));
  EXPECT_FALSE(is_right(" x 48213", "48213"));
  EXPECT_FALSE(is_right("", "48213"));
  EXPECT_FALSE(is_right("48213", ""));
}

}  // namespace
}  // namespace shell
