#include "kernels/common/row_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/common/dtype.h"

namespace skv::kernels {
namespace {

float max_abs_or_nan(const float* x, int64_t n) {
  float most = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(x[i])) return x[i];
    most = std::max(most, std::fabs(x[i]));
  }
  return most;
}

// Zero and NaN scales have no quotients: the codes are 0.
bool has_codes(float scale) { return scale > 0.0f; }

// The double quotient of two floats rounds to the f32 one.
float quotient(float x, float scale) { return static_cast<float>(static_cast<double>(x) / scale); }

}  // namespace

uint16_t encode_int8_row_ref(const float* x, int64_t n, int8_t* codes) {
  const uint16_t bits = f32_to_f16_scale(quotient(max_abs_or_nan(x, n), 127.0f));
  const float scale = f16_to_f32(bits);
  for (int64_t i = 0; i < n; ++i) {
    codes[i] = has_codes(scale) ? static_cast<int8_t>(std::nearbyint(quotient(x[i], scale))) : 0;
  }
  return bits;
}

void decode_int8_row_ref(const int8_t* codes, uint16_t scale, int64_t n, float* x) {
  const double s = f16_to_f32(scale);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(codes[i] * s);
}

uint16_t encode_int4_row_ref(const float* y, int64_t n, uint8_t* packed) {
  const uint16_t bits = f32_to_f16_scale(quotient(max_abs_or_nan(y, n), 8.0f));
  const float scale = f16_to_f32(bits);
  const auto code = [&](int64_t i) {
    if (!has_codes(scale)) return 0;
    const auto shifted = static_cast<float>(static_cast<double>(quotient(y[i], scale)) + 8.0);
    return std::clamp(static_cast<int>(std::floor(shifted)), 0, 15);
  };
  for (int64_t i = 0; i < n / 2; ++i) packed[i] = static_cast<uint8_t>(code(i) | code(n / 2 + i) << 4);
  return bits;
}

void decode_int4_row_ref(const uint8_t* packed, uint16_t scale, int64_t n, float* y) {
  const double s = f16_to_f32(scale);
  for (int64_t i = 0; i < n; ++i) {
    const int code = i < n / 2 ? packed[i] & 15 : packed[i - n / 2] >> 4;
    y[i] = static_cast<float>((code - 7.5) * s + 0.0);  // + 0.0: a zero row has no negative zeros
  }
}

}  // namespace skv::kernels
