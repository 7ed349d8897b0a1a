#include <array>
#include <bit>
#include <cstring>

#include "lib/base/file.h"

namespace skv {

namespace {

static_assert(std::endian::native == std::endian::little, "file formats are little-endian and read in place");

constexpr uint64_t kOffset = 0xcbf29ce484222325u;
constexpr uint64_t kPrime = 0x100000001b3u;
constexpr std::size_t kLanes = 4;

// A multiplication carries upwards only, so plain FNV-1a on words forgets two flips of a top bit; the fold brings the
// upper half down. Both steps are bijections: one damaged word always changes the sum.
uint64_t mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * kPrime;
  return hash ^ (hash >> 32);
}

}  // namespace

uint64_t checksum64(const void* data, std::size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  std::array<uint64_t, kLanes> lane;
  for (std::size_t i = 0; i < kLanes; ++i) lane[i] = mix(kOffset, i);
  std::size_t left = bytes;
  for (; left >= kLanes * sizeof(uint64_t); left -= kLanes * sizeof(uint64_t), p += kLanes * sizeof(uint64_t)) {
    std::array<uint64_t, kLanes> words;
    std::memcpy(words.data(), p, sizeof words);
    for (std::size_t i = 0; i < kLanes; ++i) lane[i] = mix(lane[i], words[i]);
  }
  uint64_t hash = mix(kOffset, bytes);
  for (const uint64_t value : lane) hash = mix(hash, value);
  while (left > 0) {
    uint64_t word = 0;
    const std::size_t n = left < sizeof word ? left : sizeof word;
    std::memcpy(&word, p, n);
    hash = mix(hash, word);
    p += n;
    left -= n;
  }
  return hash;
}

}  // namespace skv
