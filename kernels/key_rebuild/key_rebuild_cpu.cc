#include "kernels/key_rebuild/key_rebuild.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/key_rebuild/key_rebuild_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/parallel.h"
#include "kernels/common/row_codec-inl.h"
#include "kernels/common/simd-inl.h"

#ifndef SKV_KERNELS_KEY_REBUILD_LIMITS
#define SKV_KERNELS_KEY_REBUILD_LIMITS
namespace skv::kernels {
inline constexpr int64_t kRebuildRows = 32;   // keys of one unit of work, at least one chunk
inline constexpr int64_t kRebuildDim = 256;   // largest head_dim
inline constexpr int64_t kRebuildRank = 256;  // columns of A widened at a time
}  // namespace skv::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {  // helpers of the same name in other ops must stay apart

#if HWY_TARGET <= HWY_AVX3
inline constexpr int64_t kRebuildTile = 8;  // keys in registers at once, two vectors each
#else
inline constexpr int64_t kRebuildTile = 4;
#endif
static_assert(kRebuildRows % kRebuildTile == 0);

// out[row, :] (+)= a[row, :] b[:, 0 .. NV vectors) for kRebuildTile rows.
template <int NV, class T>
HWY_INLINE void tile(const float* HWY_RESTRICT a, const T* HWY_RESTRICT b, int64_t dim, int64_t kc,
                     float* HWY_RESTRICT out, bool first) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  VF acc[kRebuildTile][NV];
#pragma GCC unroll 8
  for (int64_t i = 0; i < kRebuildTile; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) acc[i][v] = first ? hn::Zero(d) : hn::Load(d, out + i * dim + v * lanes);
  for (int64_t k = 0; k < kc; ++k) {
    VF w[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) w[v] = load(d, b + k * dim + v * lanes);
#pragma GCC unroll 8
    for (int64_t i = 0; i < kRebuildTile; ++i) {
      const VF x = hn::Set(d, a[i * kRebuildRank + k]);
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) acc[i][v] = hn::MulAdd(x, w[v], acc[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < kRebuildTile; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) hn::Store(acc[i][v], d, out + i * dim + v * lanes);
}

template <class T>
void widen(const T* src, int64_t n, float* dst) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(load(d, src + i), d, dst + i);
  if (i < n) store_n(load_n(d, src + i, n - i), d, dst + i, n - i);
}

// Elements [begin, begin + n) of row t of a block of A.
template <class T>
void load_row(const BlockFormat& format, const void* block, int64_t t, int64_t begin, int64_t n, float* dst) {
  if (format.codec == BlockCodec::raw)
    return widen(static_cast<const T*>(block) + t * format.width + begin, n, dst);
  const auto* codes = static_cast<const int8_t*>(block);
  uint16_t scale;
  std::memcpy(&scale, codes + format.scales_at() + 2 * t, sizeof(scale));
  decode_int8_row(codes + t * format.width + begin, scale, n, dst);
}

// Cos and sin of the position's rotation, times the attention factor: the product of the two tabulated rotations.
HWY_INLINE void rotation(F32 d, const float* lo, const float* hi, VF factor, VF& c, VF& s) {
  VF cl, sl, ch, sh;
  hn::LoadInterleaved2(d, lo, cl, sl);
  hn::LoadInterleaved2(d, hi, ch, sh);
  c = hn::Mul(factor, hn::MulSub(ch, cl, hn::Mul(sh, sl)));
  s = hn::Mul(factor, hn::MulAdd(sh, cl, hn::Mul(ch, sl)));
}

void rotate_row(const RopeView& rope, int64_t position, float* k) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t half = rope.rotary_dim / 2;
  const float* lo = rope.lo + position % kRopeLow * half * 2;
  const float* hi = rope.hi + position / kRopeLow * half * 2;
  const VF factor = hn::Set(d, rope.attention_factor);
  VF c, s, x, y;
  int64_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    rotation(d, lo + 2 * i, hi + 2 * i, factor, c, s);
    if (rope.interleaved) {
      hn::LoadInterleaved2(d, k + 2 * i, x, y);
      hn::StoreInterleaved2(hn::NegMulAdd(y, s, hn::Mul(x, c)), hn::MulAdd(x, s, hn::Mul(y, c)), d, k + 2 * i);
    } else {
      x = hn::LoadU(d, k + i);
      y = hn::LoadU(d, k + half + i);
      hn::StoreU(hn::NegMulAdd(y, s, hn::Mul(x, c)), d, k + i);
      hn::StoreU(hn::MulAdd(x, s, hn::Mul(y, c)), d, k + half + i);
    }
  }
  for (; i < half; ++i) {
    const float cl = lo[2 * i], sl = lo[2 * i + 1], ch = hi[2 * i], sh = hi[2 * i + 1];
    const float cs = rope.attention_factor * (ch * cl - sh * sl), sn = rope.attention_factor * (sh * cl + ch * sl);
    float& u = k[rope.interleaved ? 2 * i : i];
    float& v = k[rope.interleaved ? 2 * i + 1 : i + half];
    const float rotated = u * cs - v * sn;
    v = v * cs + u * sn;
    u = rotated;
  }
}

