// Log masses from 2-bit keys. Per target, as simd-inl.h.
//
// A vector lane is a chunk: the rows of kLanes chunks are transposed word by word, so that sums over elements need no
// reduction and those over a chunk's keys run across vectors. In a word of 16 codes, shifting each half by 2 s leaves
// in its low bits the codes of two elements, which one multiply-add takes: byte s / 4 of the half, quarter s % 4 of
// the key.
#if defined(SKV_KERNELS_LANDMARK_SCORE_LANDMARK_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SKV_KERNELS_LANDMARK_SCORE_LANDMARK_KEYS_INL_H_
#undef SKV_KERNELS_LANDMARK_SCORE_LANDMARK_KEYS_INL_H_
#else
#define SKV_KERNELS_LANDMARK_SCORE_LANDMARK_KEYS_INL_H_
#endif

#include "kernels/landmark_score/landmark_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

inline constexpr int kChunkLanes = static_cast<int>(hn::MaxLanes(F32()));
inline constexpr std::size_t kMaxKeyWords = kMaxKeyDim / 16;

// Two elements of every head, as shifts of a word bring them forth: pairs[(8 word + s) * kTileHeads + g]; and what
// makes an estimate of scale * q . k of their products with a key's codes, u being code - 3 / 2:
// key scale * step * (start + sum of products - half), start - half = -3 / 2 sum_d code of q.
struct KeyQueries {
  alignas(64) int32_t pairs[kMaxKeyDim / 2 * kTileHeads];
  int32_t start[kTileHeads];
  float half[kTileHeads];
  float step[kTileHeads];
};

HWY_INLINE void pack_key_queries(const LandmarkScoreDesc& desc, QueryRows* q, int heads, KeyQueries* out) {
  const int32_t dim = desc.format.head_dim, quarter = dim / 4;
  hadamard_rows(q->rows, heads, dim, false);
  QueryCodes codes;
  quantise_queries(*q, heads, &codes);
  for (int g = 0; g < heads; ++g) {
    const int16_t* code = codes.codes + static_cast<std::size_t>(g) * codes.stride;
    int32_t sum = 0;
    for (int32_t i = 0; i < dim; ++i) sum += code[i];
    out->start[g] = -(3 * sum >> 1);  // rounded up
    out->half[g] = static_cast<float>(3 * sum & 1) * 0.5f;
    out->step[g] = codes.step[g];
    for (int32_t at = 0; at < dim / 2; ++at) {
      const int32_t byte = at / 8 * 4 + at % 8 / 4, element = byte + at % 4 * quarter;
      const auto low = static_cast<uint16_t>(code[element]), high = static_cast<uint16_t>(code[element + 2]);
      out->pairs[at * kTileHeads + g] = static_cast<int32_t>(uint32_t{high} << 16 | low);
    }
  }
}

// out[w * kChunkLanes + l] = word w, of 4 bytes, of row l. words is a multiple of 4, and rows need no alignment.
template <class T, class Word>
HWY_INLINE void transpose_words(const T* const* rows, std::size_t words, Word* out) {
#if HWY_TARGET == HWY_SCALAR
  std::memcpy(out, rows[0], 4 * words);
#else
  const hn::Full128<Word> d;
  const hn::RepartitionToWide<decltype(d)> dw;
  const hn::Repartition<uint8_t, decltype(d)> d8;
  for (std::size_t l = 0; l < kChunkLanes; l += 4) {
    for (std::size_t w = 0; w < words; w += 4) {
      const auto row = [&](std::size_t r) SKV_INLINE_LAMBDA {
        return hn::BitCast(d, hn::LoadU(d8, reinterpret_cast<const uint8_t*>(rows[l + r]) + 4 * w));
      };
      const auto r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
      const auto ab_low = hn::BitCast(dw, hn::InterleaveLower(d, r0, r1));
      const auto cd_low = hn::BitCast(dw, hn::InterleaveLower(d, r2, r3));
      const auto ab_high = hn::BitCast(dw, hn::InterleaveUpper(d, r0, r1));
      const auto cd_high = hn::BitCast(dw, hn::InterleaveUpper(d, r2, r3));
      Word* to = out + w * kChunkLanes + l;
      hn::Store(hn::BitCast(d, hn::InterleaveLower(dw, ab_low, cd_low)), d, to);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(dw, ab_low, cd_low)), d, to + kChunkLanes);
      hn::Store(hn::BitCast(d, hn::InterleaveLower(dw, ab_high, cd_high)), d, to + 2 * kChunkLanes);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(dw, ab_high, cd_high)), d, to + 3 * kChunkLanes);
    }
  }
#endif
}

