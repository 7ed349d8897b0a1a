// Questions with expected answers, and the JSON of a run.
#pragma once

#include <string>
#include <vector>

#include "examples/shell/document_session.h"

namespace shell {

struct Question {
  std::string ask;
  std::string expect;  // "" = not known
};

struct AskedQuestion {
  Question question;
  Answer answer;
  bool right = false;
};

// One question a line: plain text, or {"ask": "...", "expect": "..."}. Empty lines are skipped.
std::vector<Question> read_questions(const std::string& path);

// Does the answer begin with what was expected, spaces aside, and end there or go on with another word?
bool is_right(const std::string& answer, const std::string& expect);

// One line.
std::string run_json(const DocumentSession& session, const std::vector<AskedQuestion>& asked);

}  // namespace shell
