// The demo's end: a table for people and one JSON line for programs, from the --json outputs of three runs.
#pragma once

#include <string>
#include <vector>

namespace shell {

// files: policy full, low-rank keys, exact keys.
int print_demo_report(const std::vector<std::string>& files);

}  // namespace shell
