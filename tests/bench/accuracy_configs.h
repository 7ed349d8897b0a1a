// The configurations that accuracy_bench compares.
#pragma once

#include <string>
#include <vector>

#include "shadowkv/kv.h"

namespace skv::bench {

struct AccuracyConfig {
  std::string name;
  skv_kv_params params;
  std::string base;  // a configuration with the same selection whose output this one's is compared with; "" = none
};

// What a sequence of `tokens` selects: the budget's share, whatever the minimum. Every configuration gets the same.
std::vector<AccuracyConfig> accuracy_configs(int64_t tokens, double budget);

}  // namespace skv::bench
