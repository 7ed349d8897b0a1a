#include "examples/shell/demo_report.h"

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "examples/shell/shell_api.h"

namespace shell {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<const char*, 9> kFigures = {"right",
                                                 "prefill_s",
                                                 "decode_tok_s",
                                                 "kv_bytes_fast",
                                                 "kv_bytes_slow",
                                                 "kv_bytes_total",
                                                 "kv_bytes_read_per_token",
                                                 "attended_tokens_mean",
                                                 "rss_bytes"};

struct Column {
  const char* key;
  const char* title;
};
constexpr std::array<Column, 3> kColumns = {
    {{"full", "full attention"}, {"shadowkv", "shadowkv"}, {"shadowkv_exact_keys", "shadowkv, exact keys"}}};

Json read_run(const std::string& file) {
  Json run = Json::parse(read_text_file(file), nullptr, false);
  bool ok = run.is_object() && run.contains("asked") && run.contains("tokens");
  for (const char* figure : kFigures) ok = ok && run.contains(figure) && run[figure].is_number();
  if (!ok) throw Failure(SKV_E_DATA, file + ": not the output of a --json run");
  return run;
}

void print_row(const char* name, const std::array<Json, 3>& runs, const char* figure, double unit, int digits) {
  std::printf("%-34s", name);
  for (const Json& run : runs) std::printf(" %20.*f", digits, run[figure].get<double>() / unit);
  std::printf("\n");
}

void print_table(const std::array<Json, 3>& runs) {
  constexpr double kMiB = 1024.0 * 1024.0;
  std::printf("%-34s", "");
  for (const Column& column : kColumns) std::printf(" %20s", column.title);
  std::printf("\n");
  print_row("right answers", runs, "right", 1, 0);
  print_row("reading the text, s", runs, "prefill_s", 1, 2);
  print_row("decode, tokens/s", runs, "decode_tok_s", 1, 1);
  print_row("KV, fast tier, MiB", runs, "kv_bytes_fast", kMiB, 2);
  print_row("KV, slow tier, MiB", runs, "kv_bytes_slow", kMiB, 2);
  print_row("KV, total, MiB", runs, "kv_bytes_total", kMiB, 2);
  print_row("KV read per token, MiB", runs, "kv_bytes_read_per_token", kMiB, 3);
  print_row("tokens attended to, mean", runs, "attended_tokens_mean", 1, 0);
  print_row("resident memory, MiB", runs, "rss_bytes", kMiB, 1);
}

}  // namespace

int print_demo_report(const std::vector<std::string>& files) {
  std::array<Json, 3> runs;
  for (std::size_t i = 0; i < runs.size(); ++i) runs[i] = read_run(files[i]);
  std::printf("%lld questions about one text of %lld tokens\n", runs[0]["asked"].get<long long>(),
              runs[0]["tokens"].get<long long>());
  print_table(runs);
  Json demo{{"tokens", runs[0]["tokens"]},
            {"asked", runs[0]["asked"]},
            {"budget", runs[1]["budget"]},
            {"rank", runs[1]["rank"]}};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    for (const char* figure : kFigures) demo[kColumns[i].key][figure] = runs[i][figure];
  }
  std::printf("%s\n", Json{{"demo", demo}}.dump().c_str());
  return 0;
}

}  // namespace shell
