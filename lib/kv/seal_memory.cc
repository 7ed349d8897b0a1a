// The memory side of sealing: taking what is needed beforehand, giving back what is not.
#include <algorithm>

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
  std::vector<uint64_t> bits(static_cast<std::size_t>(heads * words));
  Buffer larger(context.account, SKV_TIER_FAST, SKV_PURPOSE_CHUNK_TABLE, heads * words * 8);
  for (int64_t h = 0; h < heads; ++h) {
    std::copy_n(layer.excluded_bits.begin() + h * layer.excluded_words, layer.excluded_words, bits.begin() + h * words);
  }
  layer.excluded = std::move(larger);
  layer.excluded_bits = std::move(bits);
  layer.excluded_words = words;
  upload_excluded(context, layer);
}

// No chunk in any slot, none ever used. Totals stay.
void empty_slots(const Context& context, const SlotCache& slots) noexcept {
  const int64_t ids = int64_t{context.geometry().kv_heads} * slots.capacity * 4;
  context.ops.fill(slots.table.data(), 0xff, ids);
  context.ops.fill(offset_bytes(slots.table.data(), ids), 0, ids);
}

void reset_tables(const Context& context, const Layer& layer, int64_t first_page) noexcept {
  for (int64_t page = first_page; page < layer.table.size(); ++page) {
    context.ops.fill(layer.table[page], 0xff, context.layout.table_page_bytes());
  }
}

SlotCache make_slots(Context& context, int32_t capacity) {
  SlotCache slots;
  slots.capacity = capacity;
  slots.region = Buffer(context.account, SKV_TIER_FAST, SKV_PURPOSE_SLOTS, context.layout.slot_region_bytes(capacity));
  slots.table = Buffer(context.account, SKV_TIER_FAST, SKV_PURPOSE_CHUNK_TABLE,
                       context.layout.slot_table_bytes(capacity));
  context.ops.fill(slots.table.data(), 0, slots.table.bytes());
  empty_slots(context, slots);
  return slots;
}

void replace_slots(const Context& context, Layer& layer, SlotCache slots) noexcept {
  layer.counted = slot_totals(context, layer);
  layer.slots = std::move(slots);
}

}  // namespace

std::shared_ptr<Basis> make_basis(Context& context) {
  auto basis = std::make_shared<Basis>();
  basis->memory = Buffer(context.account, SKV_TIER_FAST, SKV_PURPOSE_BASIS, context.layout.basis().bytes());
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
  const int64_t tables = layer.table.size();
  layer.table.grow(pages);
  reset_tables(context, layer, tables);
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
  if (layer.slots.capacity < capacity) replace_slots(context, layer, make_slots(context, capacity));
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
    replace_slots(context, layer, std::move(larger[i]));
    reset_tables(context, layer, 0);
  }
}

void forget_slots(const Context& context, const Layer& layer) noexcept {
  if (layer.slots.capacity == 0) return;
  empty_slots(context, layer.slots);
  reset_tables(context, layer, 0);
}

SlotTotals slot_totals(const Context& context, const Layer& layer) noexcept {
  struct HeadTotals {
    int64_t selected, missed;
    double samples, capped, missed_mass;
  };
  static_assert(sizeof(HeadTotals) == Layout::kSlotTotalsBytes);
  constexpr int32_t kAtATime = 64;
  HeadTotals totals[kAtATime];
  SlotTotals sums = layer.counted;
  const int32_t heads = layer.slots.capacity > 0 ? context.geometry().kv_heads : 0;
  for (int32_t first = 0; first < heads; first += kAtATime) {
    const int32_t n = std::min(kAtATime, heads - first);
    context.ops.download(totals, slot_totals(context.layout, layer, first), n * Layout::kSlotTotalsBytes);
    for (int32_t h = 0; h < n; ++h) {
      const HeadTotals& t = totals[h];
      sums += {t.selected, t.missed, t.samples, t.capped, t.missed_mass};
    }
  }
  return sums;
}

void upload_excluded(const Context& context, const Layer& layer) noexcept {
  context.ops.upload(layer.excluded.data(), layer.excluded_bits.data(), layer.excluded.bytes());
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
  layer.excluded_bits.clear();
  layer.excluded_words = 0;
  layer.channel_weights.reset();
  replace_slots(context, layer, SlotCache{});
}

namespace {

// Keeps those before first_chunk, in order, and their bits.
void forget_outliers_from(const Context& context, Layer& layer, int32_t head, int64_t first_chunk) noexcept {
  HeadOutliers& outliers = layer.outliers[static_cast<std::size_t>(head)];
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
      context.ops.copy(const_cast<void*>(to.k), from.k, context.layout.block_bytes());
      context.ops.copy(const_cast<void*>(to.v), from.v, context.layout.block_bytes());
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
  forget_slots(context, layer);
  while (!layer.segments.empty() && layer.segments.back().first_chunk >= first_chunk) layer.segments.pop_back();
  for (std::size_t h = 0; h < layer.outliers.size(); ++h) {
    forget_outliers_from(context, layer, static_cast<int32_t>(h), first_chunk);
  }
  upload_excluded(context, layer);
  layer.sealed = sealed;
}

}  // namespace skv::kv
