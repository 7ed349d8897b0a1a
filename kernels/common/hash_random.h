// A counter-based generator for fixed pseudo-random matrices: the same values on every machine, in any order.
#pragma once

#include <cstdint>

#include "kernels/common/host_device.h"

namespace skv::kernels {

// Uniform in (-1, 1), symmetric; the finaliser of splitmix64 over a Weyl sequence.
SKV_HD inline double hash_uniform(uint64_t stream, uint64_t index) {
  uint64_t x = stream * 0xd1342543de82ef95u + (index + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return (static_cast<double>(x >> 11) + 0.5) * 0x1p-52 - 1.0;
}

}  // namespace skv::kernels
