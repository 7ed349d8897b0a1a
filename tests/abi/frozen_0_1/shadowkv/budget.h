#ifndef SHADOWKV_BUDGET_H
#define SHADOWKV_BUDGET_H

#include "session.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * @file budget.h
 * Memory before it is taken: the code that answers here is the code that sizes the allocations.
 */

/** Answer of skv_budget_query(). */
typedef struct skv_budget {
  uint32_t struct_size;                  /* in: sizeof(skv_budget) */
  int32_t reserved;                      /* out: 0 */
  skv_memory_table held;                 /* out: bytes held once all sequences have their lengths and queues are empty */
  int64_t held_bytes[SKV_TIER_SLOTS];    /* out: sums of held by tier */
  int64_t peak_bytes[SKV_TIER_SLOTS];    /* out: highest sums while the sequences are prefilled one after another, each
                                            from one append, and while each then decodes up to its next flush */
  int64_t weight_bytes;                  /* out: mapped weight files, on no tier and not in the sums */
} skv_budget;

/**
 * Bytes that a session with these sequences takes.
 *
 * @param model         in, not NULL; metadata only suffices.
 * @param params        in, as for skv_session_create(); NULL for the defaults.
 * @param lengths       in, [n_sequences] tokens, each in [0, the model's maximum]; NULL only if n_sequences is 0.
 * @param n_sequences   in, sequences.
 * @param shared_prefix in, tokens that all sequences share: must be 0 in 0.1 (no prefix reuse yet).
 * @param budget        in/out, struct_size set by the caller.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_INVALID; SKV_E_STRUCT; SKV_E_UNSUPPORTED; SKV_E_LIMIT (a length is beyond the
 *          model's maximum).
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source shadowkv.md section 5
 */
SKV_API skv_status skv_budget_query(skv_model *model, const skv_session_params *params, const int64_t *lengths,
                                    int32_t n_sequences, int64_t shared_prefix, skv_budget *budget, skv_error *err);

/** A question and its answer: leave one of n_sequences and n_tokens 0 to have it found. */
typedef struct skv_budget_plan_io {
  uint32_t struct_size;                  /* in: sizeof(skv_budget_plan_io) */
  int32_t n_sequences;                   /* in/out: 0 = find the largest batch of n_tokens each */
  int64_t n_tokens;                      /* in/out: 0 = find the longest context for n_sequences */
  uint64_t limit_bytes[SKV_TIER_SLOTS];  /* in: what may be used by tier, peaks included; SKV_UNLIMITED = any */
  int32_t fits;                          /* out: 1 if params as given reach the answer (at least 1 of what was asked) */
  int32_t slot_chunks;                   /* out: largest slot capacity that still fits at the answer */
  int32_t rank;                          /* out: rank in force; 0 with exact keys or policy full */
  skv_key_store keys;                    /* out: key store that reaches the longest answer (what was given, if equal) */
  int64_t n_tokens_other_keys;           /* out: the answer in tokens (or sequences) with the other key store */
} skv_budget_plan_io;

/**
 * The longest context for a batch, or the largest batch for a context, under limits.
 *
 * @param model         in, not NULL; metadata only suffices.
 * @param params        in, as for skv_session_create(); NULL for the defaults; its own limits count too.
 * @param plan          in/out, struct_size set by the caller.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK (also when nothing fits: fits is 0); SKV_E_HANDLE; SKV_E_INVALID (both or neither of n_sequences and
 *          n_tokens given); SKV_E_STRUCT; SKV_E_UNSUPPORTED.
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source shadowkv.md section 5
 */
SKV_API skv_status skv_budget_plan(skv_model *model, const skv_session_params *params, skv_budget_plan_io *plan,
                                   skv_error *err);

#ifdef __cplusplus
}
#endif
#endif
