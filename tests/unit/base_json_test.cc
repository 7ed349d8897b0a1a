// Promises of lib/base/json.h on text from strangers: bounded, one kind of exception, named places and keys.
#include "lib/base/json.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include <gtest/gtest.h>

#include "lib/base/status.h"

namespace skv {
namespace {

using nlohmann::json;

json parse(const std::string& text) { return parse_json(text, "config.json", 16, 1 << 20); }

// "code message" of the Error, or "" if nothing is thrown; any other exception ends the test.
template <class Fn>
std::string failure(Fn&& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return std::to_string(error.code()) + " " + error.what();
  }
  return "";
}

std::string refusal(const std::string& text) {
  return failure([&] { parse(text); });
}

void expect_refused_at(const std::string& text, std::size_t offset) {
  EXPECT_EQ(refusal(text).rfind("-301 config.json: byte " + std::to_string(offset) + ": ", 0), 0u)
      << text.substr(0, 40) << " gave " << refusal(text);
}

TEST(ParseJson, BuildsWhatNlohmannBuilds) {
  const char* text = R"( {"a": [1, -2, 3.5, true, null, "x\u00e9\n"], "b": {"c": {}, "d": []},
                          "e": 18446744073709551615} )";
  EXPECT_EQ(parse(text), json::parse(text));
  EXPECT_EQ(parse("7"), json(7));
  EXPECT_EQ(parse("[[[]], {\"k\": [0]}]"), json::parse("[[[]], {\"k\": [0]}]"));
  EXPECT_TRUE(parse("[1]")[0].is_number_unsigned());
}

TEST(ParseJson, OfARepeatedKeyTheLastValueWins) {
  EXPECT_EQ(parse(R"({"a": 1, "b": 2, "a": {"x": [3]}})"), json::parse(R"({"a": {"x": [3]}, "b": 2})"));
  EXPECT_EQ(parse(R"({"a": {"x": 1}, "a": {"y": 2}})"), json::parse(R"({"a": {"y": 2}})"));
  EXPECT_EQ(parse(R"({"a": [1, 2], "a": [3]})"), json::parse(R"({"a": [3]})"));
}

TEST(ParseJson, DepthIsBoundedBeforeAnythingIsBuilt) {
  const auto nested = [](int depth) {
    return std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']');
  };
  EXPECT_EQ(refusal(nested(16)), "");
  expect_refused_at(nested(17), 16);
  expect_refused_at(std::string(1000000, '['), 16);
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  expect_refused_at(objects, 16 * 5);
  EXPECT_EQ(failure([] { parse_json("[]", "x", 0, 100); }).rfind("-301 x: byte 0: ", 0), 0u);
  EXPECT_EQ(failure([] { parse_json("7", "x", 0, 100); }), "");
}

TEST(ParseJson, BracketsInsideStringsAreNotDepth) {
  const std::string many(100, '[');
  EXPECT_EQ(parse("[\"" + many + "\"]")[0], many);
  EXPECT_EQ(parse("[\"\\\"" + many + "\\\\\"]")[0], "\"" + many + "\\");
  expect_refused_at("[\"\\\\\", " + many, 7 + 15);  // the string ends before the brackets
}

TEST(ParseJson, LengthIsBounded) {
  EXPECT_EQ(failure([] { parse_json("[1]", "x", 4, 3); }), "");
  EXPECT_EQ(failure([] { parse_json("[1] ", "x", 4, 3); }), "-301 x: byte 3: 4 bytes of JSON, 3 are allowed");
}

TEST(ParseJson, SyntaxErrorsNameTheByte) {
  expect_refused_at("", 0);
  expect_refused_at("{\"a\": 1,}", 8);
  expect_refused_at("[1, 2", 5);
  expect_refused_at("[1] x", 4);
  expect_refused_at("[NaN]", 1);
  expect_refused_at("[-Infinity]", 2);
  expect_refused_at("[1 2]", 3);
  expect_refused_at(std::string("[\0]", 3), 1);
  expect_refused_at("[\"a\nb\"]", 3);
}

