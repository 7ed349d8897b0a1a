#include "examples/shell/shell_options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <map>

#include "examples/shell/shell_api.h"

namespace shell {

namespace {

constexpr int kUsageExit = 2;

// All of text as a number that is finite and not negative.
bool parse_number(std::string_view text, double* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && std::isfinite(*value) && *value >= 0;
}

std::string check_bytes(const std::string& text) {
  uint64_t bytes = 0;
  return parse_bytes(text, &bytes) ? "" : "not a size: " + text + " (for example 800M or 2.5G)";
}

std::string check_budget(const std::string& text) {
  Settings settings;
  return parse_budget(text, &settings) ? "" : "not a budget: " + text + " (for example 512 or 1.56%)";
}

// What the parser fills in as text or flags, and becomes settings afterwards.
struct Raw {
  std::string policy = "shadowkv";
  std::string memory_limit;
  std::string budget;
  std::vector<std::string> stops;
  bool progress = false;
};

void add_cache_options(CLI::App& app, Options* options, Raw* raw) {
  Settings& s = options->settings;
  app.add_option("--policy", raw->policy, "full, published or shadowkv")
      ->check(CLI::IsMember({"full", "published", "shadowkv"}))
      ->capture_default_str();
  app.add_option("--budget", raw->budget, "tokens attended per step: a number, or a share of the context as 1.56%")
      ->check(check_budget);
  app.add_option("--rank", s.rank, "rank of the low-rank keys; default 160 for each 1,024 of key width")
      ->check(CLI::Range(1, 65536));
  app.add_option("--chunk", s.chunk, "tokens per chunk: 4, 8, 16 or 32")
      ->check(CLI::IsMember({4, 8, 16, 32}))
      ->capture_default_str();
  app.add_option("--keys", s.keys, "lowrank or exact")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, int32_t>{{"lowrank", SKV_KEYS_LOWRANK}, {"exact", SKV_KEYS_EXACT}}))
      ->default_str("lowrank");
  app.add_option("--dtype", s.dtype, "of keys and values: bf16 or f32")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, int32_t>{{"bf16", SKV_DTYPE_BF16}, {"f32", SKV_DTYPE_F32}}))
      ->default_str("bf16");
  app.add_option("--memory-limit", raw->memory_limit, "bytes, with K, M, G or T: hard limit of all but the weights")
      ->check(check_bytes);
  app.add_option("--threads", s.threads, "CPU threads; 0 = all")->check(CLI::Range(0, 1024))->capture_default_str();
}

void add_sampling_options(CLI::App& app, Options* options, Raw* raw) {
  Settings& s = options->settings;
  app.add_option("--max-new", s.max_new, "longest answer in tokens")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--temperature", s.sampler.temperature, "0 = greedy")->check(CLI::NonNegativeNumber);
  app.add_option("--top-k", s.sampler.top_k, "0 = all")->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", s.sampler.top_p, "(0, 1]")->check(CLI::Range(0.0, 1.0));
  app.add_option("--min-p", s.sampler.min_p, "[0, 1]")->check(CLI::Range(0.0, 1.0));
  app.add_option("--seed", s.sampler.seed, "of sampling")->check(CLI::NonNegativeNumber);
  app.add_option("--stop", raw->stops, "an answer ends before this text (repeatable)")->allow_extra_args(false);
  app.add_flag("--raw", s.raw, "no chat format, even if the model has one");
  app.add_option("--template", s.question_template, R"(text around a question {}, without a chat format)");
}

void add_run_options(CLI::App& app, Options* options, Raw* raw) {
  app.add_option("--model", options->settings.model, "model directory (Hugging Face format)");
  app.add_option("--prompt-file", options->job.prompt_file, "the text that questions are about");
  app.add_option("--ask", options->job.asks, "a question (repeatable)")->allow_extra_args(false);
  app.add_option("--ask-file", options->job.ask_file,
                 R"(questions: a line each, or {"ask": "...", "expect": "..."})");
  app.add_option("--tokens", options->settings.max_document_tokens, "cut the text after so many tokens")
      ->check(CLI::Range(1, 1 << 30));
  app.add_flag("--json", options->job.json, "print answers and figures as one JSON line");
  app.add_flag("--progress,!--no-progress", raw->progress, "bar on stderr while reading; default on a terminal");
}

