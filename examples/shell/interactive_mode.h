// Commands and questions typed at a prompt (or piped in), over one document at a time.
#pragma once

#include <string>

#include "examples/shell/shell_settings.h"

namespace shell {

// prompt_file: read first, "" = none. Exit status.
int run_interactive(const Settings& settings, const std::string& prompt_file, bool progress);

}  // namespace shell
