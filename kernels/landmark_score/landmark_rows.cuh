// Dot products of a split's rows with query heads on tensor cores, straight from registers.
//
// A warp multiplies 16 rows (A of m16n8k16) by four heads, each in two columns (B): a bf16 and what it leaves of the
// f32, which is 16 bits of a head or, of 16-bit codes, both halves, exactly. Products do not care for the order of
// elements, so lane 4 r + c takes 16-byte units c, c + 4, c + 8, ... of rows r and r + 8 as they lie in memory, four
// elements an instruction, and the heads are laid out to match. int8 codes become bf16 first, exactly; sums of codes
// are integers below 2^24, exact in f32.
#pragma once

#include "kernels/landmark_score/landmark_device.cuh"

namespace skv::kernels::landmark {

// Two int8 pairs of a word as bf16 pairs: 2^23 + (x + 128) by setting bits, whose difference from 2^23 + 128 has all
// of x in its upper half.
__device__ __forceinline__ uint2 widen_codes(uint32_t word) {
  const uint32_t biased = word ^ 0x80808080u;
  const auto widened = [biased](int i) {
    return __float_as_uint(__uint_as_float(0x4b000000u | (biased >> (8 * i) & 0xffu)) - 8388736.0f);
  };
  return {__byte_perm(widened(0), widened(1), 0x7632), __byte_perm(widened(2), widened(3), 0x7632)};
}

// Coded: rows of int8, else bf16. A step is kTiles times 16 rows and kUnits units a lane of each: what a warp has in
// flight is two steps. kSets: of four heads.
template <bool Coded, int kTiles, int kUnits, int kSets>
struct RowTiles {
  static constexpr bool kCoded = Coded, kKeys = false;
  static constexpr int kHeads = 4 * kSets;
  static constexpr int kMinBlocks = kTiles == 1 ? 2 : 3;  // of a multiprocessor
  static constexpr int kProducts = Coded ? 4 : 2;  // instructions a unit
  using Step = uint4[kTiles][2][kUnits];

  static __device__ __forceinline__ void prepare(const ScoreArgs& args, const LandmarkScoreItem& item, int32_t first,
                                                 unsigned char* shared) {
    const int h = warp_index();
    if (h >= kHeads) return;
    const Head head = head_of(args, item, first + h);
    HeadTerms terms;
    terms.spread = spread_of(args, head);
    if constexpr (Coded) {
      const Quantiser quantiser(args.size, [&](int32_t e) { return head.element(e); });
      terms.step = quantiser.step;
      lay_out(args, h, shared, [&](int32_t e) { return quantiser.halves(head.element(e)); });
    } else {
      lay_out(args, h, shared, [&](int32_t e) {
        const float x = head.element(e), high = bf16_to_f32(f32_to_bf16(x)), rest = x - high;
        return CodeHalves{high, rest == rest ? rest : 0.0f};  // of an infinity, or NaN, nothing is left
      });
    }
    if (lane_index() == 0) shared_array<HeadTerms>(shared, args.terms_at)[h] = terms;
  }

  // B of every instruction, [instruction, set, lane]: column 2 (h % 4) the high halves, the next the low ones.
  template <class Halves>
  static __device__ __forceinline__ void lay_out(const ScoreArgs& args, int h, unsigned char* shared,
                                                 Halves&& halves) {
    uint2* query = shared_array<uint2>(shared, args.query_at);
    for (int32_t i = lane_index(); i < args.query_groups * 4 * kProducts; i += cuda::kWarp) {  // of four elements
      const int32_t unit = i / kProducts, instruction = unit / 4 * kProducts + i % kProducts;
      const CodeHalves x0 = halves(4 * i), x1 = halves(4 * i + 1), x2 = halves(4 * i + 2), x3 = halves(4 * i + 3);
      uint2* to = query + (instruction * kSets + h / 4) * cuda::kWarp + 8 * (h % 4) + unit % 4;
      to[0] = {cuda::pack_bf16x2(x0.high, x1.high), cuda::pack_bf16x2(x2.high, x3.high)};
      to[4] = {cuda::pack_bf16x2(x0.low, x1.low), cuda::pack_bf16x2(x2.low, x3.low)};
    }
  }

