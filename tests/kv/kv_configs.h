// Every configuration that must have the properties of the KV manager (conventions.md 10), small enough for tests.
#pragma once

#include <string>
#include <vector>

#include "shadowkv/kv.h"

namespace skv::test {

struct KvConfig {
  std::string name;
  skv_kv_params params;
};

// A row of choices each: key stores, codecs, digests, estimated remainder, accuracy guard, budgets per head, policies.
std::vector<KvConfig> kv_configs(skv_dtype dtype);

}  // namespace skv::test
