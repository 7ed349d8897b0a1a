// Sealing: exact tokens become compressed chunks (landmarks, outliers, low-rank or exact keys, values in the slow tier).
// prepare_seal takes every byte that is sure to be needed and may throw; run_seal only computes.
#pragma once

#include "lib/kv/context.h"

namespace skv::kv {

// Memory for sealing [layer.sealed, to) of every layer of a sequence whose length will be `length`, and scratch for it.
// On a throw the sequence holds what it held before.
void prepare_seal(Context& context, Sequence& sequence, int64_t to, int64_t length);
// The same for one layer (scratch must be there).
void prepare_layer(Context& context, Layer& layer, int64_t to, int64_t length);
// Compresses [layer.sealed, to) of one layer. The exact pages are left to the caller.
void run_seal(Context& context, Sequence& sequence, Layer& layer, int64_t to) noexcept;

// Slot capacity for `length`, for every compressed layer; a larger region starts cold. On a throw nothing changed.
void ensure_slots(Context& context, Sequence& sequence, int64_t length);

// Gives back the exact pages [first, sealed / 64) after a seal.
void drop_sealed_pages(Layer& layer, int64_t first) noexcept;
// Gives back what is beyond the layer's sealed chunks and the sequence's length.
void trim_layer(const Context& context, Layer& layer, int64_t length) noexcept;
// Forgets chunks from `sealed` tokens on (outliers, segments, slots, excluded bits); exact pages are untouched.
void unseal(const Context& context, Layer& layer, int64_t sealed) noexcept;

// Empties the slots of a layer: a cache, so nothing is lost.
void forget_slots(const Context& context, const Layer& layer) noexcept;
// What the layer's slot caches have counted; waits for the device.
SlotTotals slot_totals(const Context& context, const Layer& layer) noexcept;
// The host's bits to where kernels read them.
void upload_excluded(const Context& context, const Layer& layer) noexcept;

void init_layers(Context& context, Sequence& sequence);
std::shared_ptr<Basis> make_basis(Context& context);
// Entries of a segment list: distinct bases are at most max_segments, returns to an old one add entries too.
inline int64_t segment_entries(const Policy& policy) { return 4 * int64_t{policy.max_segments}; }

ScratchBytes seal_scratch_bytes(const Layout& layout, int64_t n_tokens);

}  // namespace skv::kv
