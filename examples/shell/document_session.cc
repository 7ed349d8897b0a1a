#include "examples/shell/document_session.h"

#include <algorithm>
#include <chrono>

#include "examples/shell/interrupts.h"
#include "examples/shell/memory_plan.h"
#include "examples/shell/progress_bar.h"
#include "examples/shell/text_stream.h"

namespace shell {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// For a question and its answer.
int64_t room(const Settings& settings) { return settings.max_new + 256; }

// What is cut off after an answer must not have pushed anything out of the window for good.
void keep_for_cut_back(const Settings& settings, skv_kv_params* kv) {
  constexpr int64_t kMostKept = 1 << 16;
  if (kv->policy != SKV_POLICY_STREAMING) return;
  kv->flush_tokens = std::max(kv->flush_tokens, static_cast<int32_t>(std::min(room(settings), kMostKept)));
}

// Ctrl-C between two calls of the library must stop the next one too.
int32_t on_progress(void* user, int64_t done, int64_t total) {
  static_cast<ProgressBar*>(user)->update(done, total);
  return interrupted() ? 1 : 0;
}

}  // namespace

DocumentSession::DocumentSession(const Settings& settings)
    : settings_(settings),
      runtime_(create_runtime(settings.threads)),
      model_(open_model(runtime_.get(), settings.model, false)),
      info_(model_info(model_.get())) {
  if (!settings_.use_chat(info_)) {
    if (settings_.question_template.empty()) settings_.question_template = "\nQuestion: {} Answer:";
    // Models without a chat format go on to ask themselves the next question.
    if (settings_.stops.empty()) settings_.stops = {"\n", "Question:"};
  }
  prompts_.emplace(model_.get(), settings_);
}

void DocumentSession::open_session(int64_t tokens) {
  skv_kv_params kv = kv_params(settings_.cache);
  keep_for_cut_back(settings_, &kv);
  skv_session_params params;
  skv_session_params_init(&params, sizeof params);
  params.device = settings_.device;
  params.max_sequences = 1;
  params.kv = &kv;
  const int64_t longest = std::min(tokens + room(settings_), info_.max_positions);
  limit_memory(model_.get(), settings_.memory_limit, longest, &params);
  const int32_t rank = rank_in_force(model_.get(), params);
  skv_session* session = nullptr;
  check([&](skv_error* err) { return skv_session_create(model_.get(), &params, &session, err); });
  session_.reset(session);
  kv_ = kv;
  rank_ = rank;
  totals_ = {};
  check([&](skv_error* err) { return skv_sequence_open(session, SKV_AUTO, &sequence_, err); });
}

bool DocumentSession::read(std::string_view text, bool show_progress) {
  const Tokens tokens = prompts_->document(text);
  open_session(static_cast<int64_t>(tokens.size()));
  document_tokens_ = static_cast<int64_t>(tokens.size());
  const auto start = std::chrono::steady_clock::now();
  bool done = false;
  try {
    done = prefill(tokens, show_progress);
  } catch (...) {
    session_.reset();
    throw;
  }
  if (!done) {
    session_.reset();
    return false;
  }
  prefill_s_ = seconds_since(start);
  stats_at_start_ = stats();
  usage_at_start_ = usage();
  return true;
}

bool DocumentSession::prefill(const Tokens& tokens, bool show_progress) {
  const InterruptScope scope(session_.get());
  check([&](skv_error* err) {
    return skv_sequence_append(session_.get(), sequence_, tokens.data(), static_cast<int64_t>(tokens.size()), err);
  });
  ProgressBar bar(show_progress, static_cast<int64_t>(tokens.size()));
  skv_error error = SKV_ERROR_INIT;
  const skv_status status = skv_session_prefill(session_.get(), on_progress, &bar, &error);
  if (status == SKV_OK) return true;
  if (status != SKV_E_INTERRUPTED) throw Failure(status, error.message);
  check([&](skv_error* err) { return skv_sequence_cancel(session_.get(), sequence_, err); });
  return false;
}

