#include "kernels/common/row_codec.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/kernels/row_codec_test.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/row_codec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {

uint16_t encode8(const float* x, int64_t n, int8_t* codes) { return encode_int8_row(x, n, codes); }
void decode8(const int8_t* codes, uint16_t scale, int64_t n, float* x) { decode_int8_row(codes, scale, n, x); }
uint16_t encode4(const float* y, int64_t n, uint8_t* packed) { return encode_int4_row(y, n, packed); }
void decode4(const uint8_t* packed, uint16_t scale, int64_t n, float* y) { decode_int4_row(packed, scale, n, y); }

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "tests/kernels/kernel_test.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

HWY_EXPORT(encode8);
HWY_EXPORT(decode8);
HWY_EXPORT(encode4);
HWY_EXPORT(decode4);

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Either codec, behind one face. Buffers end at unmapped pages.
struct Int8 {
  static constexpr float kSteps = 127.0f;
  static int64_t bytes(int64_t n) { return n; }
  static int64_t length(Random& rng) { return rng.integer(1, 300); }
  static uint16_t encode_ref(const float* x, int64_t n, uint8_t* c) {
    return encode_int8_row_ref(x, n, reinterpret_cast<int8_t*>(c));
  }
  static void decode_ref(const uint8_t* c, uint16_t s, int64_t n, float* x) {
    decode_int8_row_ref(reinterpret_cast<const int8_t*>(c), s, n, x);
  }
  static uint16_t encode(const float* x, int64_t n, uint8_t* c) {
    return HWY_DYNAMIC_DISPATCH(encode8)(x, n, reinterpret_cast<int8_t*>(c));
  }
  static void decode(const uint8_t* c, uint16_t s, int64_t n, float* x) {
    HWY_DYNAMIC_DISPATCH(decode8)(reinterpret_cast<const int8_t*>(c), s, n, x);
  }
};
struct Int4 {
  static constexpr float kSteps = 8.0f;
  static int64_t bytes(int64_t n) { return n / 2; }
  static int64_t length(Random& rng) { return 2 * rng.integer(1, 150); }
  static uint16_t encode_ref(const float* x, int64_t n, uint8_t* c) { return encode_int4_row_ref(x, n, c); }
  static void decode_ref(const uint8_t* c, uint16_t s, int64_t n, float* x) { decode_int4_row_ref(c, s, n, x); }
  static uint16_t encode(const float* x, int64_t n, uint8_t* c) { return HWY_DYNAMIC_DISPATCH(encode4)(x, n, c); }
  static void decode(const uint8_t* c, uint16_t s, int64_t n, float* x) {
    HWY_DYNAMIC_DISPATCH(decode4)(c, s, n, x);
  }
};

// Encodes and decodes by both; bits must agree. Returns the scale.
template <class Codec>
uint16_t round_trip(const Buffer<float>& x, Buffer<float>* decoded) {
  const int64_t n = x.size();
  Buffer<uint8_t> got(Codec::bytes(n), 1), want(Codec::bytes(n), 1);
  Buffer<float> want_decoded(n, 4);
  const uint16_t scale = Codec::encode(x.data(), n, got.data());
  EXPECT_EQ(scale, Codec::encode_ref(x.data(), n, want.data())) << "n " << n;
  expect_same_bytes(got.data(), want.data(), static_cast<std::size_t>(got.size()), "codes, n " + std::to_string(n));
  Codec::decode(got.data(), scale, n, decoded->data());
  Codec::decode_ref(got.data(), scale, n, want_decoded.data());
  expect_same_bytes(decoded->data(), want_decoded.data(), static_cast<std::size_t>(4 * n), "decoded");
  return scale;
}

// The scale is the smallest f16 not below max / steps, and no element is further off than half of it.
template <class Codec>
void expect_bound(const Buffer<float>& x, const std::string& params) {
  Buffer<float> decoded(x.size(), 4);
  const uint16_t bits = round_trip<Codec>(x, &decoded);
  const double scale = f16_to_f32(bits), most = max_abs(x.span());
  ASSERT_LT(bits, 0x7c00) << params;
  ASSERT_GE(scale * Codec::kSteps, most * (1.0 - 0x1p-23) - 1e-43) << params;
  if (bits > 0) {
    ASSERT_LT(double{f16_to_f32(static_cast<uint16_t>(bits - 1))} * Codec::kSteps, most) << params;
  }
  for (int64_t i = 0; i < x.size(); ++i) {
    const double error = std::fabs(double{decoded[i]} - x[i]);
    ASSERT_LE(error, scale / 2 + 1e-6 * scale + 1e-43) << params << " element " << i << " of " << x[i] << " scale "
                                                       << scale;
  }
}

