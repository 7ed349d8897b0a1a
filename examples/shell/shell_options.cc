#include "examples/shell/shell_options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <set>

#include "examples/shell/cache_options.h"
#include "examples/shell/parse_number.h"

namespace shell {

namespace {

constexpr int kUsageExit = 2;

std::string check_bytes(const std::string& text) {
  uint64_t bytes = 0;
  return parse_bytes(text, &bytes) ? "" : "not a size: " + text + " (for example 800M or 2.5G)";
}

std::string check_run(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) return "not NAME=FILE: " + text;
  const std::string name = text.substr(0, equals);
  for (const char* taken : kReportKeys) {
    if (name == taken) return "the report has its own " + name + ": " + text;
  }
  return "";
}

// What the parser fills in as text or flags, and becomes settings afterwards.
struct Raw {
  std::string memory_limit;
  std::vector<std::string> stops;
  std::vector<std::string> runs;
  bool progress = false;
};

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
  app.add_option("--memory-limit", raw->memory_limit, "bytes, with K, M, G or T: hard limit of all but the weights")
      ->check(check_bytes);
  app.add_option("--device", options->settings.device, "0 = the CPU; GPUs follow")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--threads", options->settings.threads, "CPU threads; 0 = all")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
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

void add_demo_report(CLI::App& app, Raw* raw) {
  CLI::App* sub = app.add_subcommand("demo-report", "a table and one JSON line from --json runs of the demo");
  sub->add_option("runs", raw->runs, "NAME=FILE, a row each; ratios are to the run named full")
      ->required()
      ->check(check_run);
}

bool read_runs(const Raw& raw, Options* options) {
  std::set<std::string> names;
  for (const std::string& text : raw.runs) {
    const std::size_t equals = text.find('=');
    options->runs.push_back({text.substr(0, equals), text.substr(equals + 1)});
    if (!names.insert(options->runs.back().name).second) {
      std::cerr << "runs: two are named " << options->runs.back().name << '\n';
      return false;
    }
  }
  return true;
}

bool finish(const Raw& raw, Options* options) {
  Settings& s = options->settings;
  if (!raw.memory_limit.empty()) parse_bytes(raw.memory_limit, &s.memory_limit);
  s.stops = raw.stops;
  if (!read_runs(raw, options)) return false;
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

std::optional<int> parse_options(int argc, char** argv, Options* options) {
  CLI::App app{"Questions about long texts, answered by a language model in bounded memory"};
  app.set_version_flag("--version", std::string("shadowkv ") + skv_version_string());
  skv_sampler_params_init(&options->settings.sampler, sizeof options->settings.sampler);
  Raw raw;
  raw.progress = isatty(STDERR_FILENO) != 0;
  add_run_options(app, options, &raw);
  add_cache_options(app, &options->settings.cache);
  add_sampling_options(app, options, &raw);
  add_demo_text(app, options);
  add_demo_report(app, &raw);
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
