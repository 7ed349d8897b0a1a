#include "examples/shell/interactive_mode.h"

#include <cinttypes>
#include <cstdio>
#include <iostream>
#include <memory>

#include "examples/shell/cache_words.h"
#include "examples/shell/document_session.h"
#include "examples/shell/interrupts.h"
#include "examples/shell/line_editor.h"
#include "examples/shell/measurement.h"

namespace shell {

namespace {

constexpr const char* kHelp =
    "load DIR      open a model directory\n"
    "read FILE     read a text; questions are about it\n"
    "ask TEXT      ask; so does a line that is no command\n"
    "policy NAME   full, published, shadowkv, quest or streaming; reads the text again\n"
    "policy        what is in force\n"
    "stats         what selection and attention did so far\n"
    "memory        bytes by tier and purpose\n"
    "help, quit\n"
    "Ctrl-C stops an answer or a text being read; Ctrl-D quits.\n";

constexpr const char* kPurposes[] = {"weights",     "exact kv",  "landmarks", "low-rank keys", "basis",
                                     "chunk table", "outliers",  "slots",     "values",        "keys",
                                     "hidden",      "workspace", "logits",    "tokens",        "other"};
static_assert(std::size(kPurposes) == SKV_PURPOSE_COUNT);

class Interactive {
 public:
  Interactive(const Settings& settings, std::string prompt_file, bool progress)
      : settings_(settings), file_(std::move(prompt_file)), progress_(progress) {}

  int run();

 private:
  void start();
  bool execute(const std::string& line);
  void load(const std::string& directory);
  void read(const std::string& file);
  void ask(const std::string& question);
  void set_policy(const std::string& name);
  void reread(skv_policy policy);
  void print_policy() const;
  void print_stats() const;
  void print_memory() const;
  DocumentSession& session() const;

