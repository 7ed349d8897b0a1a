// Files: read-only maps, whole-file reads with a size bound, atomic writes, a checksum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace skv {

// Read-only private map of a whole file. Throws Error(SKV_E_IO) naming path and errno.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

// Throws Error(SKV_E_IO), or Error(SKV_E_DATA) if the file is longer than max_bytes.
std::string read_file(const std::string& path, int64_t max_bytes);
bool file_exists(const std::string& path);
// Writes to a temporary beside path, fsyncs, renames. Throws Error(SKV_E_IO) and leaves the old file.
void write_file_atomic(const std::string& path, std::string_view bytes);
// FNV-1a on 8-byte little-endian words in four interleaved lanes, with a fold: mix(h, w) = x ^ (x >> 32) where
// x = (h ^ w) * 0x100000001b3. Lane i starts as mix(0xcbf29ce484222325, i) and takes words i, i + 4, ... of the whole
// 32-byte groups; then h = mix(0xcbf29ce484222325, bytes) takes the four lanes and the words left, the last one
// zero-padded. For detecting damage, not tampering. The value never changes: it is stored in files.
uint64_t checksum64(const void* data, std::size_t bytes);

}  // namespace skv
