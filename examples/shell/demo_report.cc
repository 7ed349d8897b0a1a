#include "examples/shell/demo_report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "examples/shell/shell_api.h"

namespace shell {

namespace {

using Json = nlohmann::ordered_json;

constexpr double kMiB = 1024.0 * 1024.0;

constexpr const char* kFigures[] = {"right",
                                    "prefill_s",
                                    "decode_tok_s",
                                    "kv_bytes_fast",
                                    "kv_bytes_slow",
                                    "kv_bytes_total",
                                    "kv_bytes_read_per_token",
                                    "attended_tokens_mean",
                                    "rss_bytes",
                                    "hit_rate"};

// A column of the table: a figure in some unit, or its share of full attention's.
struct Column {
  const char* title;
  const char* unit;
  const char* figure;
  double divisor;
  int digits;
  bool to_full;
};
constexpr Column kColumns[] = {{"right", "answers", "right", 1, 0, false},
                               {"prefill", "s", "prefill_s", 1, 2, false},
                               {"decode", "tokens/s", "decode_tok_s", 1, 1, false},
                               {"KV fast", "MiB", "kv_bytes_fast", kMiB, 2, false},
                               {"KV slow", "MiB", "kv_bytes_slow", kMiB, 2, false},
                               {"KV total", "of full", "kv_bytes_total", 1, 3, true},
                               {"KV read", "MiB/token", "kv_bytes_read_per_token", kMiB, 3, false},
                               {"KV read", "of full", "kv_bytes_read_per_token", 1, 3, true},
                               {"attended", "tokens", "attended_tokens_mean", 1, 0, false},
                               {"slot hits", "share", "hit_rate", 1, 3, false}};

struct Run {
  std::string name;
  Json figures;
};

bool is_run(const Json& json) {
  const auto is_number = [&](const char* key) { return json.contains(key) && json[key].is_number(); };
  if (!json.is_object()) return false;
  return std::all_of(std::begin(kFigures), std::end(kFigures), is_number) &&
         std::all_of(std::begin(kReportKeys), std::end(kReportKeys), is_number);
}

Run read_run(const DemoRun& run) {
  Json json = Json::parse(read_text_file(run.file), nullptr, false);
  if (!is_run(json)) throw Failure(SKV_E_DATA, run.file + ": not the output of a --json run");
  return {run.name, std::move(json)};
}

void check_alike(const Run& first, const Run& other) {
  for (const char* key : {"tokens", "asked"}) {
    if (first.figures[key] == other.figures[key]) continue;
    throw Failure(SKV_E_DATA, other.name + " has " + other.figures[key].dump() + " " + key + ", " + first.name + " " +
                                  first.figures[key].dump() + ": not runs of one text");
  }
}

const Run* find(const std::vector<Run>& runs, const char* name) {
  const auto found = std::find_if(runs.begin(), runs.end(), [&](const Run& run) { return run.name == name; });
  return found == runs.end() ? nullptr : &*found;
}

void print_cell(const Column& column, const Run& run, const Run* full) {
  const double value = run.figures[column.figure].get<double>();
  const double divisor = !column.to_full ? column.divisor : full ? full->figures[column.figure].get<double>() : 0;
  if (divisor > 0) {
    std::printf(" %9.*f", column.digits, value / divisor);
  } else {
    std::printf(" %9s", "-");
  }
}

void print_table(const std::vector<Run>& runs) {
  int width = 0;
  for (const Run& run : runs) width = std::max(width, static_cast<int>(run.name.size()));
  std::printf("%-*s", width, "");
  for (const Column& column : kColumns) std::printf(" %9s", column.title);
  std::printf("\n%-*s", width, "");
  for (const Column& column : kColumns) std::printf(" %9s", column.unit);
  std::printf("\n");
  const Run* full = find(runs, "full");
  for (const Run& run : runs) {
    std::printf("%-*s", width, run.name.c_str());
    for (const Column& column : kColumns) print_cell(column, run, full);
    std::printf("\n");
  }
}

Json report_json(const std::vector<Run>& runs) {
  const Run* sparse = find(runs, "shadowkv");
  const Json& numbers = (sparse ? *sparse : runs.front()).figures;
  Json demo;
  for (const char* key : kReportKeys) demo[key] = numbers[key];
  for (const Run& run : runs) {
    for (const char* figure : kFigures) demo[run.name][figure] = run.figures[figure];
  }
  return Json{{"demo", demo}};
}

}  // namespace

int print_demo_report(const std::vector<DemoRun>& files) {
  std::vector<Run> runs;
  for (const DemoRun& file : files) runs.push_back(read_run(file));
  for (const Run& run : runs) check_alike(runs.front(), run);
  std::printf("%lld questions about one text of %lld tokens\n", runs[0].figures["asked"].get<long long>(),
              runs[0].figures["tokens"].get<long long>());
  print_table(runs);
  // Names come from the user and may not be UTF-8; JSON must be.
  std::printf("%s\n", report_json(runs).dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  return 0;
}

}  // namespace shell
