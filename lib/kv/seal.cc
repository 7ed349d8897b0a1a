// The computing side of sealing, in the order of ShadowKV Alg. 1: landmarks, outliers, keys, values.
#include "lib/kv/seal.h"

#include <algorithm>
#include <limits>

#include "lib/kv/channel_weights.h"
#include "lib/kv/key_coder.h"
#include "lib/kv/seal_scratch.h"
#include "lib/kv/views.h"

namespace skv::kv {
namespace {

constexpr double kMaxOutlierShare = 0.05;  // of all chunks of a head, extra outliers of flushes included

struct Range {
  int64_t from;  // tokens
  int64_t to;
  int32_t first_chunk;
  int32_t n_chunks;
};

int32_t fill_spans(const Context& context, const Layer& layer, const Range& range, SealScratch* s) {
  const int64_t bound = exact_span_bound(range.to - range.from);
  int32_t n = 0;
  for (int32_t h = 0; h < context.geometry().kv_heads; ++h) {
    kernels::KvSpan* keys = s->key_spans + h * bound;
    n = exact_spans(context.layout, layer, h, range.from, range.to, keys);
    for (int32_t i = 0; i < n; ++i) {
      kernels::KvSpan values = keys[i];
      values.k = values.v;
      s->value_spans[h * bound + i] = values;
    }
  }
  return n;
}

void build_landmarks(const Context& context, const Layer& layer, const Range& range, int32_t n_spans, SealScratch* s) {
  const Geometry& g = context.geometry();
  const int64_t bound = exact_span_bound(range.to - range.from);
  for (int32_t h = 0; h < g.kv_heads; ++h) {
    s->landmark_items[h] = {s->key_spans + h * bound, n_spans, digest_rows(context.layout, layer, h),
                            range.first_chunk, s->score_data + int64_t{h} * range.n_chunks,
                            inverse_channel_weights(context.layout, layer, h)};
  }
  context.ops.landmark_build(context.layout.digest(), {s->landmark_items, static_cast<std::size_t>(g.kv_heads)});
}

void build_value_means(const Context& context, const Layer& layer, const Range& range, int32_t n_spans, SealScratch* s) {
  const Geometry& g = context.geometry();
  const int64_t bound = exact_span_bound(range.to - range.from);
  for (int32_t h = 0; h < g.kv_heads; ++h) {
    s->landmark_items[h] = {s->value_spans + h * bound, n_spans, value_mean_rows(context.layout, layer, h),
                            range.first_chunk, nullptr, nullptr};
  }
  context.ops.landmark_build(context.layout.value_mean(), {s->landmark_items, static_cast<std::size_t>(g.kv_heads)});
}

// Beside all that a seal does with keys: both only read the exact pages, and nothing reads the slow tier before join().
void store_values_aside(const Context& context, const Layer& layer, const Range& range, int32_t n_spans, SealScratch* s) {
  const Geometry& g = context.geometry();
  const int64_t bound = exact_span_bound(range.to - range.from);
  for (int32_t h = 0; h < g.kv_heads; ++h) {
    s->store_items[h] = {s->value_spans + h * bound, n_spans, value_rows(context.layout, layer, h), range.first_chunk,
                         nullptr};
  }
  context.ops.begin_aside();
  context.ops.block_store(context.layout.value_block(), {s->store_items, static_cast<std::size_t>(g.kv_heads)});
  context.ops.end_aside();
}

void store_keys(const Context& context, const Layer& layer, const Range& range, int32_t n_spans, SealScratch* s) {
  const Geometry& g = context.geometry();
  const int64_t bound = exact_span_bound(range.to - range.from);
  const bool coded = context.policy().key_codec != kernels::BlockCodec::raw;
  for (int32_t h = 0; h < g.kv_heads; ++h) {
    s->store_items[h] = {s->key_spans + h * bound, n_spans, key_rows(context.layout, layer, h), range.first_chunk,
                         coded ? inverse_channel_weights(context.layout, layer, h) : nullptr};
  }
  context.ops.block_store(context.layout.key_block(), {s->store_items, static_cast<std::size_t>(g.kv_heads)});
}

// Notes one chunk of one head as exact and writes the copies [2] that keep it. Its page must be there.
void add_outlier(const Context& context, Layer& layer, int32_t head, int32_t chunk,
                 kernels::BlockCopyItem* copies) noexcept {
  HeadOutliers& outliers = layer.outliers[static_cast<std::size_t>(head)];
  kernels::KvSpan from;
  const int64_t token = int64_t{chunk} * context.policy().chunk;
  exact_spans(context.layout, layer, head, token, token + context.policy().chunk, &from);
  outliers.chunks.push_back(chunk);
  const kernels::KvSpan to =
      outlier_block(context.layout, layer, head, static_cast<int64_t>(outliers.chunks.size()) - 1);
  copies[0] = {const_cast<void*>(to.k), from.k, context.layout.block_bytes()};
  copies[1] = {const_cast<void*>(to.v), from.v, context.layout.block_bytes()};
  excluded_bits(layer, head)[chunk / 64] |= uint64_t{1} << (chunk % 64);
}

// The chunks whose least similar key is least similar to their mean: ids and n_ids of the scratch.
void select_outliers(const Context& context, const Range& range, bool first_chunk_apart, SealScratch* s) {
  const int32_t heads = context.geometry().kv_heads, count = context.policy().outlier_count(range.n_chunks);
  const int64_t scores = int64_t{heads} * range.n_chunks;
  context.ops.download(s->score, s->score_data, scores * 4);
  for (int32_t h = 0; h < heads; ++h) {
    float* score = s->score + int64_t{h} * range.n_chunks;
    for (int32_t j = 0; j < range.n_chunks; ++j) score[j] = 1.0f - std::min(score[j], 1.0f);
    if (first_chunk_apart) score[0] = -std::numeric_limits<float>::infinity();
    s->topk_items[h] = {s->score_data + int64_t{h} * range.n_chunks, range.n_chunks, count,
                        s->ids_data + int64_t{h} * count, s->n_ids_data + h};
  }
  context.ops.upload(s->score_data, s->score, scores * 4);
  context.ops.topk_select({s->topk_items, static_cast<std::size_t>(heads)}, s->topk_workspace);
  context.ops.download(s->ids, s->ids_data, int64_t{heads} * count * 4);
  context.ops.download(s->n_ids, s->n_ids_data, int64_t{heads} * 4);
}

void keep_outliers(const Context& context, Layer& layer, const Range& range, SealScratch* s) {
  const bool first_chunk = context.policy().keeps_first_chunk && range.first_chunk == 0;
  select_outliers(context, range, first_chunk, s);
  const auto heads = static_cast<std::size_t>(context.geometry().kv_heads);
  const int32_t count = context.policy().outlier_count(range.n_chunks);
  // A chunk of every head at a time: as many copies as the scratch has room for.
  for (int32_t i = first_chunk ? -1 : 0; i < count; ++i) {
    std::size_t n = 0;
    for (std::size_t h = 0; h < heads; ++h) {
      if (i >= s->n_ids[h]) continue;
      const int32_t chunk = i < 0 ? 0 : range.first_chunk + s->ids[static_cast<std::size_t>(count) * h + i];
      add_outlier(context, layer, static_cast<int32_t>(h), chunk, s->copies + n);
      n += 2;
    }
    context.ops.block_copy({s->copies, n});
  }
}

// Chunks of a flush that the low-rank form misses by more than the bound stay exact too, worst first, while memory and
// the share of outliers allow.
void keep_missed_chunks(Context& context, Layer& layer, const Range& range, double bound, SealScratch* s) noexcept {
  const Geometry& g = context.geometry();
  const auto cap = static_cast<int64_t>(kMaxOutlierShare * (range.first_chunk + range.n_chunks));
  for (int32_t h = 0; h < g.kv_heads; ++h) {
    HeadOutliers& outliers = layer.outliers[static_cast<std::size_t>(h)];
    float* score = s->score + int64_t{h} * range.n_chunks;
    for (int32_t j = 0; j < range.n_chunks; ++j) {
      const double energy = s->energy[int64_t{j} * g.kv_heads + h];
      const double missed = s->residual[int64_t{j} * g.kv_heads + h];
      const int32_t chunk = range.first_chunk + j;
      const bool excluded = (excluded_bits(layer, h)[chunk / 64] >> (chunk % 64)) & 1;
      score[j] = !excluded && missed > bound * bound * energy ? static_cast<float>(missed / energy) : -1.0f;
    }
    try {
      while (static_cast<int64_t>(outliers.chunks.size()) < cap) {
        const float* worst = std::max_element(score, score + range.n_chunks);
        if (*worst < 0.0f) break;
        const auto held = static_cast<int64_t>(outliers.chunks.size());
        outliers.pages.grow(ceil_div(held + 1, kOutliersPerPage));
        outliers.chunks.reserve(static_cast<std::size_t>(held + 1));
        add_outlier(context, layer, h, range.first_chunk + static_cast<int32_t>(worst - score), s->copies);
        context.ops.block_copy({s->copies, 2});
        score[worst - score] = -1.0f;
      }
    } catch (const std::exception&) {
      // No memory for more: these chunks are served by their low-rank keys.
    }
  }
}

// Of the prompt being prefilled, or of the last one; data.
const double* query_energy(const Context& context, const Sequence& sequence, const Layer& layer) {
  const Buffer& energy = sequence.pending.n > 0 ? sequence.pending.query_energy : sequence.query_energy;
  if (energy.bytes() == 0) return nullptr;
  return energy.as<double>() + int64_t{layer.index} * context.geometry().key_width();
}

}  // namespace

void run_seal(Context& context, Sequence& sequence, Layer& layer, int64_t to) noexcept {
  const StageTimer timer(&context.times.compress_ns);
  const int32_t chunk = context.policy().chunk;
  const Range range = {layer.sealed, to, static_cast<int32_t>(layer.sealed / chunk),
                       static_cast<int32_t>((to - layer.sealed) / chunk)};
  Arenas arenas = context.seal_scratch.arenas();
  SealScratch s = carve_seal(&arenas, context.layout, to - layer.sealed);
  const int32_t n_spans = fill_spans(context, layer, range, &s);
  store_values_aside(context, layer, range, n_spans, &s);
  if (layer.sealed == 0 && context.policy().weighs_channels()) {
    make_channel_weights(context, layer, to, query_energy(context, sequence, layer), &s);
  }
  build_landmarks(context, layer, range, n_spans, &s);
  if (context.policy().estimates_rest) build_value_means(context, layer, range, n_spans, &s);
  keep_outliers(context, layer, range, &s);
  if (context.policy().low_rank) {
    const bool flush = range.first_chunk > 0;
    const double bound = code_keys(context, sequence, layer, range.from, range.to, &s);
    if (flush) keep_missed_chunks(context, layer, range, bound, &s);
  } else {
    store_keys(context, layer, range, n_spans, &s);
  }
  upload_excluded(context, layer);
  context.ops.join();
  layer.sealed = to;
}

}  // namespace skv::kv