template <class Codec>
class RowCodec : public ::testing::Test {};
struct Names {
  template <class T>
  static std::string GetName(int) { return std::is_same_v<T, Int8> ? "int8" : "int4"; }
};
using Codecs = ::testing::Types<Int8, Int4>;
TYPED_TEST_SUITE(RowCodec, Codecs, Names);

TYPED_TEST(RowCodec, is_off_by_half_a_scale_at_most_at_any_magnitude) {
  Random rng;
  for_each_target([&] {
    const double end = std::min(1.5e6, 3e4 * TypeParam::kSteps);
    for (double magnitude = 1e-9; magnitude < end && !this->HasFatalFailure(); magnitude *= 2.7) {
      for (const Fill fill : {Fill::normal, Fill::ties, Fill::biased}) {
        const auto scale = static_cast<float>(fill == Fill::biased ? magnitude / 400 : magnitude / 5);
        Buffer<float> x(TypeParam::length(rng), 4);
        fill_rows(rng, fill, DType::f32, x.data(), 1, x.size(), scale);
        expect_bound<TypeParam>(x, std::string(fill_name(fill)) + " magnitude " + std::to_string(magnitude));
      }
    }
  });
}

TYPED_TEST(RowCodec, holds_for_spikes_and_for_elements_far_apart) {
  Random rng;
  for_each_target([&] {
    for (int round = 0; round < 200 && !this->HasFatalFailure(); ++round) {
      Buffer<float> x(TypeParam::length(rng), 4);
      fill_rows(rng, Fill::normal, DType::f32, x.data(), 1, x.size(), round % 2 ? 1e-3f : 0.0f);
      const auto exponent = static_cast<int>(rng.integer(-40, 18));
      x[rng.integer(0, x.size() - 1)] = std::ldexp(rng.pick({1.0f, -1.0f, 1.37f}), exponent);
      expect_bound<TypeParam>(x, "spike");
      for (float& v : x.span()) v = std::ldexp(rng.normal(), static_cast<int>(rng.integer(-140, 15)));
      expect_bound<TypeParam>(x, "magnitudes apart");
    }
  });
}

