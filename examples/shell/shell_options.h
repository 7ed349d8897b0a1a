// The command line.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "examples/shell/batch_mode.h"
#include "examples/shell/demo_report.h"
#include "examples/shell/demo_text.h"
#include "examples/shell/shell_settings.h"

namespace shell {

enum class Mode { batch, interactive, demo_text, demo_report };

struct Options {
  Mode mode = Mode::interactive;
  Settings settings;
  BatchJob job;
  DemoText demo_text;
  std::vector<DemoRun> runs;  // of demo-report
};

// Exit status if there is nothing left to do (help, version: 0; wrong arguments: 2, told on stderr).
std::optional<int> parse_options(int argc, char** argv, Options* options);

// "512", "1.5G" (K, M, G, T of 1024). False if it is no size.
bool parse_bytes(const std::string& text, uint64_t* bytes);

}  // namespace shell
