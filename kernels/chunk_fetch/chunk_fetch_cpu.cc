#include "kernels/chunk_fetch/chunk_fetch.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/chunk_fetch/chunk_fetch_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/hadamard-inl.h"
#include "kernels/common/parallel.h"
#include "kernels/common/row_codec-inl.h"

#ifndef SKV_KERNELS_CHUNK_FETCH_LIMITS
#define SKV_KERNELS_CHUNK_FETCH_LIMITS
namespace skv::kernels {
inline constexpr int64_t kLineBytes = 64;
inline constexpr int32_t kRows = 4;  // decoded at a time
inline constexpr int32_t kAhead = 2;  // blocks: each is a new place in memory, which no hardware prefetcher foresees
}  // namespace skv::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {  // helpers of the same name in other ops must stay apart

// An item's weights, or ones: in order, and for vectors of every other element (store_pairs).
struct Weights {
  bool given;
  alignas(64) float rows[kMaxHadamard], even[kMaxHadamard / 2], odd[kMaxHadamard / 2];

  Weights(const float* weights, int32_t width) : given(weights != nullptr) {
    for (int32_t i = 0; i < std::min(width, kMaxHadamard); ++i) {
      float* half = i % 2 ? odd : even;
      half[i / 2] = rows[i] = given ? weights[i] : 1.0f;
    }
  }
};

#if HWY_TARGET != HWY_SCALAR
// Four stages of a row's transform, on its codes less 8 in bytes, where a vector holds many: sums of sixteen
// lie in [-128, 120]. Piece i is elements (i % 2) W / 2 + 32 (i / 2) + (0 to 31), but of W = 32 the whole row; 16
// bytes of even, and of odd, are its elements in that order; done are the stages of distances 2 to 16.
template <int W>
HWY_INLINE void transform_pieces(const uint8_t* packed, int8_t* even, int8_t* odd) {
  const hn::CappedTag<int8_t, W / 2> d8;
  const hn::Repartition<uint16_t, decltype(d8)> d16;
  constexpr int kBytes = hn::MaxLanes(d8), kBlock = 16, kVectors = W / 2 / kBytes;
  const auto nibble = hn::Set(d8, int8_t{15}), eight = hn::Set(d8, int8_t{8});
  const auto low = [&](auto v) SKV_INLINE_LAMBDA { return hn::Sub(hn::And(v, nibble), eight); };
  const auto high = [&](auto v) SKV_INLINE_LAMBDA {
    return low(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, v))));
  };
  const auto load_bytes = [&](int at) SKV_INLINE_LAMBDA {
    return hn::LoadU(d8, reinterpret_cast<const int8_t*>(packed) + at);
  };
  for (int i = 0; i < kVectors; ++i) {
    hn::Vec<decltype(d8)> v[2];  // elements 0 to 15 of pieces, and 16 to 31
    if constexpr (W == 32) {
      v[0] = low(load_bytes(0)), v[1] = high(load_bytes(0));
    } else if constexpr (kBytes == kBlock) {
      const auto a = load_bytes(i / 2 * 2 * kBlock), b = load_bytes(i / 2 * 2 * kBlock + kBlock);
      v[0] = i % 2 == 0 ? low(a) : high(a), v[1] = i % 2 == 0 ? low(b) : high(b);
    } else {
      const auto a = low(load_bytes(i * kBytes)), b = high(load_bytes(i * kBytes));
      v[0] = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(b), a);
      v[1] = hn::OddEvenBlocks(b, hn::SwapAdjacentBlocks(a));
    }
    // Interleaving moves the next bit of an element's number from its place in the block to its vector.
    unroll<4>([&](auto) SKV_INLINE_LAMBDA {
      walsh_stage<1>(v);
      const auto first = hn::InterleaveLower(d8, v[0], v[1]);
      v[1] = hn::InterleaveUpper(d8, v[0], v[1]);
      v[0] = first;
    });
    hn::StoreU(v[0], d8, even + i * kBytes);
    hn::StoreU(v[1], d8, odd + i * kBytes);
  }
}