// Keys of `n` chunks of one segment: gather their rows of A, multiply by b in column panels that stay in the L1
// cache, then centre, rotation and the one rounding.
template <class T>
void rebuild_chunks(const KeyRebuildDesc& desc, const KeyRebuildItem& item, const BasisSegment& segment,
                    int32_t begin, int32_t n) {
  HWY_ALIGN float a[kRebuildRows * kRebuildRank];
  HWY_ALIGN float out[kRebuildRows * kRebuildDim];
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t r = desc.rank, dim = desc.head_dim, rows = static_cast<int64_t>(n) * desc.chunk;
  const int64_t padded = static_cast<int64_t>(round_up(static_cast<std::size_t>(rows), kRebuildTile));
  const T* b = static_cast<const T*>(segment.b);
  for (int64_t k0 = 0; k0 < r; k0 += kRebuildRank) {
    const int64_t kc = std::min(kRebuildRank, r - k0);
    for (int64_t row = 0; row < padded; ++row) {
      float* target = a + row * kRebuildRank;
      if (row >= rows) {
        std::fill_n(target, kc, 0.0f);
        continue;
      }
      const void* block = item.a.row(item.chunks[begin + row / desc.chunk]);
      load_row<T>(desc.a_format(), block, row % desc.chunk, k0, kc, target);
    }
    int64_t j = 0;
    for (; j + 2 * lanes <= dim; j += 2 * lanes)
      for (int64_t row = 0; row < padded; row += kRebuildTile)
        tile<2>(a + row * kRebuildRank, b + k0 * dim + j, dim, kc, out + row * dim + j, k0 == 0);
    for (; j < dim; j += lanes)
      for (int64_t row = 0; row < padded; row += kRebuildTile)
        tile<1>(a + row * kRebuildRank, b + k0 * dim + j, dim, kc, out + row * dim + j, k0 == 0);
  }
  const T* mu = static_cast<const T*>(segment.mu);
  for (int64_t row = 0; row < rows; ++row) {
    float* k = out + row * dim;
    const int64_t i = begin + row / desc.chunk, t = row % desc.chunk;
    for (int64_t j = 0; j < dim; j += lanes) hn::Store(hn::Add(hn::Load(d, k + j), load(d, mu + j)), d, k + j);
    if (desc.rope.rotary_dim > 0) rotate_row(desc.rope, static_cast<int64_t>(item.chunks[i]) * desc.chunk + t, k);
    T* slot = static_cast<T*>(item.slot_region) + (static_cast<int64_t>(item.slot(i)) * desc.chunk + t) * dim;
    for (int64_t j = 0; j < dim; j += lanes) store(hn::Load(d, k + j), d, slot + j);
  }
}

int32_t segment_index(const KeyRebuildItem& item, int32_t chunk) {
  int32_t s = item.n_segments - 1;
  while (s > 0 && item.segments[s].first_chunk > chunk) --s;
  return s;
}

// A unit of work is at most kRebuildRows keys of one item, so that a long list of one head spreads over the workers.
template <class T>
void rebuild(const KeyRebuildDesc& desc, std::span<const KeyRebuildItem> items) {
  const int32_t group = std::max<int32_t>(1, static_cast<int32_t>(kRebuildRows) / desc.chunk);
  int64_t groups = 0;
  for (const KeyRebuildItem& item : items) groups = std::max<int64_t>(groups, (*item.n + group - 1) / group);
  parallel_for(static_cast<int64_t>(items.size()) * groups, [&](int64_t unit, int) HWY_ATTR {
    const KeyRebuildItem& item = items[static_cast<std::size_t>(unit / groups)];
    int32_t i = static_cast<int32_t>(unit % groups) * group;
    const int32_t end = std::min(i + group, *item.n);
    while (i < end) {
      const int32_t s = segment_index(item, item.chunks[i]);
      int32_t next = i + 1;
      while (next < end && segment_index(item, item.chunks[next]) == s) ++next;
      rebuild_chunks<T>(desc, item, item.segments[s], i, next - i);
      i = next;
    }
  });
}

void key_rebuild_simd(const KeyRebuildDesc& desc, std::span<const KeyRebuildItem> items) {
  if (desc.dtype == DType::bf16) rebuild<Bf16>(desc, items);
  else rebuild<float>(desc, items);
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
HWY_EXPORT(key_rebuild_simd);

bool key_rebuild_supports(const KeyRebuildDesc& desc) {
  const RopeView& rope = desc.rope;
  const bool coded = desc.a_codec == BlockCodec::raw || desc.a_codec == BlockCodec::int8;
  return coded && desc.dtype != DType::f16 && desc.rank >= 1 && desc.chunk >= 1 && desc.chunk <= kRebuildRows &&
         desc.head_dim >= 16 && desc.head_dim <= kRebuildDim && desc.head_dim % 16 == 0 && rope.rotary_dim >= 0 &&
         rope.rotary_dim <= desc.head_dim && rope.rotary_dim % 2 == 0;
}

void key_rebuild_cpu(const KeyRebuildDesc& desc, std::span<const KeyRebuildItem> items) {
  HWY_DYNAMIC_DISPATCH(key_rebuild_simd)(desc, items);
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