TEST(ParseJson, NumbersOutsideDoubleAreRefusedWithTheirPlace) {
  EXPECT_NE(refusal("[1, 1e999]"), "");
  expect_refused_at("[1, 1e999]", 8);
  EXPECT_NE(refusal("[-1" + std::string(400, '0') + "]"), "");
  EXPECT_EQ(parse("[1" + std::string(30, '0') + "]")[0].get<double>(), 1e30);
  EXPECT_EQ(parse("[1e-999]")[0].get<double>(), 0.0);
}

TEST(ParseJson, InvalidUtf8IsRefused) {
  expect_refused_at("[\"\xff\"]", 2);
  EXPECT_NE(refusal("[\"\xc0\xaf\"]"), "");          // overlong
  EXPECT_NE(refusal("[\"\xed\xa0\x80\"]"), "");      // surrogate
  EXPECT_NE(refusal("[\"\xf4\x90\x80\x80\"]"), "");  // past U+10FFFF
  EXPECT_NE(refusal("[\"\xe2\x82"), "");             // cut
  EXPECT_NE(refusal("[\"\\ud800\"]"), "");           // lone surrogate escape
  EXPECT_EQ(refusal("[\"\xe2\x82\xac\"]"), "");
}

TEST(ParseJson, MessagesAreShortPrintableLines) {
  const std::string text = refusal("[\"" + std::string(100000, 'y') + "\x01\xff");
  EXPECT_LT(text.size(), 200u);
  for (const char c : refusal("[\"\xff\n\x7f\"]")) EXPECT_TRUE(c >= ' ' && c <= '~');
}

TEST(ParseJson, DamagedTextGivesAValueOrAnErrorNeverAnythingElse) {
  const std::string good = R"({"a": [1, -2.5e3, true, null, "x\u00e9\n\"["], "b": {"c": {}, "d": [[], [{}]]}})";
  std::mt19937 random(12345);
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = good;
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      const unsigned kind = random() % 3;
      if (kind == 0) text[at] = static_cast<char>(random() % 256);
      if (kind == 1) text.erase(at, 1 + random() % 4);
      if (kind == 2) text.insert(at, 1, "[]{}\",:\\0e-"[random() % 11]);
      if (text.empty()) text.push_back(' ');
    }
    const std::string message = refusal(text);
    if (message.empty()) {
      ASSERT_EQ(parse(text), json::parse(text)) << text;
    } else {
      ASSERT_EQ(message.rfind("-301 config.json: byte ", 0), 0u) << message;
      ASSERT_FALSE(json::accept(text)) << text;
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(JsonGet, IntegersInRange) {
  const json o = parse(R"({"n": 32, "neg": -4, "f": 4096.0, "half": 1.5, "big": 18446744073709551615, "huge": 1e300,
                           "s": "32", "z": null, "b": true})");
  EXPECT_EQ(get_int(o, "n", 1, 32), 32);
  EXPECT_EQ(get_int(o, "neg", -4, 0), -4);
  EXPECT_EQ(get_int(o, "f", 0, 5000), 4096);
  EXPECT_EQ(failure([&] { get_int(o, "n", 1, 31); }), "-302 n is 32; 1 to 31 are allowed");
  EXPECT_EQ(failure([&] { get_int(o, "neg", 0, 9); }), "-302 neg is -4; 0 to 9 are allowed");
  EXPECT_EQ(failure([&] { get_int(o, "half", 0, 9); }), "-302 half is 1.5; an integer is needed");
  EXPECT_EQ(failure([&] { get_int(o, "s", 0, 99); }), "-302 s is \"32\"; an integer is needed");
  EXPECT_EQ(failure([&] { get_int(o, "b", 0, 9); }), "-302 b is true; an integer is needed");
  EXPECT_EQ(failure([&] { get_int(o, "z", 0, 9); }), "-302 z is missing; an integer is needed");
  EXPECT_EQ(failure([&] { get_int(o, "q", 0, 9); }), "-302 q is missing; an integer is needed");
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(failure([&] { get_int(o, "big", -kMax - 1, kMax); }).rfind("-302 big is 18446744073709551615; ", 0), 0u);
  EXPECT_EQ(failure([&] { get_int(o, "huge", -kMax - 1, kMax); }).rfind("-302 huge is 1e+300; ", 0), 0u);
  EXPECT_EQ(get_int_or(o, "q", 0, 9, 77), 77);
  EXPECT_EQ(get_int_or(o, "z", 0, 9, 77), 77);
  EXPECT_EQ(get_int_or(o, "n", 0, 99, 77), 32);
  EXPECT_EQ(failure([&] { get_int_or(o, "n", 0, 9, 7); }), "-302 n is 32; 0 to 9 are allowed");
}

