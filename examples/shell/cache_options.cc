#include "examples/shell/cache_options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <string_view>

#include "examples/shell/cache_words.h"
#include "examples/shell/parse_number.h"

namespace shell {

namespace {

std::string check_budget(const std::string& text) {
  CacheSettings settings;
  return parse_budget(text, &settings) ? "" : "not a budget: " + text + " (for example 512 or 1.56%)";
}

std::string check_layers(const std::string& text) {
  std::vector<int32_t> layers;
  return parse_layers(text, &layers) ? "" : "not a list of layers: " + text + " (for example 0,1 or none)";
}

// One of a few words; the slot is as it was unless the option is given.
template <class Slot>
void add_choice(CLI::App& app, const char* option, Words words, Slot* slot, const char* help) {
  app.add_option_function<std::string>(
         option, [words, slot](const std::string& name) { *slot = value_of(words, name).value(); }, help)
      ->check(CLI::IsMember(names_of(words)));
}

void add_format_options(CLI::App& app, CacheSettings* s) {
  add_choice(app, "--keys", kKeyStores, &s->keys, "where selected keys come from");
  add_choice(app, "--key-codec", kCodecs, &s->key_codec, "of low-rank keys (raw, int8) or of exact ones");
  add_choice(app, "--value-codec", kCodecs, &s->value_codec, "of values in the slow tier");
  add_choice(app, "--digest", kDigests, &s->digest, "of a chunk's keys, by which it is scored");
  add_choice(app, "--digest-codec", kDigestCodecs, &s->digest_codec, "of the means");
  add_choice(app, "--dtype", kDtypes, &s->dtype, "of raw keys and values");
}

void add_selection_options(CLI::App& app, CacheSettings* s) {
  app.add_option_function<std::string>(
         "--budget", [s](const std::string& text) { parse_budget(text, s); },
         "tokens selected per step: a number, or a share of the context as 1.56%")
      ->check(check_budget);
  app.add_option("--max-missed-mass", s->max_missed_mass,
                 "accuracy guard: select on until the estimated attention mass left out is at most this; 0 = off")
      ->check(CLI::Range(0.0, 1.0));
  add_choice(app, "--unselected", kUnselected, &s->unselected, "other chunks: left out, or a mean value each");
  app.add_option_function<std::string>(
         "--dense-layers", [s](const std::string& text) { parse_layers(text, &s->dense_layers.emplace()); },
         "layers never compressed, as 0,1 or none")
      ->check(check_layers);
  app.add_option("--rank", s->rank, "of low-rank keys; default 160 for each 1,024 of key width")
      ->check(CLI::Range(1, 65536));
  add_choice(app, "--chunk", kChunks, &s->chunk, "tokens per chunk");
  app.add_option("--window", s->window, "newest tokens always exact; with streaming, all that stay but the sinks")
      ->check(CLI::Range(0, 1 << 20));
}

}  // namespace

void add_cache_options(CLI::App& app, CacheSettings* settings) {
  add_choice(app, "--policy", kPolicies, &settings->policy,
             "how keys and values are kept, default shadowkv; the options below change its settings");
  add_format_options(app, settings);
  add_selection_options(app, settings);
}

bool parse_budget(const std::string& text, CacheSettings* settings) {
  const bool percent = !text.empty() && text.back() == '%';
  double value = 0;
  if (!parse_number(std::string_view(text).substr(0, text.size() - (percent ? 1 : 0)), &value)) return false;
  if (percent) {
    settings->budget_fraction = value / 100;
    return value <= 100;
  }
  if (value < 1 || value > 1 << 30 || value != std::floor(value)) return false;
  settings->budget_tokens = static_cast<int32_t>(value);
  return true;
}

bool parse_layers(const std::string& text, std::vector<int32_t>* layers) {
  layers->clear();
  if (text == "none") return true;
  for (const char *at = text.data(), *end = at + text.size();; ++at) {
    int32_t layer = -1;
    const auto [next, error] = std::from_chars(at, end, layer);
    if (error != std::errc() || layer < 0) return false;
    layers->push_back(layer);
    if (next == end) return true;
    if (*next != ',') return false;
    at = next;
  }
}

}  // namespace shell
