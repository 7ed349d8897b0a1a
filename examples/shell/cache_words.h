// How keys and values are kept, in words: for options, JSON and what the prompt shows.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "shadowkv/shadowkv.h"

namespace shell {

// One value of an enum of the library.
struct Word {
  const char* name;
  int32_t value;
};
using Words = std::span<const Word>;

inline constexpr Word kPolicies[] = {{"full", SKV_POLICY_FULL},
                                     {"published", SKV_POLICY_PUBLISHED},
                                     {"shadowkv", SKV_POLICY_SHADOWKV},
                                     {"quest", SKV_POLICY_QUEST},
                                     {"streaming", SKV_POLICY_STREAMING}};
inline constexpr Word kKeyStores[] = {{"lowrank", SKV_KEYS_LOWRANK}, {"exact", SKV_KEYS_EXACT}};
inline constexpr Word kCodecs[] = {{"raw", SKV_CODEC_RAW}, {"int8", SKV_CODEC_INT8}, {"int4", SKV_CODEC_INT4}};
inline constexpr Word kDigestCodecs[] = {{"raw", SKV_CODEC_RAW}, {"int8", SKV_CODEC_INT8}};
inline constexpr Word kDigests[] = {{"mean", SKV_DIGEST_MEAN},
                                    {"mean-variance", SKV_DIGEST_MEAN_VARIANCE},
                                    {"box", SKV_DIGEST_BOX},
                                    {"keys-2bit", SKV_DIGEST_KEYS_2BIT}};
inline constexpr Word kUnselected[] = {{"dropped", SKV_UNSELECTED_DROPPED}, {"estimated", SKV_UNSELECTED_ESTIMATED}};
inline constexpr Word kChunks[] = {{"4", 4}, {"8", 8}, {"16", 16}, {"32", 32}};
inline constexpr Word kDtypes[] = {{"bf16", SKV_DTYPE_BF16}, {"f32", SKV_DTYPE_F32}};

const char* name_of(Words words, int32_t value);
std::optional<int32_t> value_of(Words words, const std::string& name);
std::vector<std::string> names_of(Words words);
// "a, b or c".
std::string list_of(Words words);

// Policies that keep everything (or forget it) have no chunks: neither digest nor selection.
bool selects(const skv_kv_params& kv);
bool is_guarded(const skv_kv_params& kv);
// Keys are low-rank, and not only by a setting without effect.
bool is_lowrank(const skv_kv_params& kv);
// In force: raw where a policy has no chunks to encode.
skv_codec key_codec(const skv_kv_params& kv);
skv_codec value_codec(const skv_kv_params& kv);

// One line: all that is in force.
std::string describe(const skv_kv_params& kv);

}  // namespace shell