void DocumentSession::cut_back() {
  skv_error error = SKV_ERROR_INIT;
  const skv_status status = skv_sequence_truncate(session_.get(), sequence_, document_tokens_, &error);
  if (status == SKV_OK) return;
  session_.reset();  // what is left is not the document
  throw Failure(status, error.message);
}

Answer DocumentSession::ask(const std::string& question, const std::function<void(std::string_view)>& sink) {
  Tokens tokens = prompts_->question(question);
  Answer answer;
  answer.question_tokens = static_cast<int64_t>(tokens.size());
  // The last token is decoded, so that the policy's decode attention makes every generated token.
  const int32_t last = tokens.back();
  tokens.pop_back();
  // Also restarts the random counter: an answer does not depend on the questions before it.
  check([&](skv_error* err) { return skv_sequence_set_sampler(session_.get(), sequence_, &settings_.sampler, err); });
  const auto start = std::chrono::steady_clock::now();
  answer.interrupted = !prefill(tokens, false);
  answer.question_s = seconds_since(start);
  try {
    if (!answer.interrupted) generate(last, sink, &answer);
  } catch (...) {
    cut_back();
    throw;
  }
  cut_back();
  totals_.asked += 1;
  totals_.decode_rows += answer.decode_rows;
  totals_.decode_s += answer.decode_s;
  totals_.longest_question = std::max(totals_.longest_question, answer.question_tokens);
  return answer;
}

void DocumentSession::generate(int32_t token, const std::function<void(std::string_view)>& sink, Answer* answer) {
  const InterruptScope scope(session_.get());
  TextStream stream(settings_.stops, sink);
  while (answer->new_tokens < settings_.max_new) {
    const auto start = std::chrono::steady_clock::now();
    answer->interrupted = interrupted() || !decode(token, &token);
    if (answer->interrupted) break;
    answer->decode_s += seconds_since(start);
    answer->decode_rows += 1;
    if (is_end(token)) break;
    answer->new_tokens += 1;
    if (!stream.push(piece(token))) break;
  }
  stream.finish();
  answer->text = stream.text();
}

bool DocumentSession::decode(int32_t token, int32_t* next) {
  skv_error row_error = SKV_ERROR_INIT;
  skv_row row{};
  row.seq = sequence_;
  row.tokens = &token;
  row.n_tokens = 1;
  row.sample = 1;
  row.err = &row_error;
  skv_error error = SKV_ERROR_INIT;
  const skv_status status = skv_session_step(session_.get(), &row, 1, sizeof row, nullptr, nullptr, &error);
  if (status == SKV_E_INTERRUPTED) return false;
  if (status != SKV_OK) throw Failure(status, error.message);
  if (row.status != SKV_OK) throw Failure(row.status, row_error.message);
  *next = row.sampled_token;
  return true;
}

bool DocumentSession::is_end(int32_t token) const {
  return std::find(info_.end_tokens, info_.end_tokens + info_.n_end_tokens, token) !=
         info_.end_tokens + info_.n_end_tokens;
}

std::string DocumentSession::piece(int32_t token) const {
  int64_t n = 0;
  std::string bytes(64, '\0');
  const auto detokenize = [&](skv_error* err) {
    return skv_model_detokenize(model_.get(), &token, 1, 0, bytes.data(), static_cast<int64_t>(bytes.size()), &n,
                                err);
  };
  if (detokenize(nullptr) == SKV_E_SPACE) bytes.resize(static_cast<std::size_t>(n));
  check(detokenize);
  bytes.resize(static_cast<std::size_t>(n));
  return bytes;
}

skv_kv_stats DocumentSession::stats() const {
  skv_kv_stats stats{};
  stats.struct_size = sizeof stats;
  check([&](skv_error* err) { return skv_sequence_stats(session_.get(), sequence_, &stats, err); });
  return stats;
}

skv_session_usage DocumentSession::usage() const {
  skv_session_usage usage{};
  usage.struct_size = sizeof usage;
  check([&](skv_error* err) { return skv_session_get_usage(session_.get(), &usage, err); });
  return usage;
}

}  // namespace shell