void add_demo_text(CLI::App& app, Options* options) {
  DemoText& d = options->demo_text;
  CLI::App* sub = app.add_subcommand("demo-text", "write a long text with facts in it, and questions about them");
  sub->add_option("--model", d.model, "model directory; its language.json makes the text")->required();
  sub->add_option("--tokens", d.tokens, "tokens of text and question together")->check(CLI::Range(256, 1 << 24));
  sub->add_option("--questions", d.questions, "how many")->check(CLI::Range(1, 1000))->capture_default_str();
  sub->add_option("--facts", d.facts, "how many; 0 = one for each 256 tokens, within 64..200")
      ->check(CLI::Range(0, 2000));
  sub->add_option("--seed", d.seed, "same seed, same text")->capture_default_str();
  sub->add_option("--text", d.text_file, "file to write the text to")->required();
  sub->add_option("--ask-file", d.ask_file, "file to write the questions to")->required();
}

bool finish(const Raw& raw, Options* options) {
  Settings& s = options->settings;
  parse_policy(raw.policy, &s.policy);
  if (!raw.memory_limit.empty()) parse_bytes(raw.memory_limit, &s.memory_limit);
  if (!raw.budget.empty()) parse_budget(raw.budget, &s);
  s.stops = raw.stops;
  if (!s.question_template.empty() && s.question_template.find("{}") == std::string::npos) {
    std::cerr << "--template: no {} for the question\n";
    return false;
  }
  const bool asks = !options->job.asks.empty() || !options->job.ask_file.empty();
  if (options->mode != Mode::interactive) return true;
  if (asks) options->mode = Mode::batch;
  if (asks && s.model.empty()) {
    std::cerr << "--model is required\nRun with --help for more information.\n";
    return false;
  }
  if (!asks && options->job.json) {
    std::cerr << "--json needs --ask or --ask-file\nRun with --help for more information.\n";
    return false;
  }
  return true;
}

}  // namespace

bool parse_bytes(const std::string& text, uint64_t* bytes) {
  constexpr std::string_view kUnits = "KMGT";
  std::string_view number = text;
  double unit = 1;
  if (!number.empty()) {
    const std::size_t power = kUnits.find(number.back());
    if (power != std::string_view::npos) {
      unit = std::pow(1024.0, static_cast<double>(power + 1));
      number.remove_suffix(1);
    }
  }
  double value = 0;
  if (!parse_number(number, &value) || value * unit >= 0x1p63) return false;
  *bytes = static_cast<uint64_t>(value * unit);
  return true;
}

bool parse_budget(const std::string& text, Settings* settings) {
  const bool percent = !text.empty() && text.back() == '%';
  double value = 0;
  if (!parse_number(std::string_view(text).substr(0, text.size() - (percent ? 1 : 0)), &value)) return false;
  if (percent) {
    settings->budget_fraction = value / 100;
    return value <= 100;
  }
  if (value < 1 || value > 1 << 30 || value != std::floor(value)) return false;
  settings->budget_tokens = static_cast<int32_t>(value);
  return true;
}

std::optional<int> parse_options(int argc, char** argv, Options* options) {
  CLI::App app{"Questions about long texts, answered by a language model in bounded memory"};
  app.set_version_flag("--version", std::string("shadowkv ") + skv_version_string());
  skv_sampler_params_init(&options->settings.sampler, sizeof options->settings.sampler);
  Raw raw;
  raw.progress = isatty(STDERR_FILENO) != 0;
  add_run_options(app, options, &raw);
  add_cache_options(app, options, &raw);
  add_sampling_options(app, options, &raw);
  add_demo_text(app, options);
  CLI::App* report = app.add_subcommand("demo-report", "a table and one JSON line from --json runs of the demo");
  report->add_option("files", options->reports, "outputs of full, low-rank keys and exact keys")
      ->required()
      ->expected(3);
  app.require_subcommand(0, 1);
  app.footer("Without --ask or --ask-file it reads commands and questions from the terminal.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsageExit;
  }
  if (app.got_subcommand("demo-text")) options->mode = Mode::demo_text;
  if (app.got_subcommand("demo-report")) options->mode = Mode::demo_report;
  if (!finish(raw, options)) return kUsageExit;
  options->job.progress = raw.progress;
  return std::nullopt;
}

}  // namespace shell
