// Questions from the command line, answered one after another over one document.
#pragma once

#include <string>
#include <vector>

#include "examples/shell/shell_settings.h"

namespace shell {

struct BatchJob {
  std::string prompt_file;  // "" = no document
  std::vector<std::string> asks;
  std::string ask_file;  // "" = none; see read_questions()
  bool json = false;     // one line of figures and answers instead of text
  bool progress = false;
};

// Exit status: 0, or 130 after Ctrl-C.
int run_batch(const Settings& settings, const BatchJob& job);

}  // namespace shell
