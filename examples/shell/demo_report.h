// The demo's end: a table for people and one JSON line for programs, from the --json outputs of several runs.
#pragma once

#include <string>
#include <vector>

namespace shell {

struct DemoRun {
  std::string name;
  std::string file;  // what --json printed
};

// Beside the runs in the JSON line, so no run can be named so.
inline constexpr const char* kReportKeys[] = {"tokens", "asked", "budget", "rank"};

// A row for each run, in their order; all must be about the same text and questions. Ratios are to the run named
// "full"; budget and rank are those of the run named "shadowkv", or of the first.
int print_demo_report(const std::vector<DemoRun>& runs);

}  // namespace shell
