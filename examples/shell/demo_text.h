// The demo's long text: filler sentences with facts among them ("The code of X is 48213."), and questions about them.
#pragma once

#include <cstdint>
#include <string>

namespace shell {

struct DemoText {
  std::string model;       // directory with a tokenizer and language.json
  int64_t tokens = 32768;  // of the prompt: begin token, text and a question
  int32_t questions = 50;
  int32_t facts = 0;  // 0 = one for each 256 tokens, within 64..200
  uint64_t seed = 1;
  std::string text_file;
  std::string ask_file;
};

int write_demo_text(const DemoText& demo);

}  // namespace shell
