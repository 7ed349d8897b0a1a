// One document, read once, and questions that share it: after each answer the sequence is cut back to the document.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "examples/shell/prompt_builder.h"
#include "examples/shell/shell_api.h"
#include "examples/shell/shell_settings.h"

namespace shell {

struct Answer {
  std::string text;
  int64_t question_tokens = 0;
  int64_t new_tokens = 0;
  int64_t decode_rows = 0;  // the question's last token and all generated ones but the last
  double question_s = 0;    // prefill of the question
  double decode_s = 0;
  bool interrupted = false;
};

// Totals over the questions so far.
struct Totals {
  int64_t asked = 0;
  int64_t decode_rows = 0;
  double decode_s = 0;
  int64_t longest_question = 0;
};

class DocumentSession {
 public:
  // Opens the model. The settings are read again by each read().
  explicit DocumentSession(const Settings& settings);

  const skv_model_info& info() const { return info_; }
  const Settings& settings() const { return settings_; }
  // Takes effect with the next read().
  void set_policy(skv_policy policy) { settings_.cache.policy = policy; }

  // Makes a session and prefills the text. False if it was interrupted: there is no document then. Settings that the
  // library refuses leave what was read before.
  bool read(std::string_view text, bool show_progress);
  bool has_document() const { return session_ != nullptr; }

  // Needs a document. Generated text goes to sink as it comes.
  Answer ask(const std::string& question, const std::function<void(std::string_view)>& sink);

  int64_t document_tokens() const { return document_tokens_; }
  double prefill_s() const { return prefill_s_; }
  const Totals& totals() const { return totals_; }
  int32_t rank() const { return rank_; }  // in force; 0 if keys are not factored
  const skv_kv_params& kv() const { return kv_; }
  skv_kv_stats stats() const;
  skv_session_usage usage() const;
  // As they were when the document was just read.
  const skv_kv_stats& stats_at_start() const { return stats_at_start_; }
  const skv_session_usage& usage_at_start() const { return usage_at_start_; }

 private:
  void open_session(int64_t tokens);
  bool prefill(const Tokens& tokens, bool show_progress);
  void generate(int32_t token, const std::function<void(std::string_view)>& sink, Answer* answer);
  bool decode(int32_t token, int32_t* next);
  bool is_end(int32_t token) const;
  std::string piece(int32_t token) const;
  void cut_back();

  Settings settings_;
  Runtime runtime_;
  Model model_;
  skv_model_info info_{};
  std::optional<PromptBuilder> prompts_;
  Session session_;
  skv_seq sequence_ = 0;
  int64_t document_tokens_ = 0;
  double prefill_s_ = 0;
  int32_t rank_ = 0;
  skv_kv_params kv_{};
  Totals totals_;
  skv_kv_stats stats_at_start_{};
  skv_session_usage usage_at_start_{};
};

}  // namespace shell
