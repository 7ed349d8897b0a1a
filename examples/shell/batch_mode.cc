#include "examples/shell/batch_mode.h"

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "examples/shell/interrupts.h"
#include "examples/shell/measurement.h"
#include "examples/shell/run_report.h"

namespace shell {

namespace {

constexpr int kInterruptedExit = 130;

std::vector<Question> collect(const BatchJob& job) {
  std::vector<Question> questions;
  for (const std::string& ask : job.asks) questions.push_back({ask, ""});
  if (!job.ask_file.empty()) {
    for (Question& q : read_questions(job.ask_file)) questions.push_back(std::move(q));
  }
  return questions;
}

AskedQuestion ask(DocumentSession& session, const Question& question, bool json) {
  AskedQuestion asked;
  asked.question = question;
  if (!json) std::cout << "> " << question.ask << '\n' << std::flush;
  asked.answer = session.ask(question.ask, [&](std::string_view text) {
    if (!json) std::cout << text << std::flush;
  });
  asked.right = is_right(asked.answer.text, question.expect);
  if (!json) {
    if (!question.expect.empty()) std::cout << (asked.right ? "  [right]" : "  [expected " + question.expect + "]");
    std::cout << '\n' << std::flush;
  }
  return asked;
}

void print_summary(const DocumentSession& session, const std::vector<AskedQuestion>& asked) {
  const Measurement m = measure(session);
  std::string right;
  if (std::any_of(asked.begin(), asked.end(), [](const AskedQuestion& a) { return !a.question.expect.empty(); })) {
    const auto n = std::count_if(asked.begin(), asked.end(), [](const AskedQuestion& a) { return a.right; });
    right = " (" + std::to_string(n) + " right)";
  }
  std::fprintf(stderr,
               "%zu asked%s; document %lld tokens, read in %.2f s; %.1f tokens/s; attended %.0f tokens a step\n",
               asked.size(), right.c_str(), static_cast<long long>(session.document_tokens()), m.prefill_s,
               m.decode_tok_s, m.attended_tokens_mean);
}

}  // namespace

int run_batch(const Settings& settings, const BatchJob& job) {
  const std::vector<Question> questions = collect(job);
  const std::string text = job.prompt_file.empty() ? "" : read_text_file(job.prompt_file);
  DocumentSession session(settings);
  if (!session.read(text, job.progress)) return kInterruptedExit;
  std::vector<AskedQuestion> asked;
  for (const Question& question : questions) {
    asked.push_back(ask(session, question, job.json));
    if (asked.back().answer.interrupted || interrupted()) return kInterruptedExit;
  }
  if (job.json) {
    std::cout << run_json(session, asked) << '\n' << std::flush;
  } else {
    print_summary(session, asked);
  }
  return 0;
}

}  // namespace shell