// The other stages in registers. Of the half between the codes' centre 7.5 and 8 only element 0 knows.
template <int W, class T>
HWY_INLINE void decode_pieces(const int8_t* even, const int8_t* odd, VF scale, const Weights& weights, T* x) {
  const F32 d;
  constexpr int V = W / kWalshLanes, kSplit = 16 / kWalshLanes;  // vectors of a row; pairs of them of a piece
  VF v[V];
  unroll<V / 2>([&](auto i) SKV_INLINE_LAMBDA {
    v[2 * i] = load_codes(d, even + i * kWalshLanes);
    v[2 * i + 1] = load_codes(d, odd + i * kWalshLanes);
  });
  walsh_stage<1>(v);
  walsh_vectors<2 * kSplit>(v);
  v[0] = hn::Add(v[0], hn::IfThenElseZero(hn::FirstN(d, 1), hn::Set(d, 0.5f * W)));
  unroll<V / 2>([&](auto i) SKV_INLINE_LAMBDA {
    constexpr int piece = i / kSplit, at = piece % 2 * W / 2 + piece / 2 * 32 + i % kSplit * 2 * kWalshLanes;
    const VF first = hn::Mul(scale_sums(d, v[2 * i], scale), hn::Load(d, weights.even + at / 2));
    const VF second = hn::Mul(scale_sums(d, v[2 * i + 1], scale), hn::Load(d, weights.odd + at / 2));
    store_pairs(d, first, second, x + at);
  });
}

// In two loops: a row passes through both parts in sequence, and several rows must be under way to fill the machine.
template <int W, class T>
void decode_walsh(const BlockFormat& format, const uint8_t* block, const Weights& weights, T* to) {
  const F32 d;
  const float norm = 1.0f / std::sqrt(static_cast<float>(W));
  const auto* scales = reinterpret_cast<const uint16_t*>(block + format.scales_at());
  alignas(64) int8_t bytes[kRows][W];
  for (int32_t first = 0; first < format.chunk; first += kRows) {
    const int32_t n = std::min(kRows, format.chunk - first);
    for (int32_t t = 0; t < n; ++t) transform_pieces<W>(block + (first + t) * (W / 2), bytes[t], bytes[t] + W / 2);
    for (int32_t t = 0; t < n; ++t) {
      const VF scale = hn::Set(d, scale_of(scales[first + t]) * norm);
      decode_pieces<W>(bytes[t], bytes[t] + W / 2, scale, weights, to + (first + t) * W);
    }
  }
}
#endif

// y * weights in dtype, y already decoded.
template <class T>
HWY_INLINE void store_weighted(const float* y, int32_t width, const float* weights, T* x) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d), size = static_cast<std::size_t>(width);
  std::size_t i = 0;
  for (; i + lanes <= size; i += lanes) store(hn::Mul(load(d, y + i), load(d, weights + i)), d, x + i);
  if (i < size) {
    const VF w = load_n(d, weights + i, size - i);
    store_n(hn::Mul(load_n(d, y + i, size - i), w), d, x + i, size - i);
  }
}

template <class T>
void decode_int4_block(const BlockFormat& format, const uint8_t* block, const Weights& weights, T* to) {
#if HWY_TARGET != HWY_SCALAR
  constexpr bool kFits = 256 / kWalshLanes <= 32;  // of vectors, in the registers or not far from them
  switch (format.width) {
    case 32: return decode_walsh<32>(format, block, weights, to);
    case 64: return decode_walsh<64>(format, block, weights, to);
    case 128: return decode_walsh<128>(format, block, weights, to);
    case 256:
      if constexpr (kFits) return decode_walsh<256>(format, block, weights, to);
  }
#endif
  const auto* scales = reinterpret_cast<const uint16_t*>(block + format.scales_at());
  const int64_t width = format.width;
  alignas(64) float y[kRows * kMaxHadamard];
  for (int32_t first = 0; first < format.chunk; first += kRows) {
    const int32_t n = std::min(kRows, format.chunk - first);
    for (int32_t t = 0; t < n; ++t) {
      decode_int4_row(block + (first + t) * format.row_bytes(), scales[first + t], width, y + t * width);
    }
    hadamard_rows(y, n, format.width, true);
    for (int32_t t = 0; t < n; ++t) {
      store_weighted(y + t * width, format.width, weights.rows, to + (first + t) * width);
    }
  }
}

