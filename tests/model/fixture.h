// Test-only: loads what make_fixtures.py wrote about one tiny checkpoint, and makes scratch model directories.
//
//   const Fixture f = load_fixture("sharded_bf16");
//   model::Model m(f.directory, false, account);
//   ... logits after the prompt's token f.positions[i]: f.prompt_row(i); after f.greedy[i]: f.decode_row(i) ...
#pragma once

#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/status.h"

namespace skv::test {

// In the order of make_fixtures.py.
inline constexpr const char* kCheckpoints[] = {"gqa_llama3_rope", "mha_mixed_dtypes", "mqa_tied_linear_rope",
                                               "sharded_bf16", "biases_f16"};

inline std::string fixture_path(const std::string& name) { return std::string(SKV_MODEL_FIXTURES) + "/" + name; }

struct Fixture {
  std::string directory;
  int32_t vocab = 0;
  std::vector<int32_t> prompt;
  std::vector<int32_t> positions;  // of the prompt, whose logits are kept; the last is the prompt's last
  std::vector<int32_t> greedy;     // greedy[0] follows the prompt
  std::vector<float> logits;       // f32 arithmetic of transformers

  const float* prompt_row(std::size_t i) const { return &logits[i * static_cast<std::size_t>(vocab)]; }
  const float* decode_row(std::size_t i) const { return prompt_row(positions.size() + i); }
};

inline Fixture load_fixture(const std::string& name) {
  constexpr int64_t kMax = 1 << 22;
  Fixture f;
  f.directory = fixture_path(name);
  const nlohmann::json root = parse_json(read_file(f.directory + "/expect.json", kMax), "expect.json", 4, kMax);
  f.vocab = root.at("vocab").get<int32_t>();
  f.prompt = root.at("prompt").get<std::vector<int32_t>>();
  f.positions = root.at("positions").get<std::vector<int32_t>>();
  f.greedy = root.at("greedy").get<std::vector<int32_t>>();
  const std::string raw = read_file(f.directory + "/logits.f32", kMax);
  f.logits.resize(raw.size() / sizeof(float));
  std::memcpy(f.logits.data(), raw.data(), f.logits.size() * sizeof(float));
  if (f.logits.size() != (f.positions.size() + f.greedy.size()) * static_cast<std::size_t>(f.vocab))
    throw std::runtime_error(name + ": logits.f32 and expect.json differ in length");
  return f;
}

// Largest difference over the largest magnitude of the expected row; NaN anywhere gives infinity.
inline double relative_error(const float* got, const float* want, int64_t n) {
  double worst = 0, scale = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double d = std::fabs(static_cast<double>(got[i]) - want[i]);
    if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
    scale = std::fmax(scale, std::fabs(want[i]));
  }
  return worst / scale;
}

// A copy of a fixture (or an empty folder) that a test may damage; removed with the object.
class ScratchModel {
 public:
  explicit ScratchModel(const std::string& fixture = "") {
    std::string pattern = (std::filesystem::temp_directory_path() / "skv_model_XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp failed");
    directory_ = pattern;
    if (fixture.empty()) return;
    std::filesystem::copy(fixture_path(fixture), directory_, std::filesystem::copy_options::recursive);
  }
  ~ScratchModel() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  ScratchModel(const ScratchModel&) = delete;
  ScratchModel& operator=(const ScratchModel&) = delete;

  const std::string& directory() const { return directory_; }
  std::string read(const std::string& file) const { return read_file(directory_ + "/" + file, 1 << 26); }
  void write(const std::string& file, std::string_view bytes) const {
    std::ofstream(directory_ + "/" + file, std::ios::binary | std::ios::trunc) << bytes;
  }
  void remove(const std::string& file) const { std::filesystem::remove(directory_ + "/" + file); }

  // Edits a JSON file as an object.
  template <class Fn>
  void edit(const std::string& file, Fn&& change) const {
    nlohmann::json root = nlohmann::json::parse(read(file));
    change(root);
    write(file, root.dump());
  }

 private:
  std::string directory_;
};

// The status that fn fails with (SKV_OK if it does not); its message goes to *message.
template <class Fn>
skv_status status_of(Fn&& fn, std::string* message = nullptr) {
  try {
    fn();
  } catch (const Error& e) {
    if (message) *message = e.what();
    return e.code();
  }
  if (message) message->clear();
  return SKV_OK;
}

}  // namespace skv::test
