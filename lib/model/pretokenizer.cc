#include "lib/model/pretokenizer.h"

#include <cstdint>
#include <string>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "lib/base/json.h"
#include "lib/base/status.h"

namespace skv::model {

namespace {

// PCRE2's \s also takes U+180E, so white space is spelled out: Unicode's White_Space, as the originals have it.
#define SKV_WS R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
#define SKV_WS_TAIL "[" SKV_WS "]+(?![^" SKV_WS "])|[" SKV_WS "]+"
#define SKV_WORDS(DIGITS)                                                                         \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" DIGITS "| ?[^" SKV_WS              \
  "\\p{L}\\p{N}]+[\\r\\n]*|[" SKV_WS "]*[\\r\\n]+|" SKV_WS_TAIL

// The same as tokenizer.json spells it.
#define SKV_WORDS_SPEC(DIGITS)                                                     \
  R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)" DIGITS              \
  R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"

struct KnownSplit {
  const char* spec;     // as tokenizer.json spells it
  const char* pattern;  // the same for PCRE2
};

constexpr char kGpt2[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr char kGpt2Pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SKV_WS "\\p{L}\\p{N}]+|" SKV_WS_TAIL;

constexpr KnownSplit kKnown[] = {
    {kGpt2, kGpt2Pattern},
    // Llama 3
    {SKV_WORDS_SPEC(R"(\p{N}{1,3})"), SKV_WORDS("\\p{N}{1,3}")},
    // Qwen 2
    {SKV_WORDS_SPEC(R"(\p{N})"), SKV_WORDS("\\p{N}")},
};

}  // namespace

struct Pretokenizer::Pattern {
  explicit Pattern(const char* pattern) {
    int error = 0;
    PCRE2_SIZE where = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error,
                         &where, nullptr);
    if (!code) fail(SKV_E_INTERNAL, "pre-split pattern: PCRE2 error %d at %zu", error, where);
    // Where the machine allows no JIT (hardened kernels) the interpreter serves.
    jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  }
  ~Pattern() { pcre2_code_free(code); }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  pcre2_code* code = nullptr;
  bool jit = false;
};

struct Pretokenizer::Walk::Scratch {
  Scratch() {
    data = pcre2_match_data_create(1, nullptr);
    context = pcre2_match_context_create(nullptr);
    if (!data || !context) {
      release();
      fail(SKV_E_NOMEM, "no memory for the pre-split of a text");
    }
    // The patterns are ours and linear; a long run of spaces must not look like an attack.
    pcre2_set_match_limit(context, UINT32_MAX);
  }
  ~Scratch() { release(); }
  void release() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
};

Pretokenizer::Pretokenizer(const nlohmann::json& spec) {
  if (!spec.is_object()) fail(SKV_E_MODEL, "tokenizer.json: no pre_tokenizer; byte-level BPE needs one");
  bool byte_level = false;
  const auto add = [&](const nlohmann::json& step) {
    byte_level = byte_level || get_string_or(step, "type", "") == "ByteLevel";
    add_step(step);
  };
  if (get_string_or(spec, "type", "") == "Sequence") {
    const nlohmann::json& steps = get_array(spec, "pretokenizers");
    if (steps.size() > 16)
      fail(SKV_E_MODEL, "tokenizer.json: pretokenizers has %zu entries; 16 are allowed", steps.size());
    for (const nlohmann::json& step : steps) add(step);
  } else {
    add(spec);
  }
  if (!byte_level) fail(SKV_E_MODEL, "tokenizer.json: pre_tokenizer is not byte-level; nothing else is supported");
}

Pretokenizer::~Pretokenizer() = default;

void Pretokenizer::add_step(const nlohmann::json& spec) {
  const std::string type = get_string_or(spec, "type", "");
  if (type == "ByteLevel") {
    if (get_bool_or(spec, "add_prefix_space", true))
      fail(SKV_E_MODEL, "tokenizer.json: pre_tokenizer: add_prefix_space is not supported");
    if (get_bool_or(spec, "use_regex", true)) patterns_.push_back(std::make_unique<Pattern>(kGpt2Pattern));
    return;
  }
  if (type == "Digits") {
    const bool single = get_bool_or(spec, "individual_digits", false);
    patterns_.push_back(std::make_unique<Pattern>(single ? "\\p{N}" : "\\p{N}+"));
    return;
  }
  if (type != "Split")
    fail(SKV_E_MODEL, "tokenizer.json: pre_tokenizer type '%.60s' is not supported (ByteLevel, Split, Digits)",
         type.c_str());
  if (get_string_or(spec, "behavior", "") != "Isolated" || get_bool_or(spec, "invert", false))
    fail(SKV_E_MODEL, "tokenizer.json: pre_tokenizer: Split is supported with behavior Isolated, not inverted");
  const std::string regex = get_string_or(get_object(spec, "pattern"), "Regex", "");
  for (const KnownSplit& known : kKnown) {
    if (regex != known.spec) continue;
    patterns_.push_back(std::make_unique<Pattern>(known.pattern));
    return;
  }
  fail(SKV_E_MODEL, "tokenizer.json: pre_tokenizer: unknown Split pattern '%.80s' (GPT-2, Llama 3, Qwen 2 are known)",
       regex.c_str());
}

Pretokenizer::Walk::Walk(const Pretokenizer& splitter) : splitter_(splitter), scratch_(std::make_unique<Scratch>()) {}
Pretokenizer::Walk::~Walk() = default;

int Pretokenizer::Walk::steps() const { return static_cast<int>(splitter_.patterns_.size()); }

bool Pretokenizer::Walk::next_match(int step, std::string_view text, std::size_t at, std::size_t* begin,
                                    std::size_t* end) {
  const Pattern& pattern = *splitter_.patterns_[static_cast<std::size_t>(step)];
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  if (at >= text.size()) return false;
  int rc = PCRE2_ERROR_JIT_STACKLIMIT;
  // Both ways skip the UTF check, which would read the whole text again for every word.
  if (pattern.jit) rc = pcre2_jit_match(pattern.code, subject, text.size(), at, 0, scratch_->data, scratch_->context);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
    rc = pcre2_match(pattern.code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scratch_->data,
                     scratch_->context);
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  if (rc == PCRE2_ERROR_NOMEMORY || rc == PCRE2_ERROR_HEAPLIMIT) fail(SKV_E_NOMEM, "no memory to pre-split a text");
  if (rc < 0) fail(SKV_E_INTERNAL, "pre-split: PCRE2 error %d", rc);
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(scratch_->data);
  *begin = range[0];
  *end = range[1];
  return *end > *begin;
}

}  // namespace skv::model
