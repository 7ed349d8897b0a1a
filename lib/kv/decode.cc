#include "lib/kv/decode.h"

#include <algorithm>

#include "lib/kv/wave.h"

namespace skv::kv {
namespace {

// Room for several tokens a wave: a GPU wants them all at once, a CPU's caches few.
constexpr ScratchBytes kLeastHost = {int64_t{1} << 20, int64_t{4} << 20};
constexpr ScratchBytes kLeastDevice = {int64_t{4} << 20, int64_t{64} << 20};

}  // namespace

ScratchBytes decode_scratch_bytes(const Layout& layout, int64_t n) {
  const ScratchBytes& least = layout.policy.work_tier == SKV_TIER_HOST ? kLeastHost : kLeastDevice;
  const ScratchBytes one = wave_bytes(layout, 1, n);
  return {std::max(least.lists, one.lists), std::max(least.data, one.data)};
}

void attend_rows(Context& context, int32_t layer, std::span<const DecodeRow> rows, const float* q, float* out) {
  // Tokens of one sequence share its slots, so wave t takes the t-th token of every row that has one.
  WaveToken tokens[kMaxRowTokens];
  int32_t longest = 0;
  for (const DecodeRow& row : rows) longest = std::max(longest, row.n);
  for (int32_t t = 0; t < longest; ++t) {
    std::size_t n_tokens = 0;
    int64_t n = 0;
    auto flush = [&] {
      if (n_tokens > 0) Wave(context, layer, {tokens, n_tokens}, n, q, out).run();
      n_tokens = 0, n = 0;
    };
    for (const DecodeRow& row : rows) {
      if (t >= row.n) continue;
      const WaveToken token = {row.sequence, row.first + t, row.sequence->length + t,
                               row.sequence->step_base + static_cast<uint32_t>(t) + 1};
      const int64_t longer = std::max(n, token.position + 1);
      const bool fits = wave_bytes(context.layout, static_cast<int64_t>(n_tokens) + 1, longer)
                            .within(context.decode_scratch.bytes());
      if (n_tokens == kMaxRowTokens || (n_tokens > 0 && !fits)) flush();
      tokens[n_tokens++] = token;
      n = std::max(n, token.position + 1);
    }
    flush();
  }
}

}  // namespace skv::kv
