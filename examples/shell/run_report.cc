#include "examples/shell/run_report.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <sstream>

#include "examples/shell/measurement.h"

namespace shell {

namespace {

using Json = nlohmann::ordered_json;

Question parse_question(const std::string& line, const std::string& where) {
  if (line[0] != '{') return {line, ""};
  const Json json = Json::parse(line, nullptr, false);
  const bool ok = json.is_object() && json.contains("ask") && json["ask"].is_string() &&
                  (!json.contains("expect") || json["expect"].is_string());
  if (!ok) throw Failure(SKV_E_DATA, where + R"(: not {"ask": "...", "expect": "..."})");
  return {json["ask"].get<std::string>(), json.value("expect", "")};
}

Json question_json(const AskedQuestion& asked) {
  Json json{{"ask", asked.question.ask}, {"answer", asked.answer.text}};
  if (!asked.question.expect.empty()) {
    json["expect"] = asked.question.expect;
    json["right"] = asked.right;
  }
  json["question_tokens"] = asked.answer.question_tokens;
  json["new_tokens"] = asked.answer.new_tokens;
  json["question_s"] = asked.answer.question_s;
  json["decode_s"] = asked.answer.decode_s;
  return json;
}

const char* keys_name(const Settings& settings) {
  if (settings.policy == SKV_POLICY_FULL) return "exact";
  return settings.keys == SKV_KEYS_EXACT ? "exact" : "lowrank";
}

}  // namespace

std::vector<Question> read_questions(const std::string& path) {
  std::istringstream lines(read_text_file(path));
  std::vector<Question> questions;
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    questions.push_back(parse_question(line, path + ":" + std::to_string(number)));
  }
  if (questions.empty()) throw Failure(SKV_E_DATA, path + ": no questions");
  return questions;
}

bool is_right(const std::string& answer, const std::string& expect) {
  const std::size_t first = answer.find_first_not_of(" \t\n");
  if (expect.empty() || first == std::string::npos || answer.compare(first, expect.size(), expect) != 0) return false;
  const std::size_t end = first + expect.size();
  return end == answer.size() || !std::isalnum(static_cast<unsigned char>(answer[end]));
}

std::string run_json(const DocumentSession& session, const std::vector<AskedQuestion>& asked) {
  const Measurement m = measure(session);
  const Settings& settings = session.settings();
  Json json{{"model", settings.model}, {"policy", policy_name(settings.policy)}, {"keys", keys_name(settings)}};
  json["tokens"] = m.tokens;
  json["document_tokens"] = session.document_tokens();
  json["asked"] = asked.size();
  json["right"] = std::count_if(asked.begin(), asked.end(), [](const AskedQuestion& a) { return a.right; });
  json["budget"] = m.budget;
  json["rank"] = m.rank;
  json["prefill_s"] = m.prefill_s;
  json["decode_tok_s"] = m.decode_tok_s;
  json["kv_bytes_fast"] = m.kv_bytes_fast;
  json["kv_bytes_slow"] = m.kv_bytes_slow;
  json["kv_bytes_total"] = m.kv_bytes_total();
  json["kv_bytes_read_per_token"] = m.kv_bytes_read_per_token;
  json["attended_tokens_mean"] = m.attended_tokens_mean;
  json["hit_rate"] = m.hit_rate;
  json["key_energy"] = m.key_energy;
  json["rss_bytes"] = m.rss_bytes;
  json["peak_rss_bytes"] = m.peak_rss_bytes;
  json["questions"] = Json::array();
  for (const AskedQuestion& a : asked) json["questions"].push_back(question_json(a));
  // Questions and file names come from the user and may not be UTF-8; JSON must be.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shell
