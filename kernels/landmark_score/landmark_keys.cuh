// Log masses of a split's chunks from 2-bit keys on tensor cores.
//
// As landmark_rows.cuh, a row being a key: lane 4 r + c takes words c * kWords, ... of keys r and r + 8. In a word of
// 16 codes, a mask leaves in each half one code, and setting bits above it makes both bf16: 128 + code * 4^p, p the
// code's place, for three places; then the word is shifted. The heads are divided by 4^p, and what the 128 and the
// code's offset of 3 / 2 add up to is taken off at the end. All sums are integers below 2^24, and so exact in f32.
#pragma once

#include "kernels/landmark_score/landmark_device.cuh"

namespace skv::kernels::landmark {

// kWords of a key and lane: 1, 2 or 4. kSets: of four heads.
template <int kWords, int kSets>
struct KeyTiles {
  static constexpr bool kCoded = false, kKeys = true;  // scales are used up here
  static constexpr int kHeads = 4 * kSets, kMinBlocks = kWords * kSets == 8 ? 2 : 3;
  static constexpr int kProducts = 4;  // instructions a word
  static constexpr int kUnitChunks = 8;  // a lane adds up one of these for one head of a set
  using Step = uint32_t[4][kWords];      // keys r, r + 8, r + 16, r + 24 of 32

  static __device__ __forceinline__ void prepare(const ScoreArgs& args, const LandmarkScoreItem& item, int32_t first,
                                                 unsigned char* shared) {
    const int h = warp_index();
    if (h >= kHeads) return;
    const Head head = head_of(args, item, first + h);
    float* q = shared_array<float>(shared, args.mass_at) + h * kMassStride;  // masses are not there yet
    for (int32_t d = lane_index(); d < args.size; d += cuda::kWarp) q[d] = head.element(d);
    cuda::hadamard_row(args.hadamard, cuda::hadamard_signs(args.hadamard), q, args.hadamard.norm);
    const Quantiser quantiser(args.size, [&](int32_t d) { return q[d]; });
    uint2* query = shared_array<uint2>(shared, args.query_at);
    const int32_t words = args.size / 16, quarter = args.size / 4;
    HeadTerms terms;
    terms.step = quantiser.step;
    for (int32_t i = lane_index(); i < 4 * kWords * kProducts; i += cuda::kWarp) {
      const int32_t word = i / kProducts, j = i % kProducts;
      uint32_t high[2] = {0, 0}, low[2] = {0, 0};
#pragma unroll
      for (int side = 0; side < 2; ++side) {  // pairs of codes: bits 2 p of both halves of the word
        if (word >= words) continue;
        const int32_t p = 2 * j + side, element = 4 * word + p / 4 + p % 4 * quarter;
        const CodeHalves x = quantiser.halves(q[element]), y = quantiser.halves(q[element + 2]);
        const float place = p % 3 == 0 ? 1.0f : p % 3 == 1 ? 0.25f : 0.0625f;
        high[side] = cuda::pack_bf16x2(x.high * place, y.high * place);
        low[side] = cuda::pack_bf16x2(x.low * place, y.low * place);
        terms.high += (x.high + y.high) * fmaf(128.0f, place, 1.5f);
        terms.low += (x.low + y.low) * fmaf(128.0f, place, 1.5f);
      }
      const int32_t instruction = word % kWords * kProducts + j;
      uint2* to = query + (instruction * kSets + h / 4) * cuda::kWarp + 8 * (h % 4) + word / kWords;
      to[0] = {high[0], high[1]};
      to[4] = {low[0], low[1]};
    }
    terms.high = cuda::warp_sum(terms.high);
    terms.low = cuda::warp_sum(terms.low);
    if (lane_index() == 0) shared_array<HeadTerms>(shared, args.terms_at)[h] = terms;
  }

  // Keys [32 step, 32 step + 32) of the warp's.
  static __device__ __forceinline__ void load(const ScoreArgs& args, const char* const* rows, int32_t step,
                                              Step& keys) {
    const int32_t words = args.size / 16, first = lane_index() % 4 * kWords;
    const bool whole = words % kWords == 0;
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const uint32_t key = static_cast<uint32_t>(step * 32 + m * 8 + lane_index() / 4);
      const uint32_t chunk = key * args.chunk_inverse >> 16;
      const int32_t t = static_cast<int32_t>(key - chunk * static_cast<uint32_t>(args.desc.format.chunk));
      const uint32_t* from = reinterpret_cast<const uint32_t*>(rows[chunk] + t * (args.size / 4)) + first;
      if (whole && first < words) {
        load_words(from, keys[m]);
      } else {
#pragma unroll
        for (int w = 0; w < kWords; ++w) keys[m][w] = first + w < words ? __ldg(from + w) : 0;
      }
    }
  }

  static __device__ __forceinline__ void load_words(const uint32_t* from, uint32_t (&words)[kWords]) {
    if constexpr (kWords == 4) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(from));
      words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    } else if constexpr (kWords == 2) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
      words[0] = v.x, words[1] = v.y;
    } else {
      words[0] = __ldg(from);
    }
  }

  // The p-th pair of codes of a word.
  static __device__ __forceinline__ uint32_t codes(uint32_t word, int p) {
    return (word >> (6 * (p / 3)) & (0x00030003u << (2 * (p % 3)))) | 0x43004300u;
  }

  static __device__ __forceinline__ void multiply(const uint2* query, const Step& keys, float (&sums)[2][kSets][4]) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