// sum + the products of the two 16-bit halves of codes (each below 2^15) and pair, in pairs of sums as
// hn::ReorderWidenMulAccumulate keeps them.
HWY_INLINE VI32 add_products(VI32 codes, VI32 pair, VI32 low, [[maybe_unused]] VI32& high) {
#if HWY_TARGET == HWY_SCALAR
  const int32_t c = hn::GetLane(codes), p = hn::GetLane(pair);
  return hn::Add(low, hn::Set(I32(), (c & 0xffff) * static_cast<int16_t>(p & 0xffff) + (c >> 16) * (p >> 16)));
#else
  low = hn::ReorderWidenMulAccumulate(I32(), hn::BitCast(I16(), codes), hn::BitCast(I16(), pair), low, high);
#if HWY_COMPILER_GCC && HWY_ARCH_X86
  // Else GCC moves all additions of a loop behind its last multiplication, and runs out of registers.
  asm("" : "+v"(low.raw));
#endif
  return low;
#endif
}

// logits[(g * chunk + t) * kChunkLanes + l] = w of G heads from `head` on and four keys t of kChunkLanes
// chunks. words, scales: the first of the four keys', transposed. ahead: kChunkLanes rows to bring near meanwhile, as
// many bytes as four keys take from `ahead_at` on, or null.
template <int G>
HWY_INLINE void score_four_keys(const uint32_t* words, std::size_t key_words, const float* scales,
                                const KeyQueries& q, int head, float* logits, std::size_t chunk,
                                const uint8_t* const* ahead, std::size_t ahead_at) {
  const F32 d;
  const I32 d32;
  const hn::RebindToUnsigned<I32> du32;
  VI32 low[G * 4], high[G * 4];
  unroll<G * 4>([&](auto i) SKV_INLINE_LAMBDA {
    low[i] = hn::Set(d32, q.start[head + i / 4]);
    high[i] = hn::Zero(d32);
  });
  const auto mask = hn::Set(du32, 0x00030003u);
  const int32_t* pairs = q.pairs + head;
  for (std::size_t w = 0; w < key_words; ++w) {
    hn::Vec<decltype(du32)> word[4];
    unroll<4>([&](auto r) SKV_INLINE_LAMBDA {
      word[r] = hn::Load(du32, words + (static_cast<std::size_t>(r()) * key_words + w) * kChunkLanes);
      const std::size_t line = 4 * w + static_cast<std::size_t>(r());
      if (ahead != nullptr) __builtin_prefetch(ahead[line % kChunkLanes] + ahead_at + line / kChunkLanes * 64);
    });
    for (int s = 0; s < 8; ++s, pairs += kTileHeads) {
      VI32 codes[4];
      unroll<4>([&](auto r) SKV_INLINE_LAMBDA {
        codes[r] = hn::BitCast(d32, hn::And(word[r], mask));
        word[r] = hn::ShiftRight<2>(word[r]);
      });
      unroll<G>([&](auto g) SKV_INLINE_LAMBDA {
        const VI32 pair = hn::Set(d32, pairs[g()]);
        unroll<4>([&](auto r) SKV_INLINE_LAMBDA {
          constexpr int at = 4 * decltype(g)::value + decltype(r)::value;
          low[at] = add_products(codes[r], pair, low[at], high[at]);
        });
      });
    }
  }
  unroll<G>([&](auto g) SKV_INLINE_LAMBDA {
    const int h = head + g;
    const VF step = hn::Set(d, q.step[h]), half = hn::Set(d, q.half[h]);
    unroll<4>([&](auto r) SKV_INLINE_LAMBDA {
      const VI32 sum = hn::RearrangeToOddPlusEven(low[4 * g + r], high[4 * g + r]);
      const VF centred = hn::Sub(hn::ConvertTo(d, sum), half);
      const VF a = hn::Load(d, scales + r * kChunkLanes);
      hn::Store(hn::Mul(a, hn::Mul(step, centred)), d,
                logits + (static_cast<std::size_t>(h) * chunk + r) * kChunkLanes);
    });
  });
}

HWY_INLINE void score_keys(const uint32_t* words, std::size_t key_words, const float* scales, const KeyQueries& q,
                           int heads, float* logits, std::size_t chunk, const uint8_t* const* ahead,
                           std::size_t ahead_at) {
  int g = 0;
  for (; g + kWideHeads <= heads; g += kWideHeads, ahead = nullptr) {
    score_four_keys<kWideHeads>(words, key_words, scales, q, g, logits, chunk, ahead, ahead_at);
  }
  if (kWideHeads > 2 && g + 2 <= heads) {
    score_four_keys<2>(words, key_words, scales, q, g, logits, chunk, ahead, ahead_at);
    g += 2;
    ahead = nullptr;
  }
  if (g < heads) score_four_keys<1>(words, key_words, scales, q, g, logits, chunk, ahead, ahead_at);
}

