#include "tests/bench/demo_document.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "examples/shell/demo_text.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/status.h"

namespace skv::bench {

namespace {

constexpr int64_t kMaxBytes = 64 << 20;

// demo-text writes files; they live no longer than this.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_((std::filesystem::temp_directory_path() / "skv_demo_XXXXXX").string()) {
    if (!mkdtemp(path_.data())) fail(SKV_E_IO, "cannot make the folder %s: errno %d", path_.c_str(), errno);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string file(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace

DemoDocument demo_document(const std::string& model_directory, const model::Tokenizer& tokenizer, int64_t tokens,
                           int32_t facts, int32_t questions, uint64_t seed) {
  const TemporaryFolder folder;
  shell::DemoText demo;
  demo.model = model_directory;
  demo.tokens = tokens;
  demo.questions = questions;
  demo.facts = facts;
  demo.seed = seed;
  demo.text_file = folder.file("text");
  demo.ask_file = folder.file("ask");
  shell::write_demo_text(demo);

  DemoDocument document;
  document.tokens = tokenizer.encode(read_file(demo.text_file, kMaxBytes), true, false);
  std::istringstream lines(read_file(demo.ask_file, kMaxBytes));
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json json = parse_json(line, "a question", 2, kMaxBytes);
    std::string answer(1, ' ');
    answer += get_string(json, "expect");
    document.questions.push_back(
        {tokenizer.encode(get_string(json, "ask"), false, false), tokenizer.encode(answer, false, false)});
  }
  return document;
}

}  // namespace skv::bench
