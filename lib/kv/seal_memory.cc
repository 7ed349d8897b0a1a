// The memory side of sealing: taking what is needed beforehand, giving back what is not.
#include <algorithm>
#include <cstring>

#include "lib/kv/seal.h"
#include "lib/kv/views.h"

namespace skv::kv {
namespace {

void init_layer(Context& context, Layer& layer) {
  layer.exact = PageList(&context.exact);
  layer.landmarks = PageList(&context.landmarks);
  layer.lowrank = PageList(&context.lowrank);
  layer.table = PageList(&context.table);
  layer.values = PageList(&context.values);
  layer.keys = PageList(&context.keys);
  layer.value_means = PageList(&context.value_means);
}

// Outliers that a seal of n_new chunks is sure to add per head.
int64_t sure_outliers(const Policy& policy, const Layer& layer, int64_t n_new) {
  const bool first_chunk = policy.keeps_first_chunk && layer.sealed == 0;
  return policy.outlier_count(static_cast<int32_t>(n_new)) + (first_chunk ? 1 : 0);
}

void grow_excluded(Context& context, Layer& layer, int64_t n_chunks) {
  const int64_t words = context.layout.excluded_words(n_chunks);
  if (words <= layer.excluded_words) return;
  const int64_t heads = context.geometry().kv_heads;
  Buffer larger(context.account, SKV_TIER_FAST, SKV_PURPOSE_CHUNK_TABLE, heads * words * 8);
  std::memset(larger.data(), 0, static_cast<std::size_t>(heads * words * 8));
  for (int64_t h = 0; h < heads && layer.excluded_words > 0; ++h) {
    std::memcpy(larger.as<uint64_t>() + h * words, layer.excluded.as<uint64_t>() + h * layer.excluded_words,
                static_cast<std::size_t>(layer.excluded_words) * 8);
  }
  layer.excluded = std::move(larger);
  layer.excluded_words = words;
}

SlotCache make_slots(Context& context, int32_t capacity) {
  SlotCache slots;
  slots.capacity = capacity;
  slots.region = Buffer(context.account, SKV_TIER_FAST, SKV_PURPOSE_SLOTS, context.layout.slot_region_bytes(capacity));
  slots.table = Buffer(context.account, SKV_TIER_FAST, SKV_PURPOSE_CHUNK_TABLE,
                       context.layout.slot_table_bytes(capacity));
  const auto half = static_cast<std::size_t>(context.layout.slot_table_bytes(capacity) / 2);
  std::memset(slots.table.data(), 0xff, half);                                 // no chunk in any slot
  std::memset(static_cast<char*>(slots.table.data()) + half, 0, half);         // never used
  return slots;
}

}  // namespace

std::shared_ptr<Basis> make_basis(Context& context) {
  auto basis = std::make_shared<Basis>();
  basis->memory = Buffer(context.account, SKV_TIER_FAST, SKV_PURPOSE_BASIS, context.layout.basis_bytes());
  return basis;
}

void init_layers(Context& context, Sequence& sequence) {
  sequence.layers.resize(static_cast<std::size_t>(context.geometry().layers));
  for (std::size_t i = 0; i < sequence.layers.size(); ++i) {
    sequence.layers[i].index = static_cast<int32_t>(i);
    init_layer(context, sequence.layers[i]);
  }
}

void prepare_layer(Context& context, Layer& layer, int64_t to, int64_t length) {
  const Policy& policy = context.policy();
  const int64_t n_chunks = to / policy.chunk;
  const int64_t n_new = n_chunks - layer.sealed / policy.chunk;
  const int64_t pages = ceil_div(n_chunks, context.layout.chunks_per_page());
  layer.landmarks.grow(pages);
  layer.table.grow(pages);
  layer.values.grow(pages);
  (policy.low_rank ? layer.lowrank : layer.keys).grow(pages);
  if (policy.estimates_rest) layer.value_means.grow(pages);
  grow_excluded(context, layer, n_chunks);
  if (layer.outliers.empty()) {
    layer.outliers.resize(static_cast<std::size_t>(context.geometry().kv_heads));
    for (HeadOutliers& head : layer.outliers) head.pages = PageList(&context.outliers);
  }
  for (HeadOutliers& head : layer.outliers) {
    const int64_t count = static_cast<int64_t>(head.chunks.size()) + sure_outliers(policy, layer, n_new);
    head.chunks.reserve(static_cast<std::size_t>(count));
    head.pages.grow(ceil_div(count, kOutliersPerPage));
  }
  if (policy.low_rank && layer.segments.empty()) {
    layer.segments.reserve(static_cast<std::size_t>(segment_entries(policy)));
    layer.segments.push_back({static_cast<int32_t>(layer.sealed / policy.chunk), make_basis(context)});
  }
  if (policy.weighs_channels() && layer.sealed == 0 && layer.channel_weights.bytes() == 0) {
    layer.channel_weights =
        Buffer(context.account, SKV_TIER_FAST, SKV_PURPOSE_BASIS, context.layout.channel_weight_bytes());
  }
  const int32_t capacity = policy.slot_capacity(length, layer.index);
  if (layer.slots.capacity < capacity) layer.slots = make_slots(context, capacity);
}

void prepare_seal(Context& context, Sequence& sequence, int64_t to, int64_t length) {
  ensure_scratch(context, &context.seal_scratch, seal_scratch_bytes(context.layout, to - sequence.sealed()));
  try {
    for (Layer& layer : sequence.layers) {
      if (!context.policy().is_dense(layer.index)) prepare_layer(context, layer, to, length);
    }
  } catch (...) {
    for (Layer& layer : sequence.layers) trim_layer(context, layer, sequence.length);
    throw;
  }
}

void ensure_slots(Context& context, Sequence& sequence, int64_t length) {
  const auto wanted = [&](const Layer& layer) {
    return layer.sealed > 0 ? context.policy().slot_capacity(length, layer.index) : 0;
  };
  const auto outgrown = [&](const Layer& layer) { return layer.slots.capacity < wanted(layer); };
  if (std::none_of(sequence.layers.begin(), sequence.layers.end(), outgrown)) return;
  std::vector<SlotCache> larger(sequence.layers.size());
  for (std::size_t i = 0; i < larger.size(); ++i) {
    if (outgrown(sequence.layers[i])) larger[i] = make_slots(context, wanted(sequence.layers[i]));
  }
  for (std::size_t i = 0; i < larger.size(); ++i) {
    if (larger[i].capacity == 0) continue;
    Layer& layer = sequence.layers[i];
    layer.slots = std::move(larger[i]);
    for (int64_t page = 0; page < layer.table.size(); ++page) {
      std::memset(layer.table[page], 0xff, static_cast<std::size_t>(context.layout.table_page_bytes()));
    }
  }
}

void drop_sealed_pages(Layer& layer, int64_t first) noexcept {
  layer.exact.drop(first, layer.sealed / kExactPageTokens);
  layer.exact.compact();
}

void trim_layer(const Context& context, Layer& layer, int64_t length) noexcept {
  const Policy& policy = context.policy();
  const int64_t pages = ceil_div(layer.sealed / policy.chunk, context.layout.chunks_per_page());
  for (PageList* list : {&layer.landmarks, &layer.table, &layer.values, &layer.lowrank, &layer.keys,
                         &layer.value_means}) {
    list->shrink(std::min(list->size(), pages));
  }
  layer.exact.shrink(std::min(layer.exact.size(), ceil_div(length, kExactPageTokens)));
  for (HeadOutliers& head : layer.outliers) {
    head.pages.shrink(ceil_div(static_cast<int64_t>(head.chunks.size()), kOutliersPerPage));
  }
  if (layer.sealed > 0) return;
  layer.segments.clear();
  layer.outliers.clear();
  layer.excluded.reset();
  layer.excluded_words = 0;
  layer.channel_weights.reset();
  layer.slots = SlotCache{};
}

namespace {

void forget_slots_from(const Context& context, Layer& layer, int64_t first_chunk) noexcept {
  for (int32_t h = 0; h < context.geometry().kv_heads && layer.slots.capacity > 0; ++h) {
    int32_t* chunks = chunk_of_slot(layer, h);
    uint32_t* used = slot_last_used(context.layout, layer, h);
    const kernels::PagedRows table = table_rows(context.layout, layer, h);
    for (int32_t s = 0; s < layer.slots.capacity; ++s) {
      if (chunks[s] < first_chunk) continue;
      *static_cast<int16_t*>(table.row(chunks[s])) = -1;
      chunks[s] = -1;
      used[s] = 0;
    }
  }
}

void forget_outliers_from(const Context& context, Layer& layer, int32_t head, int64_t first_chunk) noexcept {
  HeadOutliers& outliers = layer.outliers[static_cast<std::size_t>(head)];
  const auto bytes = static_cast<std::size_t>(context.layout.block_bytes());
  std::size_t kept = 0;
  for (std::size_t i = 0; i < outliers.chunks.size(); ++i) {
    const int32_t chunk = outliers.chunks[i];
    if (chunk >= first_chunk) {
      excluded_bits(layer, head)[chunk / 64] &= ~(uint64_t{1} << (chunk % 64));
      continue;
    }
    if (kept != i) {
      const kernels::KvSpan from = outlier_block(context.layout, layer, head, static_cast<int64_t>(i));
      const kernels::KvSpan to = outlier_block(context.layout, layer, head, static_cast<int64_t>(kept));
      std::memcpy(const_cast<void*>(to.k), from.k, bytes);
      std::memcpy(const_cast<void*>(to.v), from.v, bytes);
      outliers.chunks[kept] = chunk;
    }
    ++kept;
  }
  outliers.chunks.resize(kept);
}

}  // namespace

void unseal(const Context& context, Layer& layer, int64_t sealed) noexcept {
  if (sealed >= layer.sealed) return;
  const int64_t first_chunk = sealed / context.policy().chunk;
  forget_slots_from(context, layer, first_chunk);
  while (!layer.segments.empty() && layer.segments.back().first_chunk >= first_chunk) layer.segments.pop_back();
  for (std::size_t h = 0; h < layer.outliers.size(); ++h) {
    forget_outliers_from(context, layer, static_cast<int32_t>(h), first_chunk);
  }
  layer.sealed = sealed;
}

}  // namespace skv::kv
