#include "examples/shell/text_stream.h"

#include <algorithm>
#include <cstddef>

namespace shell {

namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

enum class Form { whole, partial, bad };

// Length of a character by its first byte; 0 if none begins so.
std::size_t sequence_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

// The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF (Unicode 15, table 3-7).
bool continues(unsigned char lead, std::size_t index, unsigned char byte) {
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (index == 1 && lead == 0xE0) low = 0xA0;
  if (index == 1 && lead == 0xED) high = 0x9F;
  if (index == 1 && lead == 0xF0) low = 0x90;
  if (index == 1 && lead == 0xF4) high = 0x8F;
  return byte >= low && byte <= high;
}

Form classify(std::string_view bytes, std::size_t* length) {
  const auto lead = static_cast<unsigned char>(bytes[0]);
  *length = sequence_length(lead);
  if (*length == 0) return Form::bad;
  const std::size_t present = std::min(*length, bytes.size());
  for (std::size_t i = 1; i < present; ++i) {
    if (!continues(lead, i, static_cast<unsigned char>(bytes[i]))) return Form::bad;
  }
  return present == *length ? Form::whole : Form::partial;
}

// The longest end of text that begins stop and is not all of it.
std::size_t overlap(std::string_view text, std::string_view stop) {
  if (stop.empty()) return 0;
  for (std::size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.substr(text.size() - n) == stop.substr(0, n)) return n;
  }
  return 0;
}

}  // namespace

void take_characters(std::string* bytes, std::string* text) {
  std::size_t at = 0;
  while (at < bytes->size()) {
    std::size_t length = 0;
    const Form form = classify(std::string_view(*bytes).substr(at), &length);
    if (form == Form::partial) break;
    if (form == Form::whole) {
      text->append(*bytes, at, length);
      at += length;
    } else {
      text->append(kReplacement);
      at += 1;
    }
  }
  bytes->erase(0, at);
}

void TextStream::show(std::string_view characters) {
  if (characters.empty()) return;
  text_.append(characters);
  sink_(characters);
}

bool TextStream::push(std::string_view bytes) {
  if (stopped_) return false;
  bytes_.append(bytes);
  take_characters(&bytes_, &held_);
  std::size_t end = std::string::npos;
  std::size_t keep = 0;
  for (const std::string& stop : stops_) {
    if (stop.empty()) continue;
    end = std::min(end, held_.find(stop));
    keep = std::max(keep, overlap(held_, stop));
  }
  stopped_ = end != std::string::npos;
  if (!stopped_) end = held_.size() - keep;
  show(std::string_view(held_).substr(0, end));
  held_.erase(0, end);
  return !stopped_;
}

void TextStream::finish() {
  if (stopped_) return;
  if (!bytes_.empty()) held_.append(kReplacement);
  bytes_.clear();
  show(held_);
  held_.clear();
}

}  // namespace shell