#pragma unroll
      for (int j = 0; j < kProducts; ++j) {
        const uint2* from = query + (w * kProducts + j) * kSets * cuda::kWarp + lane_index();
        uint32_t b[kSets][2];
#pragma unroll
        for (int s = 0; s < kSets; ++s) {
          const uint2 pair = from[s * cuda::kWarp];
          b[s][0] = pair.x, b[s][1] = pair.y;
        }
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t upper = keys[2 * m][w], lower = keys[2 * m + 1][w];
          const uint32_t a[4] = {codes(upper, 2 * j), codes(lower, 2 * j), codes(upper, 2 * j + 1),
                                 codes(lower, 2 * j + 1)};
#pragma unroll
          for (int s = 0; s < kSets; ++s) cuda::mma_bf16(sums[m][s], a, b[s]);
        }
      }
    }
  }

  // Logits, but for the keys' scales, of keys `first` to first + 32 of a unit.
  static __device__ __forceinline__ void store(const ScoreArgs& args, const HeadTerms* terms, int32_t first,
                                               const float (&sums)[2][kSets][4], float* logits) {
    const int c = lane_index() % 4;
    const int32_t pitch = kUnitChunks * (args.desc.format.chunk + 1);
#pragma unroll
    for (int s = 0; s < kSets; ++s) {
      const HeadTerms& head = terms[4 * s + c];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const uint32_t key = static_cast<uint32_t>(first + m * 8 + lane_index() / 4);
        const float high = sums[m / 2][s][m % 2 * 2] - head.high, low = sums[m / 2][s][m % 2 * 2 + 1] - head.low;
        logits[(4 * s + c) * pitch + key + (key * args.chunk_inverse >> 16)] = head.step * fmaf(high, 256.0f, low);
      }
    }
  }

  // ln of the sum of exp over the keys of each of a unit's chunks.
  static __device__ __forceinline__ void add_up(const ScoreArgs& args, const uint16_t* scales, float* logits,
                                                float* mass) {
    constexpr float kLog2E = 1.44269504f;
    const int32_t chunk = args.desc.format.chunk;
    const int c = lane_index() % 4, at = lane_index() / 4;
#pragma unroll
    for (int s = 0; s < kSets; ++s) {
      float* x = logits + (4 * s + c) * kUnitChunks * (chunk + 1) + at * (chunk + 1);
      float top = -INFINITY, sum = 0.0f;
      for (int32_t t = 0; t < chunk; ++t) {
        x[t] *= cuda::f16_to_float(scales[at * chunk + t]);
        top = fmaxf(top, x[t]);
      }
      for (int32_t t = 0; t < chunk; ++t) sum += cuda::exp2_approx((x[t] - top) * kLog2E);
      mass[(4 * s + c) * kMassStride + at] = top + logf(sum);
    }
  }

  static __device__ __forceinline__ const char* const* warp_rows(unsigned char* shared) {
    return shared_array<const char*>(shared, 0) + warp_index() * kWarpRows;
  }

  // Registers are short while a head is rotated, and the loop below is long.
  static __device__ __forceinline__ void begin(const ScoreArgs&, unsigned char*, Step&) {}

  // mass[h, row] = log mass, of the warp's rows.
  static __device__ __forceinline__ void measure(const ScoreArgs& args, int32_t, unsigned char* shared, Step& now) {
    const int warp = warp_index(), chunk = args.desc.format.chunk;
    const char* const* rows = warp_rows(shared);
    const uint2* query = shared_array<uint2>(shared, args.query_at);
    const HeadTerms* terms = shared_array<HeadTerms>(shared, args.terms_at);
    const uint16_t* scales = shared_array<uint16_t>(shared, args.scales_at) + warp * kWarpRows * chunk;
    float* logits = shared_array<float>(shared, args.logits_at) + warp * kHeads * kUnitChunks * (chunk + 1);
    float* mass = shared_array<float>(shared, args.mass_at) + warp * kWarpRows;
    const int32_t unit_steps = chunk * kUnitChunks / 32;
    load(args, rows, 0, now);
    for (int32_t step = 0, unit = 0, in_unit = 0; step < chunk; ++step) {  // 32 keys each of the warp's 32 chunks
      Step next = {};
      if (step + 1 < chunk) load(args, rows, step + 1, next);
      float sums[2][kSets][4] = {};
      multiply(query, now, sums);
      store(args, terms, in_unit * 32, sums, logits);
      if (++in_unit == unit_steps) {
        __syncwarp();
        add_up(args, scales + unit * kUnitChunks * chunk, logits, mass + unit * kUnitChunks);
        __syncwarp();
        ++unit, in_unit = 0;
      }
#pragma unroll
      for (int m = 0; m < 4; ++m) {
#pragma unroll
        for (int w = 0; w < kWords; ++w) now[m][w] = next[m][w];
      }
    }
  }
};

}  // namespace skv::kernels::landmark