// Scales that are subnormal in f16, down to the smallest, 2^-24.
TYPED_TEST(RowCodec, rounds_tiny_scales_up) {
  for_each_target([&] {
    for (int e = -149; e < -10 && !this->HasFatalFailure(); ++e) {
      for (const float mantissa : {1.0f, 1.1f, 1.9f}) {
        Buffer<float> x(34, 4);
        for (int64_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(mantissa, e) * static_cast<float>(i - 17) / 17.0f;
        expect_bound<TypeParam>(x, "2^" + std::to_string(e));
      }
    }
  });
}

// Quotients that lie on or beside a rounding boundary: both versions must fall to the same side.
TYPED_TEST(RowCodec, agrees_with_the_reference_on_ties) {
  Random rng;
  for_each_target([&] {
    for (int round = 0; round < 200 && !this->HasFatalFailure(); ++round) {
      Buffer<float> x(TypeParam::length(rng), 4);
      const float scale = f16_to_f32(static_cast<uint16_t>(rng.integer(1, 0x7800)));
      for (float& v : x.span()) {
        v = static_cast<float>(rng.integer(-15, 15)) / 2 * scale;
        if (rng.chance(0.5)) v = std::nextafter(v, rng.pick({-kInf, kInf}));
      }
      x[0] = TypeParam::kSteps * scale;
      expect_bound<TypeParam>(x, "ties");
    }
  });
}

TYPED_TEST(RowCodec, gives_zero_rows_back_as_positive_zeros) {
  for_each_target([&] {
    for (const float zero : {0.0f, -0.0f, 1e-45f}) {
      Buffer<float> x(66, 4), decoded(66, 4);
      for (float& v : x.span()) v = zero;
      EXPECT_EQ(round_trip<TypeParam>(x, &decoded), 0);
      for (const float v : decoded.span()) ASSERT_EQ(std::bit_cast<uint32_t>(v), 0u);
    }
  });
}

TYPED_TEST(RowCodec, carries_damage_into_every_element) {
  Random rng;
  for_each_target([&] {
    const float limit = 65504.0f * TypeParam::kSteps;
    for (const float bad : {kNan, -kNan, kInf, -kInf, limit * 1.001f, -3e38f}) {
      for (int round = 0; round < 30; ++round) {
        Buffer<float> x(TypeParam::length(rng), 4), decoded(x.size(), 4);
        fill_rows(rng, Fill::normal, DType::f32, x.data(), 1, x.size());
        x[rng.integer(0, x.size() - 1)] = bad;
        if (round % 3 == 0) x[rng.integer(0, x.size() - 1)] = bad;
        EXPECT_EQ(round_trip<TypeParam>(x, &decoded), 0x7e00) << bad;
        for (const float v : decoded.span()) ASSERT_TRUE(std::isnan(v)) << bad;
      }
    }
    Buffer<float> x(32, 4);
    for (float& v : x.span()) v = limit;
    expect_bound<TypeParam>(x, "the largest that fits");
  });
}

TEST(RowCodecInt4, puts_the_halves_of_a_row_in_the_nibbles_of_a_byte) {
  const float y[] = {-8.0f, -0.5f, 0.5f, 7.9f};
  uint8_t packed[2];
  EXPECT_EQ(f16_to_f32(encode_int4_row_ref(y, 4, packed)), 1.0f);
  EXPECT_EQ(packed[0], 0 | 8 << 4);
  EXPECT_EQ(packed[1], 7 | 15 << 4);
  float decoded[4];
  decode_int4_row_ref(packed, 0x3c00, 4, decoded);
  EXPECT_EQ(decoded[0], -7.5f);
  EXPECT_EQ(decoded[1], -0.5f);
  EXPECT_EQ(decoded[2], 0.5f);
  EXPECT_EQ(decoded[3], 7.5f);
}

TEST(RowCodecInt8, rounds_to_the_nearest_step) {
  const float x[] = {-127.0f, 0.4f, 0.6f, 1.5f, 2.5f, -2.5f, 63.0f};
  const int8_t want[] = {-127, 0, 1, 2, 2, -2, 63};
  int8_t codes[7];
  EXPECT_EQ(f16_to_f32(encode_int8_row_ref(x, 7, codes)), 1.0f);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(codes[i], want[i]) << i;
}

template <class Codec>
void bench_codec(const char* name) {
  constexpr int64_t kWidth = 128;
  const int64_t rows = bench_small() ? 64 : 2048;
  Random rng;
  Buffer<float> x(rows * kWidth, 64);
  Buffer<uint8_t> codes(rows * Codec::bytes(kWidth), 64);
  std::vector<uint16_t> scales(static_cast<std::size_t>(rows));
  fill_rows(rng, Fill::normal, DType::f32, x.data(), rows, kWidth);
  BenchRow row{.op = "row_codec", .variant = std::string(name) + " encode", .shape = "width 128", .tokens = rows,
      .working_set_bytes = 5 * rows * kWidth, .bytes = static_cast<double>(4 * rows * kWidth + codes.size())};
  const auto each_row = [&](auto&& fn) {
    for (int64_t i = 0; i < rows; ++i) fn(x.data() + i * kWidth, codes.data() + i * Codec::bytes(kWidth), scales[i]);
  };
  run_bench(row, [&](int64_t) {
    each_row([](float* values, uint8_t* c, uint16_t& scale) { scale = Codec::encode(values, kWidth, c); });
  });
  row.variant = std::string(name) + " decode";
  run_bench(row, [&](int64_t) {
    each_row([](float* values, uint8_t* c, uint16_t& scale) { Codec::decode(c, scale, kWidth, values); });
  });
}

void bench() {
  bench_codec<Int8>("int8");
  bench_codec<Int4>("int4");
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
#endif
