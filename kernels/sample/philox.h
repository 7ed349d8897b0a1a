// Philox 4x32-10: a counter-based generator; block n of a stream is computed on its own, in any order, on any device.
#pragma once

#include <cstdint>

#include "kernels/common/host_device.h"

namespace skv::kernels {

struct PhiloxBlock {
  uint32_t word[4];
};

struct PhiloxKey {
  uint32_t word[2];
};

SKV_HD inline PhiloxBlock philox4x32(PhiloxBlock counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xd2511f53u} * counter.word[0], p1 = uint64_t{0xcd9e8d57u} * counter.word[2];
    counter = {{static_cast<uint32_t>(p1 >> 32) ^ counter.word[1] ^ key.word[0], static_cast<uint32_t>(p1),
                static_cast<uint32_t>(p0 >> 32) ^ counter.word[3] ^ key.word[1], static_cast<uint32_t>(p0)}};
    key.word[0] += 0x9e3779b9u;
    key.word[1] += 0xbb67ae85u;
  }
  return counter;
}

// Uniform in [0, 1) with 24 bits.
SKV_HD inline float philox_uniform(uint64_t seed, uint64_t counter) {
  const PhiloxBlock block = philox4x32({{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0}},
                                       {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}});
  return static_cast<float>(block.word[0] >> 8) * 0x1p-24f;
}

}  // namespace skv::kernels
