#include "examples/shell/run_report.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <sstream>

#include "examples/shell/cache_words.h"
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

// What has no effect under a policy is left out.
void put_cache(const skv_kv_params& kv, Json* json) {
  Json& j = *json;
  j["policy"] = name_of(kPolicies, kv.policy);
  j["keys"] = is_lowrank(kv) ? "lowrank" : "exact";
  j["key_codec"] = name_of(kCodecs, key_codec(kv));
  j["value_codec"] = name_of(kCodecs, value_codec(kv));
  j["dtype"] = name_of(kDtypes, kv.dtype);
  if (kv.policy == SKV_POLICY_STREAMING) j["sinks"] = kv.sink_tokens;
  if (kv.policy != SKV_POLICY_FULL) j["window"] = kv.window_tokens;
  if (!selects(kv)) return;
  j["digest"] = name_of(kDigests, kv.digest);
  j["digest_codec"] = name_of(kDigestCodecs, kv.digest_codec);
  j["unselected"] = name_of(kUnselected, kv.unselected);
  j["chunk"] = kv.chunk_tokens;
  j["dense_layers"] = std::vector<int32_t>(kv.dense_layers, kv.dense_layers + kv.n_dense_layers);
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
  const skv_kv_params& kv = session.kv();
  Json json{{"model", session.settings().model}};
  put_cache(kv, &json);
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
  if (kv.policy == SKV_POLICY_STREAMING) json["dropped_tokens"] = m.dropped_tokens;
  if (is_guarded(kv)) {
    json["max_missed_mass"] = kv.max_missed_mass;
    json["missed_mass"] = m.missed_mass;
    json["guard_capped"] = m.guard_capped;
  }
  json["rss_bytes"] = m.rss_bytes;
  json["peak_rss_bytes"] = m.peak_rss_bytes;
  json["questions"] = Json::array();
  for (const AskedQuestion& a : asked) json["questions"].push_back(question_json(a));
  // Questions and file names come from the user and may not be UTF-8; JSON must be.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shell
