#include "lib/kv/streaming.h"

#include <algorithm>

#include "lib/kv/views.h"

namespace skv::kv {
namespace {

struct SinkScratch {
  float* x;      // [sinks, M]
  char* page;    // K then V of [kv_heads, sinks, d]; V is not used
};

SinkScratch carve_sinks(Arena* arena, const Layout& layout) {
  const int64_t elements = int64_t{layout.policy.sinks} * layout.geometry.key_width();
  SinkScratch s;
  s.x = arena->take<float>(elements);
  s.page = arena->take<char>(2 * elements * layout.element());
  return s;
}

}  // namespace

int64_t ring_start(const Policy& policy, const Sequence& sequence, int64_t position) {
  return std::max<int64_t>({position - policy.window, sequence.forgotten, 0});
}

int64_t sink_scratch_bytes(const Layout& layout) {
  Arena counter;
  carve_sinks(&counter, layout);
  return round_up(counter.used(), 64);
}

void turn_sinks(const Context& context, const Layer& layer, int64_t from, void* scratch) {
  const Geometry& g = context.geometry();
  const int32_t sinks = context.policy().sinks;
  Arena arena(scratch);
  const SinkScratch s = carve_sinks(&arena, context.layout);
  context.ops.kv_gather({context.layout.exact_page(), layer.exact.data(), 0, sinks, s.x});
  const int64_t width = g.key_width();
  const kernels::RopeItem undo = {s.x, width, sinks, g.kv_heads, g.head_dim, 0, true};
  const kernels::RopeItem turn = {s.x, width, sinks, g.kv_heads, g.head_dim, from - sinks, false};
  context.ops.rope(context.rope, {&undo, 1});
  context.ops.rope(context.rope, {&turn, 1});
  void* page = s.page;
  const kernels::KvAppendItem item = {&page, 0, sinks, s.x, s.x};
  context.ops.kv_append({context.policy().dtype, g.kv_heads, g.head_dim, sinks}, {&item, 1});
}

void* turned_sinks(const Layout& layout, void* scratch) {
  Arena arena(scratch);
  return carve_sinks(&arena, layout).page;
}

kernels::KvRun sink_run(const Layout& layout, const Layer& layer, int32_t head, void* const* turned) {
  kernels::KvRun run = exact_run(layout, layer, head, 0, layout.policy.sinks);
  run.k_pages = turned;
  run.k_offset_bytes = int64_t{head} * layout.policy.sinks * layout.geometry.head_dim * layout.element();
  return run;
}

kernels::KvSpan sink_span(const Layout& layout, const Layer& layer, int32_t head, void* scratch) {
  void* const turned = turned_sinks(layout, scratch);
  const kernels::KvRun run = sink_run(layout, layer, head, &turned);
  const int64_t row_bytes = layout.geometry.head_dim * layout.element();
  return {run.k_row(0, row_bytes), run.v_row(0, row_bytes), run.n, 0};
}

int64_t first_ring_page(const Policy& policy, int64_t length) {
  const int64_t page = (length - policy.window - policy.flush) / kExactPageTokens;
  return page > 1 ? page : 0;
}

void forget_pages(const Policy& policy, Layer& layer, int64_t first, int64_t length) noexcept {
  layer.exact.drop(std::max<int64_t>(first, 1), first_ring_page(policy, length));
  layer.exact.compact();
}

}  // namespace skv::kv
