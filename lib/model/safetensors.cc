#include "lib/model/safetensors.h"

#include <cinttypes>
#include <cstring>
#include <string_view>

#include "lib/base/json.h"
#include "lib/base/status.h"

namespace skv::model {

namespace {

constexpr int64_t kMaxHeaderBytes = int64_t{16} << 20;  // a thousand layers need about one
constexpr int kMaxHeaderDepth = 4;
constexpr std::size_t kMaxRank = 8;
constexpr int64_t kMaxIndexBytes = int64_t{64} << 20;
constexpr std::size_t kMaxShards = 4096;
constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

int64_t element_bytes(std::string_view dtype) {
  struct Known {
    std::string_view name;
    int64_t bytes;
  };
  static constexpr Known kKnown[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
                                     {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                                     {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  for (const Known& known : kKnown)
    if (known.name == dtype) return known.bytes;
  return 0;
}

// false for anything but an integer in [0, INT64_MAX].
bool to_count(const nlohmann::json& value, int64_t* out) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) return false;
  *out = static_cast<int64_t>(value.get<uint64_t>());
  return true;
}

const nlohmann::json* array_member(const nlohmann::json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_array() ? &*it : nullptr;
}

TensorView read_entry(const std::string& file, const std::string& tensor, const nlohmann::json& entry,
                      int64_t data_bytes, int64_t* offset) {
  const auto bad = [&](const char* what) {
    fail(SKV_E_DATA, "%.80s: tensor %.100s: %s", file.c_str(), tensor.c_str(), what);
  };
  if (!entry.is_object()) bad("its header entry is not an object");
  TensorView view;
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) bad("dtype is missing or not a string");
  view.dtype = dtype->get<std::string>();
  const nlohmann::json* shape = array_member(entry, "shape");
  const nlohmann::json* offsets = array_member(entry, "data_offsets");
  if (!shape || shape->size() > kMaxRank) bad("shape is missing or has more than 8 dimensions");
  int64_t begin = 0, end = 0;
  if (!offsets || offsets->size() != 2 || !to_count((*offsets)[0], &begin) || !to_count((*offsets)[1], &end))
    bad("data_offsets is not a pair of byte offsets");
  if (begin > end || end > data_bytes) bad("data_offsets lie outside the file (cut short, or damaged)");
  int64_t product = element_bytes(view.dtype);
  const bool known = product > 0;
  for (const nlohmann::json& dim : *shape) {
    int64_t n = 0;
    if (!to_count(dim, &n)) bad("a dimension is not a count");
    view.shape.push_back(n);
    if (__builtin_mul_overflow(product, n, &product)) bad("the product of its dimensions overflows");
  }
  if (known && product != end - begin) bad("its shape and its byte length differ");
  view.bytes = end - begin;
  *offset = begin;
  return view;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path, const std::string& name) : name_(name), file_(path) {
  read_header();
}

void SafetensorsFile::read_header() {
  constexpr int64_t kPrefix = 8;
  if (file_.size() < kPrefix) fail(SKV_E_DATA, "%.80s: too short for a safetensors file", name_.c_str());
  uint64_t header = 0;
  for (int i = 0; i < kPrefix; ++i) header |= static_cast<uint64_t>(file_.data()[i]) << (8 * i);
  if (header > static_cast<uint64_t>(kMaxHeaderBytes))
    fail(SKV_E_DATA, "%.80s: a header of %" PRIu64 " bytes; %" PRId64 " are allowed", name_.c_str(), header,
         kMaxHeaderBytes);
  const int64_t data_at = kPrefix + static_cast<int64_t>(header);
  if (data_at > file_.size())
    fail(SKV_E_DATA, "%.80s: a header of %" PRIu64 " bytes in a file of %" PRId64, name_.c_str(), header,
         file_.size());
  const std::string_view text(reinterpret_cast<const char*>(file_.data()) + kPrefix,
                              static_cast<std::size_t>(header));
  const nlohmann::json root = parse_json(text, name_ + " header", kMaxHeaderDepth, kMaxHeaderBytes);
  if (!root.is_object()) fail(SKV_E_DATA, "%.80s: the header is not an object", name_.c_str());
  for (const auto& [tensor, entry] : root.items()) {
    if (tensor == "__metadata__") continue;
    int64_t offset = 0;
    TensorView view = read_entry(name_, tensor, entry, file_.size() - data_at, &offset);
    view.data = file_.data() + data_at + offset;
    tensors_.emplace(tensor, std::move(view));
  }
}

const TensorView* SafetensorsFile::find(const std::string& tensor) const {
  const auto it = tensors_.find(tensor);
  return it == tensors_.end() ? nullptr : &it->second;
}

SafetensorsSet::SafetensorsSet(const std::string& directory) {
  if (file_exists(directory + "/" + kSingle)) {
    files_.emplace_back(directory + "/" + kSingle, kSingle);
  } else if (file_exists(directory + "/" + kIndex)) {
    read_index(directory);
  } else {
    fail(SKV_E_IO, "%.120s: neither %s nor %s", directory.c_str(), kSingle, kIndex);
  }
}

void SafetensorsSet::read_index(const std::string& directory) {
  const nlohmann::json root =
      parse_json(read_file(directory + "/" + kIndex, kMaxIndexBytes), kIndex, kMaxHeaderDepth, kMaxIndexBytes);
  const nlohmann::json* map = root.is_object() ? find_member(root, "weight_map") : nullptr;
  if (!map || !map->is_object()) fail(SKV_E_DATA, "%s: weight_map is missing or not an object", kIndex);
  std::unordered_map<std::string, std::size_t> opened;
  for (const auto& [tensor, value] : map->items()) {
    if (!value.is_string()) fail(SKV_E_DATA, "%s: the file of tensor %.100s is not a string", kIndex, tensor.c_str());
    const auto& name = value.get_ref<const std::string&>();
    // A plain file name only: an index must not reach outside its directory.
    if (name.empty() || name[0] == '.' || name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos)
      fail(SKV_E_DATA, "%s: '%.80s' is not a file name in the model's directory", kIndex, name.c_str());
    const auto [it, is_new] = opened.emplace(name, files_.size());
    if (is_new) {
      if (files_.size() == kMaxShards) fail(SKV_E_DATA, "%s: more than %zu files", kIndex, kMaxShards);
      files_.emplace_back(directory + "/" + name, name);
    }
    shard_of_.emplace(tensor, it->second);
  }
}

const TensorView& SafetensorsSet::get(const std::string& tensor) const {
  const SafetensorsFile* file = nullptr;
  if (shard_of_.empty()) {
    if (files_.size() == 1) file = &files_[0];
  } else if (const auto it = shard_of_.find(tensor); it != shard_of_.end()) {
    file = &files_[it->second];
  }
  const TensorView* view = file ? file->find(tensor) : nullptr;
  if (!view)
    fail(SKV_E_DATA, "tensor %.100s is missing from %.80s", tensor.c_str(), file ? file->name().c_str() : kIndex);
  return *view;
}

int64_t SafetensorsSet::mapped_bytes() const {
  int64_t sum = 0;
  for (const SafetensorsFile& file : files_) sum += file.mapped_bytes();
  return sum;
}

}  // namespace skv::model
