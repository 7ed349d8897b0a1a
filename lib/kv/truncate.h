// Cutting a sequence back, also into compressed history.
#pragma once

#include "lib/kv/context.h"

namespace skv::kv {

// length < sequence.length. Throws BUDGET / NOMEM with the sequence unchanged.
void truncate_sequence(Context& context, Sequence& sequence, int64_t length);

}  // namespace skv::kv