template <class T>
void decode_int8_block(const BlockFormat& format, const uint8_t* block, const Weights& weights, T* to) {
  const auto* scales = reinterpret_cast<const uint16_t*>(block + format.scales_at());
  const auto* codes = reinterpret_cast<const int8_t*>(block);
  alignas(64) float y[kMaxHadamard];
  for (int64_t t = 0; t < format.chunk; ++t, to += format.width, codes += format.width) {
    if (!weights.given) {
      decode_int8_row(codes, scales[t], format.width, to);
      continue;
    }
    decode_int8_row(codes, scales[t], format.width, y);
    store_weighted(y, format.width, weights.rows, to);
  }
}

template <class T>
void decode_block(const BlockFormat& format, const uint8_t* block, const Weights& weights, T* to) {
  if (format.codec == BlockCodec::int4) decode_int4_block(format, block, weights, to);
  else decode_int8_block(format, block, weights, to);
}

void prefetch(const void* block, int64_t bytes) {
  for (int64_t b = 0; b < bytes; b += kLineBytes) __builtin_prefetch(offset_bytes(block, b));
}

void fetch_blocks(const BlockFormat& format, const ChunkFetchItem& item, int32_t begin, int32_t end) {
  const int64_t block_bytes = format.block_bytes(), decoded_bytes = format.decoded_bytes();
  const Weights weights(item.weights, format.width);
  for (int32_t i = begin; i < end; ++i) {
    if (i + kAhead < end) prefetch(item.blocks.row(item.chunks[i + kAhead]), block_bytes);
    const void* block = item.blocks.row(item.chunks[i]);
    void* slot = offset_bytes(item.slot_region, item.slot(i) * decoded_bytes);
    const auto* codes = static_cast<const uint8_t*>(block);
    if (format.codec == BlockCodec::raw) std::memcpy(slot, block, static_cast<std::size_t>(block_bytes));
    else if (format.dtype == DType::f32) decode_block(format, codes, weights, static_cast<float*>(slot));
    else decode_block(format, codes, weights, static_cast<Bf16*>(slot));
  }
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
namespace {

HWY_EXPORT(fetch_blocks);
constexpr int32_t kPiece = 32;  // chunks a work item: enough of them for many cores when there are few heads

}  // namespace

bool chunk_fetch_supports(const BlockFormat& format) {
  if (format.dtype != DType::bf16 && format.dtype != DType::f32) return false;
  if (format.chunk <= 0 || format.width <= 0) return false;
  switch (format.codec) {
    case BlockCodec::raw: return true;
    case BlockCodec::int8: return format.scales_at() % 2 == 0;
    case BlockCodec::int4: return hadamard_supports(format.width) && format.width % 16 == 0;
  }
  return false;
}

void chunk_fetch_cpu(const BlockFormat& format, std::span<const ChunkFetchItem> items) {
  int32_t most = 0;
  for (const ChunkFetchItem& item : items) most = std::max(most, *item.n);
  const int64_t pieces = (int64_t{most} + kPiece - 1) / kPiece;
  parallel_for(static_cast<int64_t>(items.size()) * pieces, [&](int64_t unit, int) {
    const ChunkFetchItem& item = items[static_cast<std::size_t>(unit / pieces)];
    const auto begin = static_cast<int32_t>(unit % pieces) * kPiece;
    HWY_DYNAMIC_DISPATCH(fetch_blocks)(format, item, begin, std::min(begin + kPiece, *item.n));
  });
}

}  // namespace skv::kernels
#endif