  static __device__ __forceinline__ void load(const ScoreArgs& args, const char* const* rows, int32_t tile,
                                              int32_t part, Step& step) {
    const int r = lane_index() / 4, c = lane_index() % 4;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const char* row = rows[(tile + m) * 16 + half * 8 + r];
#pragma unroll
        for (int u = 0; u < kUnits; ++u) {
          const int32_t unit = (part * kUnits + u) * 4 + c;
          step[m][half][u] = unit < args.row_units ? cuda::load_once(row + 16 * unit) : uint4{0, 0, 0, 0};
        }
      }
    }
  }

  static __device__ __forceinline__ void multiply(const uint2* query, int32_t part, const Step& step,
                                                  float (&sums)[kTiles][kSets][4]) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
#pragma unroll
      for (int j = 0; j < kProducts; ++j) {
        const uint2* from = query + ((part * kUnits + u) * kProducts + j) * kSets * cuda::kWarp + lane_index();
        uint32_t b[kSets][2];
#pragma unroll
        for (int s = 0; s < kSets; ++s) {
          const uint2 pair = from[s * cuda::kWarp];
          b[s][0] = pair.x, b[s][1] = pair.y;
        }
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          const uint2 upper = elements(step[m][0][u], j), lower = elements(step[m][1][u], j);
          const uint32_t a[4] = {upper.x, lower.x, upper.y, lower.y};
#pragma unroll
          for (int s = 0; s < kSets; ++s) cuda::mma_bf16(sums[m][s], a, b[s]);
        }
      }
    }
  }

  // The j-th four elements of a unit, as bf16.
  static __device__ __forceinline__ uint2 elements(const uint4& unit, int j) {
    if constexpr (Coded) return widen_codes(j == 0 ? unit.x : j == 1 ? unit.y : j == 2 ? unit.z : unit.w);
    else return j == 0 ? uint2{unit.x, unit.y} : uint2{unit.z, unit.w};
  }

  static __device__ __forceinline__ float join(float high, float low) {
    if constexpr (Coded) return fmaf(high, 256.0f, low);
    else return fabsf(high) < INFINITY ? high + low : high;  // an infinity in a row times low may be the other one
  }

  static __device__ __forceinline__ void store(int32_t tile, float (&sums)[kTiles][kSets][4], float* mass) {
    const int r = lane_index() / 4, c = lane_index() % 4;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int s = 0; s < kSets; ++s) {
        float* to = mass + (4 * s + c) * kMassStride + (tile + m) * 16 + r;
        to[0] = join(sums[m][s][0], sums[m][s][1]);
        to[8] = join(sums[m][s][2], sums[m][s][3]);
        sums[m][s][0] = sums[m][s][1] = sums[m][s][2] = sums[m][s][3] = 0.0f;
      }
    }
  }

  static __device__ __forceinline__ const char* const* warp_rows(unsigned char* shared) {
    return shared_array<const char*>(shared, 0) + warp_index() * kWarpRows;
  }

  // Asks for the warp's first rows, which arrive while the heads are prepared.
  static __device__ __forceinline__ void begin(const ScoreArgs& args, unsigned char* shared, Step& now) {
    load(args, warp_rows(shared), 0, 0, now);
  }

  // mass[h, row] = dot product, of the warp's rows.
  static __device__ __forceinline__ void measure(const ScoreArgs& args, int32_t, unsigned char* shared, Step& now) {
    const uint2* query = shared_array<uint2>(shared, args.query_at);
    float* mass = shared_array<float>(shared, args.mass_at) + warp_index() * kWarpRows;
    float sums[kTiles][kSets][4] = {};
    if constexpr (kTiles * 16 == kWarpRows) {
      multiply(query, 0, now, sums);
      store(0, sums, mass);
    } else {
      measure_steps(args, warp_rows(shared), query, mass, now, sums);
    }
  }

  static __device__ __forceinline__ void measure_steps(const ScoreArgs& args, const char* const* rows,
                                                       const uint2* query, float* mass, Step& now,
                                                       float (&sums)[kTiles][kSets][4]) {
    const int32_t parts = args.query_groups / kUnits;
    for (int32_t tile = 0, part = 0; tile < kWarpRows / 16;) {
      const bool last = part + 1 == parts;
      const int32_t next_tile = last ? tile + kTiles : tile, next_part = last ? 0 : part + 1;
      Step next = {};
      if (next_tile < kWarpRows / 16) load(args, rows, next_tile, next_part, next);
      multiply(query, part, now, sums);
      if (last) store(tile, sums, mass);
      copy(next, now);
      tile = next_tile, part = next_part;
    }
  }

  static __device__ __forceinline__ void copy(const Step& from, Step& to) {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int u = 0; u < kUnits; ++u) to[m][half][u] = from[m][half][u];
      }
    }
  }
};

