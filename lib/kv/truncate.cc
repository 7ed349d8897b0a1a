#include "lib/kv/truncate.h"

#include <algorithm>
#include <vector>

#include "lib/base/status.h"
#include "lib/kv/channel_weights.h"
#include "lib/kv/seal.h"
#include "lib/kv/views.h"

namespace skv::kv {
namespace {

// Decodes one chunk of every head into K and V blocks: exact where it is an outlier.
class ChunkDecoder {
 public:
  explicit ChunkDecoder(Context& context) : context_(context), layout_(context.layout) {
    Arenas counter;
    carve(&counter);
    ensure_scratch(context, &context.seal_scratch, used(counter));
    Arenas arenas = context.seal_scratch.arenas();
    carve(&arenas);
  }

  void decode(const Layer& layer, int32_t chunk) {
    const Geometry& g = layout_.geometry;
    const Policy& policy = layout_.policy;
    const int32_t numbers[] = {chunk, 0, 1};  // chunk, slot, count
    context_.ops.upload(numbers_, numbers, sizeof numbers);
    std::vector<kernels::ChunkFetchItem> value_items, key_items;
    std::vector<kernels::KeyRebuildItem> rebuild;
    for (int32_t h = 0; h < g.kv_heads; ++h) {
      value_items.push_back({value_rows(layout_, layer, h), values(h), numbers_, numbers_ + 1, numbers_ + 2, 1,
                             nullptr});
      if (!policy.low_rank) {
        key_items.push_back({key_rows(layout_, layer, h), keys(h), numbers_, numbers_ + 1, numbers_ + 2, 1,
                             key_block_weights(layout_, layer, h)});
        continue;
      }
      kernels::BasisSegment* segments = segments_ + h * segment_entries(policy);
      const int32_t n = head_segments(layout_, layer, h, segments);
      rebuild.push_back({lowrank_rows(layout_, layer), segments, n, numbers_, numbers_ + 1, numbers_ + 2, 1,
                         keys(h)});
    }
    context_.ops.chunk_fetch(layout_.value_block(), value_items);
    if (policy.low_rank) {
      context_.ops.key_rebuild(rebuild_desc(context_), rebuild);
    } else {
      context_.ops.chunk_fetch(layout_.key_block(), key_items);
    }
    overlay_outliers(layer, chunk);
  }

  void* keys(int32_t head) const { return offset_bytes(blocks_, head * layout_.block_bytes()); }
  void* values(int32_t head) const { return keys(layout_.geometry.kv_heads + head); }

 private:
  void carve(Arenas* arenas) {
    const int64_t heads = layout_.geometry.kv_heads;
    blocks_ = arenas->data.take<char>(2 * heads * layout_.block_bytes());
    numbers_ = arenas->data.take<int32_t>(3);
    segments_ = arenas->lists.take<kernels::BasisSegment>(heads * segment_entries(layout_.policy));
  }

  void overlay_outliers(const Layer& layer, int32_t chunk) {
    for (int32_t h = 0; h < layout_.geometry.kv_heads; ++h) {
      const std::vector<int32_t>& chunks = layer.outliers[static_cast<std::size_t>(h)].chunks;
      const auto at = std::find(chunks.begin(), chunks.end(), chunk);
      if (at == chunks.end()) continue;
      const kernels::KvSpan block = outlier_block(layout_, layer, h, at - chunks.begin());
      context_.ops.copy(keys(h), block.k, layout_.block_bytes());
      context_.ops.copy(values(h), block.v, layout_.block_bytes());
    }
  }

  Context& context_;
  const Layout& layout_;
  void* blocks_ = nullptr;
  int32_t* numbers_ = nullptr;
  kernels::BasisSegment* segments_ = nullptr;
};

// The decoded chunk's rows as exact tokens from `token` on.
void write_exact(const Context& context, Layer& layer, const ChunkDecoder& chunk, int64_t token) {
  const Layout& layout = context.layout;
  for (int32_t h = 0; h < layout.geometry.kv_heads; ++h) {
    kernels::KvSpan row;
    exact_spans(layout, layer, h, token, token + layout.policy.chunk, &row);
    context.ops.copy(const_cast<void*>(row.k), chunk.keys(h), layout.block_bytes());
    context.ops.copy(const_cast<void*>(row.v), chunk.values(h), layout.block_bytes());
  }
}

// A page for the rebuilt chunk, where no exact token holds one.
void ensure_page(Sequence& sequence) {
  for (Layer& layer : sequence.layers) {
    if (layer.sealed == 0) continue;
    const int64_t first = layer.sealed / kExactPageTokens;
    layer.exact.grow(std::max(layer.exact.size(), first + 1));
  }
}

bool is_lossy(const Policy& policy) {
  return policy.low_rank || policy.key_codec != kernels::BlockCodec::raw ||
         policy.value_codec != kernels::BlockCodec::raw;
}

// What streaming has forgotten does not come back: a cut must lie in the ring, or where nothing is missing before it.
void check_remembered(const Sequence& sequence, int64_t length) {
  if (length >= sequence.forgotten || length <= kExactPageTokens) return;
  fail(SKV_E_UNSUPPORTED, "truncate to %lld: policy streaming has forgotten tokens %d to %lld",
       static_cast<long long>(length), kExactPageTokens, static_cast<long long>(sequence.forgotten - 1));
}

void truncate_compressed(Context& context, Sequence& sequence, int64_t length) {
  const int64_t sealed = length / context.policy().chunk * context.policy().chunk;
  const bool tail = length > sealed;
  ChunkDecoder chunk(context);
  if (tail) ensure_page(sequence);
  for (Layer& layer : sequence.layers) {
    if (layer.sealed == 0) continue;  // a dense layer is only cut
    if (tail) chunk.decode(layer, static_cast<int32_t>(sealed / context.policy().chunk));
    layer.exact.slide(sealed / kExactPageTokens, tail ? 1 : 0);
    if (tail) write_exact(context, layer, chunk, sealed);
    unseal(context, layer, sealed);
  }
  sequence.counters.lossy_tokens += is_lossy(context.policy()) ? length - sealed : 0;
}

}  // namespace

void truncate_sequence(Context& context, Sequence& sequence, int64_t length) {
  check_remembered(sequence, length);
  try {
    if (length < sequence.sealed()) truncate_compressed(context, sequence, length);
  } catch (...) {
    for (Layer& layer : sequence.layers) trim_layer(context, layer, sequence.length);
    throw;
  }
  sequence.length = length;
  if (length < sequence.forgotten) sequence.forgotten = 0;
  for (Layer& layer : sequence.layers) trim_layer(context, layer, length);
}

}  // namespace skv::kv
