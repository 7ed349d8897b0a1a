#include "kernels/common/dtype.h"

#include <cmath>

namespace skv {

uint16_t f32_to_f16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const auto sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const float magnitude = std::bit_cast<float>(u & 0x7fffffffu);
  if (std::isnan(magnitude)) return sign | 0x7e00u;
  if (magnitude >= 65520.0f) return sign | 0x7c00u;
  // Subnormal halves are multiples of 2^-24: the sum's last bit is that, so the addition rounds. Normal ones likewise
  // after scaling to 11 significant bits.
  if (magnitude < 0x1p-14f) {
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(magnitude + 0.5f) - std::bit_cast<uint32_t>(0.5f));
  }
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  const uint32_t rounded = bits + 0xfffu + ((bits >> 13) & 1u);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
}

uint16_t f32_to_f16_scale(float f) {
  if (!(f <= 65504.0f)) return 0x7e00u;
  const uint16_t nearest = f32_to_f16(f);
  return f16_to_f32(nearest) < f ? static_cast<uint16_t>(nearest + 1) : nearest;
}

}  // namespace skv