// ln x for x in [1, 2^23]; NaN stays NaN. x = 2^e m, m in [0.7, 1.42); series in z = (m - 1) / (m + 1) to z^9.
HWY_INLINE VF log_above_one(F32 d, VF x) {
  const hn::RebindToSigned<F32> di;
  const auto bits = hn::BitCast(di, x);
  const auto e = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(di, 0x3f3504f3)));  // the bits of sqrt(1/2)
  const VF m = hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(e)));
  const VF one = hn::Set(d, 1.0f);
  const VF z = hn::Div(hn::Sub(m, one), hn::Add(m, one)), z2 = hn::Mul(z, z);
  VF p = hn::Set(d, 2.0f / 9);
  p = hn::MulAdd(p, z2, hn::Set(d, 2.0f / 7));
  p = hn::MulAdd(p, z2, hn::Set(d, 2.0f / 5));
  p = hn::MulAdd(p, z2, hn::Set(d, 2.0f / 3));
  p = hn::MulAdd(p, z2, hn::Set(d, 2.0f));
  const VF result = hn::MulAdd(hn::ConvertTo(d, e), hn::Set(d, 0.693147181f), hn::Mul(p, z));
  return hn::IfThenElse(hn::IsNaN(x), x, result);
}

// ln of the sum of exp over the keys of every chunk.
HWY_INLINE VF log_sum_of_keys(F32 d, const float* logits, std::size_t chunk) {
  VF top = hn::Load(d, logits);
  for (std::size_t t = 1; t < chunk; ++t) top = hn::Max(top, hn::Load(d, logits + t * kChunkLanes));
  VF sum = hn::Zero(d);
  for (std::size_t t = 0; t < chunk; ++t) {
    sum = hn::Add(sum, exp(d, hn::Sub(hn::Load(d, logits + t * kChunkLanes), top)));
  }
  return hn::Add(top, log_above_one(d, sum));
}

// mass[g * stride + r] for heads and chunks [first, first + n). q is used up.
HWY_INLINE void key_mass(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item, int32_t first, int32_t n,
                         QueryRows* q, int heads, float* mass, std::size_t stride) {
  const F32 d;
  const auto chunk = static_cast<std::size_t>(desc.format.chunk);
  const auto key_words = static_cast<std::size_t>(desc.format.head_dim) / 16;
  KeyQueries queries;
  pack_key_queries(desc, q, heads, &queries);
  alignas(64) uint32_t words[kMaxKeyChunk * kMaxKeyWords * kChunkLanes];
  alignas(64) float scales[kMaxKeyChunk * kChunkLanes], logits[kTileHeads * kMaxKeyChunk * kChunkLanes];
  float rows_of_scales[kMaxKeyChunk * kChunkLanes + kHalfPad];
  DigestCursor<uint8_t> cursor(item.digest.rows, first, n);
  const uint8_t* rows[2][kChunkLanes] = {};
  const float* scale_rows[kChunkLanes];
  int count = cursor.fill(rows[0], kChunkLanes), turn = 0;
  for (int32_t done = 0; count > 0; turn ^= 1) {
    const int next = cursor.fill(rows[turn ^ 1], kChunkLanes);
    load_halves(item.digest.scales, first + done, count, desc.format.chunk, rows_of_scales);
    for (int l = 0; l < kChunkLanes; ++l) {  // the last chunk stands in for missing ones
      const int from = std::min(l, count - 1);
      rows[turn][l] = rows[turn][from];
      scale_rows[l] = rows_of_scales + static_cast<std::size_t>(from) * chunk;
    }
    transpose_words(rows[turn], chunk * key_words, words);
    transpose_words(scale_rows, chunk, scales);
    const uint8_t* const* ahead = next == kChunkLanes ? rows[turn ^ 1] : nullptr;
    for (std::size_t t = 0; t < chunk; t += 4) {
      score_keys(words + t * key_words * kChunkLanes, key_words, scales + t * kChunkLanes, queries, heads,
                 logits + t * kChunkLanes, chunk, ahead, t * key_words * 4);
    }
    for (int g = 0; g < heads; ++g) {
      const VF m = log_sum_of_keys(d, logits + static_cast<std::size_t>(g) * chunk * kChunkLanes, chunk);
      float* to = mass + static_cast<std::size_t>(g) * stride + done;
      if (count == kChunkLanes) hn::StoreU(m, d, to);
      else store_n(m, d, to, static_cast<std::size_t>(count));
    }
    done += count;
    count = next;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();
#endif
