// Policy streaming: the first tokens (sinks) and a ring of the newest, everything between forgotten. Positions are those
// in the cache, as StreamingLLM has them: keys are kept rotated by their own positions, so only the sinks, which the ring
// leaves behind, are turned to lie right before it.
#pragma once

#include "lib/kv/context.h"

namespace skv::kv {

// First token after the sinks that a query attends to whose newest predecessors end at `position`: the ring, or what is
// left of it. Up to `sinks` means that nothing lies between.
int64_t ring_start(const Policy& policy, const Sequence& sequence, int64_t position);

// Bytes for the turned sinks of one token and layer.
int64_t sink_scratch_bytes(const Layout& layout);
// The sinks' keys as if they lay right before token `from`, into scratch.
void turn_sinks(const Context& context, const Layer& layer, int64_t from, void* scratch);
// Turned keys and kept values of one head. They count as position 0: all queries see them.
kernels::KvSpan sink_span(const Layout& layout, const Layer& layer, int32_t head, void* scratch);
// The same rows as a run, whose keys are in the page that turned_sinks() gives, which the caller lists.
kernels::KvRun sink_run(const Layout& layout, const Layer& layer, int32_t head, void* const* turned);
void* turned_sinks(const Layout& layout, void* scratch);

// First page not forgotten at a length (page 0 is never): what the ring needs, and as many tokens more as may be taken
// back (policy.flush) without shortening it.
int64_t first_ring_page(const Policy& policy, int64_t length);
// Gives back the pages of one layer that `length` tokens leave behind, from page `first` on.
void forget_pages(const Policy& policy, Layer& layer, int64_t first, int64_t length) noexcept;

}  // namespace skv::kv
