// Bytes of generated tokens to text that can be shown: whole UTF-8 characters only, ending before a stop text.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace shell {

class TextStream {
 public:
  using Sink = std::function<void(std::string_view)>;

  // An empty stop text is never met.
  TextStream(std::vector<std::string> stops, Sink sink) : stops_(std::move(stops)), sink_(std::move(sink)) {}

  // False once a stop text was met: nothing more is shown.
  bool push(std::string_view bytes);
  // Shows what was held back; an unfinished character becomes U+FFFD.
  void finish();
  // All that was shown.
  const std::string& text() const { return text_; }

 private:
  void show(std::string_view characters);

  std::vector<std::string> stops_;
  Sink sink_;
  std::string held_;   // decoded text that may yet turn out to begin a stop text
  std::string bytes_;  // the beginning of a character
  std::string text_;
  bool stopped_ = false;
};

// Moves whole characters from the front of *bytes to the end of *text; ill-formed bytes become U+FFFD one by one.
// What may still become a character stays.
void take_characters(std::string* bytes, std::string* text);

}  // namespace shell
