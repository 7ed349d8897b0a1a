#include "lib/model/utf8.h"

#include <cstring>

namespace skv::model {

int decode_utf8(std::string_view text, std::size_t at, uint32_t* code) {
  if (at >= text.size()) return 0;
  const auto byte = [&](std::size_t i) { return static_cast<uint8_t>(text[at + i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) {
    *code = lead;
    return 1;
  }
  const int length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() - at < static_cast<std::size_t>(length)) return 0;
  uint32_t value = lead & (0x7fu >> length);
  for (int i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    value = (value << 6) | (byte(i) & 0x3fu);
  }
  static constexpr uint32_t kSmallest[5] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xd800 && value < 0xe000;
  if (value < kSmallest[length] || value > 0x10ffff || surrogate) return 0;
  *code = value;
  return length;
}

std::size_t utf8_run(std::string_view text, std::size_t at, bool* valid) {
  const std::size_t start = at;
  uint32_t code = 0;
  *valid = decode_utf8(text, at, &code) > 0;
  while (at < text.size()) {
    uint64_t lanes = 0;
    if (*valid && text.size() - at >= sizeof lanes) {  // ASCII eight bytes at a time
      std::memcpy(&lanes, text.data() + at, sizeof lanes);
      if ((lanes & 0x8080808080808080ull) == 0) {
        at += sizeof lanes;
        continue;
      }
    }
    const int length = decode_utf8(text, at, &code);
    if ((length > 0) != *valid) break;
    at += length > 0 ? static_cast<std::size_t>(length) : 1;
  }
  return at - start;
}

bool is_white_space(uint32_t code) {
  if (code >= 0x09 && code <= 0x0d) return true;
  if (code >= 0x2000 && code <= 0x200a) return true;
  switch (code) {
    case 0x20: case 0x85: case 0xa0: case 0x1680: case 0x2028: case 0x2029: case 0x202f: case 0x205f: case 0x3000:
      return true;
    default:
      return false;
  }
}

void append_utf8(std::string& out, uint32_t code) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | (code >> 6));
    put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3f));
    put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3f));
    put(0x80 | ((code >> 6) & 0x3f));
    put(0x80 | (code & 0x3f));
  }
}

}  // namespace skv::model
