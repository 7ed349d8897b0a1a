// One mapped .safetensors file: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
// Everything the header says is checked against the file before a view is handed out.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "lib/base/file.h"

namespace skv::model {

struct TensorView {
  std::string dtype;           // as the file names it: "BF16", "F16", "F32", ...
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t bytes = 0;
};

class SafetensorsFile {
 public:
  // name is for messages. Throws Error(SKV_E_IO / SKV_E_DATA).
  SafetensorsFile(const std::string& path, const std::string& name);

  const TensorView* find(const std::string& tensor) const;
  const std::string& name() const { return name_; }
  int64_t mapped_bytes() const { return file_.size(); }

 private:
  void read_header();

  std::string name_;
  MappedFile file_;
  std::unordered_map<std::string, TensorView> tensors_;
};

// The tensors of a model directory: model.safetensors, or the shards that model.safetensors.index.json lists.
class SafetensorsSet {
 public:
  explicit SafetensorsSet(const std::string& directory);
  // Throws Error(SKV_E_DATA) naming the tensor if it is missing.
  const TensorView& get(const std::string& tensor) const;
  int64_t mapped_bytes() const;

 private:
  void read_index(const std::string& directory);

  std::vector<SafetensorsFile> files_;
  std::unordered_map<std::string, std::size_t> shard_of_;  // empty for a single file
};

}  // namespace skv::model
