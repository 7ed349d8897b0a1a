// The command line's options of how keys and values are kept.
#pragma once

#include <string>
#include <vector>

#include "examples/shell/cache_settings.h"

namespace CLI {
class App;
}

namespace shell {

void add_cache_options(CLI::App& app, CacheSettings* settings);

// "512" tokens or "1.56%" of the context. False if it is neither.
bool parse_budget(const std::string& text, CacheSettings* settings);

// "0,1" or "none". False if it is neither.
bool parse_layers(const std::string& text, std::vector<int32_t>* layers);

}  // namespace shell