  Settings settings_;
  std::string file_;
  std::string text_;
  bool progress_;
  std::unique_ptr<DocumentSession> session_;
};

DocumentSession& Interactive::session() const {
  if (!session_) throw Failure(SKV_E_STATE, "no model: load DIR first");
  return *session_;
}

void Interactive::load(const std::string& directory) {
  Settings next = settings_;
  next.model = directory;
  auto opened = std::make_unique<DocumentSession>(next);
  session_.reset();  // the old model's memory goes before the text is read again
  session_ = std::move(opened);
  settings_ = next;
  const skv_model_info& info = session_->info();
  std::printf("%s, %d layers, %d query and %d KV heads of %d, up to %" PRId64 " tokens%s%s\n", info.architecture,
              info.n_layers, info.n_q_heads, info.n_kv_heads, info.head_dim, info.max_positions,
              info.chat_format[0] ? ", chat format " : "", info.chat_format);
  if (!text_.empty()) read(file_);
}

void Interactive::read(const std::string& file) {
  std::string text = read_text_file(file);
  if (!session().read(text, progress_)) {
    std::puts("interrupted: no text is read");
    return;
  }
  file_ = file;
  text_ = std::move(text);
  std::printf("%" PRId64 " tokens in %.2f s\n", session().document_tokens(), session().prefill_s());
}

void Interactive::ask(const std::string& question) {
  DocumentSession& target = session();
  if (!target.has_document() && !target.read(text_, progress_)) return;
  const Answer answer = target.ask(question, [](std::string_view text) { std::cout << text << std::flush; });
  std::cout << (answer.interrupted ? " [interrupted]\n" : "\n") << std::flush;
}

void Interactive::set_policy(const std::string& name) {
  const auto policy = value_of(kPolicies, name);
  if (!policy) throw Failure(SKV_E_INVALID, "policy is " + list_of(kPolicies));
  if (session_) reread(*policy);
  settings_.cache.policy = *policy;
  print_policy();
}

// A policy that the library refuses, with the options given, leaves the one in force.
void Interactive::reread(skv_policy policy) {
  session_->set_policy(policy);
  try {
    if (!session_->read(text_, progress_)) std::puts("interrupted: no text is read");
  } catch (...) {
    session_->set_policy(settings_.cache.policy);
    throw;
  }
}

void Interactive::print_policy() const {
  const bool in_use = session_ && session_->has_document();
  std::printf("%s\n", describe(in_use ? session_->kv() : kv_params(settings_.cache)).c_str());
}

void Interactive::print_stats() const {
  if (!session().has_document()) throw Failure(SKV_E_STATE, "nothing was read or asked yet");
  const skv_kv_stats stats = session().stats();
  const skv_session_usage usage = session().usage();
  const Measurement m = measure(session());
  const skv_kv_params& kv = session().kv();
  std::printf("%s\n", describe(kv).c_str());
  std::printf("%" PRId64 " tokens: %" PRId64 " compressed, %" PRId64 " exact, %" PRId64 " dropped; %d segments\n",
              stats.n_tokens, stats.n_compressed, stats.n_exact, stats.n_dropped, stats.n_segments);
  std::printf("budget %d tokens, rank %d, key energy %.4f, outlier chunks %" PRId64 "\n", m.budget, m.rank,
              m.key_energy, stats.n_outlier_chunks);
  std::printf("asked %" PRId64 ", decoded %" PRId64
              " tokens at %.1f/s; attended %.0f tokens, read %.0f bytes a token; "
              "slot hits %.0f %%\n",
              session().totals().asked, session().totals().decode_rows, m.decode_tok_s, m.attended_tokens_mean,
              m.kv_bytes_read_per_token, 100 * m.hit_rate);
  if (is_guarded(kv)) {
    std::printf("accuracy guard: estimated missed mass %.4f, mean of %" PRId64 " calls; %" PRId64 " at the cap\n",
                stats.missed_mass, stats.guard_calls, stats.guard_capped);
  }
  const auto ms = [](int64_t ns) { return static_cast<double>(ns) * 1e-6; };
  std::printf(
      "ms: prefill %.0f forward, %.0f attention, %.0f compression; decode %.0f forward, %.0f selection, %.0f "
      "fetch, %.0f attention; %.0f logits\n",
      ms(usage.prefill_forward_ns), ms(usage.prefill_attention_ns), ms(usage.compress_ns),
      ms(usage.decode_forward_ns), ms(usage.decode_select_ns), ms(usage.decode_fetch_ns),
      ms(usage.decode_attention_ns), ms(usage.logits_ns));
}

void Interactive::print_memory() const {
  if (!session().has_document()) throw Failure(SKV_E_STATE, "nothing was read or asked yet");
  const skv_session_usage usage = session().usage();
  std::printf("%-14s %14s %14s %14s\n", "bytes", "fast", "slow", "host");
  int64_t sums[SKV_TIER_COUNT] = {};
  for (int purpose = 0; purpose < SKV_PURPOSE_COUNT; ++purpose) {
    int64_t row[SKV_TIER_COUNT];
    for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) sums[tier] += row[tier] = usage.used.bytes[tier][purpose];
    if (row[0] + row[1] + row[2] == 0) continue;
    std::printf("%-14s %14" PRId64 " %14" PRId64 " %14" PRId64 "\n", kPurposes[purpose], row[0], row[1], row[2]);
  }
  std::printf("%-14s %14" PRId64 " %14" PRId64 " %14" PRId64 "\n", "used", sums[0], sums[1], sums[2]);
  std::printf("%-14s %14" PRId64 " %14" PRId64 " %14" PRId64 "\n", "peak", usage.peak_bytes[0], usage.peak_bytes[1],
              usage.peak_bytes[2]);
}

// False to quit.
bool Interactive::execute(const std::string& line) {
  const std::size_t first = line.find_first_not_of(" \t");
  if (first == std::string::npos) return true;
  const std::size_t last = line.find_last_not_of(" \t");
  const std::string all = line.substr(first, last - first + 1);
  const std::size_t space = all.find_first_of(" \t");
  const std::string word = all.substr(0, space);
  const std::string rest = space == std::string::npos ? "" : all.substr(all.find_first_not_of(" \t", space));
  if (all == "quit" || all == "exit") return false;
  if (all == "help") {
    std::fputs(kHelp, stdout);
  } else if (all == "stats") {
    print_stats();
  } else if (all == "memory") {
    print_memory();
  } else if (all == "policy") {
    print_policy();
  } else if (word == "load" && !rest.empty()) {
    load(rest);
  } else if (word == "read" && !rest.empty()) {
    read(rest);
  } else if (word == "policy" && !rest.empty()) {
    set_policy(rest);
  } else {
    ask(word == "ask" && !rest.empty() ? rest : all);
  }
  return true;
}

// What the command line named; a failure there ends the program.
void Interactive::start() {
  if (settings_.model.empty()) return;
  load(settings_.model);
  if (!file_.empty()) read(file_);
}

int Interactive::run() {
  LineEditor editor;
  start();
  if (editor.is_terminal()) std::puts("help lists the commands; anything else is a question.");
  std::string line;
  for (;;) {
    std::fflush(stdout);
    const LineResult result = editor.read(&line);
    if (result == LineResult::end) return 0;
    if (result == LineResult::interrupted) continue;
    try {
      if (!execute(line)) return 0;
    } catch (const Failure& failure) {
      std::fflush(stdout);
      std::fprintf(stderr, "shadowkv: %s\n", failure.what());
    }
  }
}

}  // namespace

int run_interactive(const Settings& settings, const std::string& prompt_file, bool progress) {
  return Interactive(settings, prompt_file, progress).run();
}

}  // namespace shell
