// The decode pipeline of one layer: score landmarks, select chunks, map them to slots, fetch and rebuild what is missing,
// attend. Rows of several tokens go token by token: each has its own selection.
#pragma once

#include <span>

#include "lib/kv/context.h"

namespace skv::kv {

void attend_rows(Context& context, int32_t layer, std::span<const DecodeRow> rows, const float* q, float* out);

// Scratch for decode in a store whose longest sequence has n tokens: at least one row's, and room for several.
ScratchBytes decode_scratch_bytes(const Layout& layout, int64_t n);

}  // namespace skv::kv