TEST(JsonGet, NumbersAreFinite) {
  json o = parse(R"({"theta": 500000, "eps": 1e-05, "s": "x"})");
  o["nan"] = std::nan("");
  o["inf"] = std::numeric_limits<double>::infinity();
  constexpr double kInf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(get_number(o, "theta", 1, 1e12), 500000.0);
  EXPECT_EQ(get_number(o, "eps", 0, 1), 1e-05);
  EXPECT_EQ(failure([&] { get_number(o, "eps", 1e-4, 1); }), "-302 eps is 1e-05; 0.0001 to 1 are allowed");
  EXPECT_EQ(failure([&] { get_number(o, "nan", -kInf, kInf); }), "-302 nan is not finite; -inf to inf are allowed");
  EXPECT_EQ(failure([&] { get_number(o, "inf", -kInf, kInf); }), "-302 inf is not finite; -inf to inf are allowed");
  EXPECT_EQ(failure([&] { get_number(o, "s", 0, 1); }), "-302 s is \"x\"; a number is needed");
  EXPECT_NE(failure([&] { get_int(o, "nan", 0, 1); }), "");
  EXPECT_NE(failure([&] { get_int(o, "inf", 0, 1); }), "");
  EXPECT_EQ(get_number_or(o, "q", 0, 1, 0.5), 0.5);
  EXPECT_NE(failure([&] { get_number_or(o, "inf", 0, 1, 0.5); }), "");
}

TEST(JsonGet, OtherTypes) {
  const json o = parse(R"({"b": false, "s": "llama", "o": {"k": 1}, "a": [1], "z": null})");
  EXPECT_FALSE(get_bool(o, "b"));
  EXPECT_TRUE(get_bool_or(o, "z", true));
  EXPECT_EQ(get_string(o, "s"), "llama");
  EXPECT_EQ(get_string_or(o, "q", "d"), "d");
  EXPECT_EQ(&get_object(o, "o"), &o.at("o"));
  EXPECT_EQ(&get_array(o, "a"), &o.at("a"));
  EXPECT_EQ(find_member(o, "z"), nullptr);
  EXPECT_EQ(find_member(o, "s"), &o.at("s"));
  EXPECT_EQ(failure([&] { get_bool(o, "s"); }), "-302 s is \"llama\"; true or false is needed");
  EXPECT_EQ(failure([&] { get_string(o, "a"); }), "-302 a is an array; a string is needed");
  EXPECT_EQ(failure([&] { get_object(o, "a"); }), "-302 a is an array; an object is needed");
  EXPECT_EQ(failure([&] { get_array(o, "z"); }), "-302 z is missing; an array is needed");
  EXPECT_EQ(failure([&] { get_int(o.at("a"), "k", 0, 1); }), "-302 k is looked for in an array; an object is needed");
  EXPECT_EQ(failure([&] { get_bool_or(json(3), "k", true); }), "-302 k is looked for in 3; an object is needed");
}

TEST(JsonGet, LongAndBrokenStringsMakeShortMessages) {
  json o = json::object();
  o["s"] = std::string(10000, 'y');
  o["u"] = "\xff\n";
  EXPECT_LT(failure([&] { get_int(o, "s", 0, 1); }).size(), 120u);
  EXPECT_EQ(failure([&] { get_int(o, "u", 0, 1); }), "-302 u is \"\\ufffd\\n\"; an integer is needed");
}

}  // namespace
}  // namespace skv
