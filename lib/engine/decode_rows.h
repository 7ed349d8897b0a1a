// Checks of a decode row against the rules of skv_row in include/shadowkv/session.h.
#pragma once

#include <span>

#include "lib/engine/sequence_table.h"
#include "lib/model/config.h"
#include "shadowkv/session.h"

namespace skv::engine {

// Throws Error(SKV_E_INVALID): too many rows, or too many tokens over all rows.
void check_batch(std::span<const skv_row> rows, int32_t max_rows);
// Throw Error(SKV_E_INVALID / SKV_E_SPACE) and Error(SKV_E_INVALID / SKV_E_STATE / SKV_E_LIMIT).
void check_row(const skv_row& row, const model::Config& config);
void check_row_sequence(const skv_row& row, const SequenceState& sequence);
// Throws Error(SKV_E_INVALID) naming the index of the first id outside [0, vocab).
void check_tokens(std::span<const int32_t> tokens, int32_t vocab);

// Tokens of the row whose logits are computed.
int32_t logits_of(const skv_row& row);

}  // namespace skv::engine
