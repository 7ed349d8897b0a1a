#include "examples/shell/cache_words.h"

#include <algorithm>
#include <cstdio>

namespace shell {

namespace {

// As few digits as a setting was given with.
std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

std::string coded(const char* what, skv_codec codec) {
  return std::string(what) + (codec == SKV_CODEC_RAW ? "" : std::string(" ") + name_of(kCodecs, codec));
}

std::string describe_layers(const skv_kv_params& kv) {
  std::string text;
  for (int32_t i = 0; i < kv.n_dense_layers; ++i) {
    text += i == 0 ? ", dense layers " : ",";
    text += std::to_string(kv.dense_layers[i]);
  }
  return text;
}

std::string describe_selection(const skv_kv_params& kv) {
  std::string text = std::string("keys ") + coded(name_of(kKeyStores, kv.keys), kv.key_codec);
  text += std::string(", values ") + name_of(kCodecs, kv.value_codec);
  text += std::string(", digest ") + coded(name_of(kDigests, kv.digest), kv.digest_codec);
  text += std::string(", unselected ") + name_of(kUnselected, kv.unselected);
  text += ", chunk " + std::to_string(kv.chunk_tokens) + ", window " + std::to_string(kv.window_tokens);
  text += describe_layers(kv);
  if (is_guarded(kv)) text += ", missed mass at most " + number(kv.max_missed_mass);
  return text;
}

}  // namespace

const char* name_of(Words words, int32_t value) {
  const auto found = std::find_if(words.begin(), words.end(), [&](const Word& w) { return w.value == value; });
  return found == words.end() ? "unknown" : found->name;
}

std::optional<int32_t> value_of(Words words, const std::string& name) {
  const auto found = std::find_if(words.begin(), words.end(), [&](const Word& w) { return w.name == name; });
  if (found == words.end()) return std::nullopt;
  return found->value;
}

std::vector<std::string> names_of(Words words) {
  std::vector<std::string> names;
  for (const Word& word : words) names.emplace_back(word.name);
  return names;
}

std::string list_of(Words words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? " or " : ", ";
    text += words[i].name;
  }
  return text;
}

bool selects(const skv_kv_params& kv) { return kv.policy != SKV_POLICY_FULL && kv.policy != SKV_POLICY_STREAMING; }

bool is_guarded(const skv_kv_params& kv) { return selects(kv) && kv.max_missed_mass > 0; }

bool is_lowrank(const skv_kv_params& kv) { return selects(kv) && kv.keys == SKV_KEYS_LOWRANK; }

skv_codec key_codec(const skv_kv_params& kv) { return selects(kv) ? kv.key_codec : SKV_CODEC_RAW; }

skv_codec value_codec(const skv_kv_params& kv) { return selects(kv) ? kv.value_codec : SKV_CODEC_RAW; }

std::string describe(const skv_kv_params& kv) {
  std::string text = std::string("policy ") + name_of(kPolicies, kv.policy) + ": ";
  if (kv.policy == SKV_POLICY_FULL) return text + "keys and values exact, all attended";
  if (kv.policy == SKV_POLICY_STREAMING) {
    text += std::to_string(kv.sink_tokens) + " sinks, window " + std::to_string(kv.window_tokens);
    return text + ", exact";
  }
  return text + describe_selection(kv);
}

}  // namespace shell