// Every other format: f32 rows, and rows that are no multiple of 16 bytes. A row a warp at a time.
template <class T>
struct PlainRows {
  static constexpr bool kCoded = sizeof(T) == 1, kKeys = false;
  static constexpr int kHeads = 8, kMinBlocks = 2;
  struct Step {};
  using Sum = std::conditional_t<kCoded, int32_t, float>;

  static __device__ __forceinline__ void prepare(const ScoreArgs& args, const LandmarkScoreItem& item, int32_t first,
                                                 unsigned char* shared) {
    const int h = warp_index();
    const Head head = head_of(args, item, first + h);
    Sum* query = shared_array<Sum>(shared, args.query_at) + h * args.size;
    HeadTerms terms;
    terms.spread = spread_of(args, head);
    if constexpr (kCoded) {
      const Quantiser quantiser(args.size, [&](int32_t e) { return head.element(e); });
      terms.step = quantiser.step;
      for (int32_t e = lane_index(); e < args.size; e += cuda::kWarp) query[e] = quantiser.code(head.element(e));
    } else {
      for (int32_t e = lane_index(); e < args.size; e += cuda::kWarp) query[e] = head.element(e);
    }
    if (lane_index() == 0) shared_array<HeadTerms>(shared, args.terms_at)[h] = terms;
  }

  static __device__ __forceinline__ float load(const float* row, int32_t e) { return row[e]; }
  static __device__ __forceinline__ float load(const uint16_t* row, int32_t e) { return bf16_to_f32(row[e]); }
  static __device__ __forceinline__ int32_t load(const int8_t* row, int32_t e) { return row[e]; }

  static __device__ __forceinline__ float add(float x, float y, float sum) { return fmaf(x, y, sum); }
  static __device__ __forceinline__ int32_t add(int32_t x, int32_t y, int32_t sum) { return x * y + sum; }

  static __device__ __forceinline__ void begin(const ScoreArgs&, unsigned char*, Step&) {}

  static __device__ __forceinline__ void measure(const ScoreArgs& args, int32_t n, unsigned char* shared, Step&) {
    const char* const* rows = shared_array<const char*>(shared, 0);
    const Sum* query = shared_array<Sum>(shared, args.query_at);
    float* mass = shared_array<float>(shared, args.mass_at);
    const int32_t end = min(n, (warp_index() + 1) * kWarpRows);
    for (int32_t r = warp_index() * kWarpRows; r < end; ++r) {
      const T* row = reinterpret_cast<const T*>(rows[r]);
      Sum sums[kHeads] = {};
#pragma unroll 4
      for (int32_t e = lane_index(); e < args.size; e += cuda::kWarp) {
        const Sum x = load(row, e);
#pragma unroll
        for (int h = 0; h < kHeads; ++h) sums[h] = add(x, query[h * args.size + e], sums[h]);
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const Sum sum = cuda::warp_sum(sums[h]);
        if (lane_index() == h) mass[h * kMassStride + r] = static_cast<float>(sum);
      }
    }
  }
};

}  // namespace skv::kernels::landmark
