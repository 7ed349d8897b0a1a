// Sizes: how many bytes each piece of a sequence takes. The store allocates by these and the budget adds them up.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/ops.h"
#include "lib/kv/policy.h"
#include "shadowkv/types.h"

namespace skv::kv {

// Granularity of growth. Exact pages are small because a compressed sequence keeps a few of them for good; compressed
// pages are counted in tokens so that they hold whole chunks of any size.
inline constexpr int32_t kExactPageTokens = 64;
inline constexpr int32_t kSealedPageTokens = 512;
inline constexpr int32_t kOutliersPerPage = 8;
inline constexpr int32_t kExcludedStep = 4096;  // chunks; growth of the bitset of chunks not to be scored
inline constexpr int32_t kMaxRowTokens = 64;    // tokens of one decode row

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

struct Layout {
  Geometry geometry;
  Policy policy;

  int64_t element() const { return dtype_bytes(policy.dtype); }
  int32_t chunks_per_page() const { return kSealedPageTokens / policy.chunk; }
  // Decoded K or V of one chunk and head, as slots and outliers hold it.
  int64_t block_bytes() const { return int64_t{policy.chunk} * geometry.head_dim * element(); }

  kernels::DigestFormat digest() const {
    return {policy.digest, policy.digest_codec, policy.dtype, policy.chunk, geometry.head_dim};
  }
  // Mean values of chunks, where those not selected are estimated.
  kernels::DigestFormat value_mean() const {
    const bool small = policy.digest_codec != kernels::BlockCodec::raw || policy.digest == kernels::DigestKind::keys_2bit;
    return {kernels::DigestKind::mean, small ? kernels::BlockCodec::int8 : kernels::BlockCodec::raw, policy.dtype,
            policy.chunk, geometry.head_dim};
  }
  kernels::BlockFormat value_block() const {
    return {policy.value_codec, policy.dtype, policy.chunk, geometry.head_dim};
  }
  kernels::BlockFormat key_block() const { return {policy.key_codec, policy.dtype, policy.chunk, geometry.head_dim}; }
  kernels::BlockFormat lowrank_block() const { return {policy.key_codec, policy.dtype, policy.chunk, policy.rank}; }

  int64_t exact_page_bytes() const { return int64_t{2} * kExactPageTokens * geometry.key_width() * element(); }
  int64_t per_head_page_bytes(int64_t bytes_per_chunk) const {
    return int64_t{chunks_per_page()} * geometry.kv_heads * bytes_per_chunk;
  }
  int64_t landmark_page_bytes() const { return per_head_page_bytes(digest().chunk_bytes()); }
  int64_t value_mean_page_bytes() const { return per_head_page_bytes(value_mean().chunk_bytes()); }
  int64_t lowrank_page_bytes() const { return chunks_per_page() * lowrank_block().block_bytes(); }
  int64_t table_page_bytes() const { return per_head_page_bytes(2); }
  int64_t value_page_bytes() const { return per_head_page_bytes(value_block().block_bytes()); }
  int64_t key_page_bytes() const { return per_head_page_bytes(key_block().block_bytes()); }
  int64_t outlier_page_bytes() const { return int64_t{2} * kOutliersPerPage * block_bytes(); }

  kernels::KvPageFormat exact_page() const {
    return {policy.dtype, geometry.kv_heads, geometry.head_dim, kExactPageTokens};
  }
  kernels::KeyBasisDesc basis() const {
    return {policy.dtype, geometry.kv_heads, geometry.head_dim, policy.rank};
  }
  int64_t channel_weight_bytes() const { return int64_t{2} * geometry.key_width() * 4; }
  int64_t query_energy_bytes() const { return int64_t{geometry.layers} * geometry.key_width() * 8; }
  int64_t slot_region_bytes(int32_t capacity) const {  // K then V, [kv_heads, capacity, C, d] each
    return int64_t{2} * geometry.kv_heads * capacity * block_bytes();
  }
  // Of one head: int64 chunks selected and missed; double samples drawn, steps capped, mass missed of the guard.
  static constexpr int64_t kSlotTotalsBytes = 40;
  int64_t slot_table_bytes(int32_t capacity) const {  // chunk of slot, last used, [kv_heads, capacity] each; totals
    return geometry.kv_heads * (int64_t{capacity} * 8 + kSlotTotalsBytes);
  }
  int64_t excluded_words(int64_t n_chunks) const { return round_up(n_chunks, kExcludedStep) / 64; }  // per head
};

}  // namespace skv::kv
