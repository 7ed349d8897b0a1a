#ifndef SHADOWKV_SESSION_H
#define SHADOWKV_SESSION_H

#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * @file session.h
 * Sessions run sequences of one model. Sequences join, leave, prefill and decode side by side in skv_session_step().
 *
 * One thread at a time may be inside a session: a second one gets SKV_E_BUSY. Sessions run in parallel.
 */

/** How a session is made. Fill with skv_session_params_init(). */
typedef struct skv_session_params {
  uint32_t struct_size;                 /* in: sizeof(skv_session_params) */
  int32_t device;                       /* in: device index. Default 0, the CPU */
  int32_t max_sequences;                /* in: open at a time, [1, 65536]. Default 64 */
  int32_t max_rows;                     /* in: tokens decoded by one step over all rows, [1, 64]. Default 64 */
  int32_t prefill_block_tokens;         /* in: tokens of one prefill block, [64, 8192]. Default 512 */
  int32_t reserved;                     /* in: 0 */
  const skv_kv_params *kv;              /* in: copied; NULL (default) = the defaults */
  uint64_t limit_bytes[SKV_TIER_SLOTS]; /* in: hard limits of this session by tier. Default SKV_UNLIMITED */
} skv_session_params;

/**
 * Write the defaults.
 *
 * @param params        out, not NULL.
 * @param struct_size   in, bytes: sizeof *params as the caller compiled it.
 * @returns SKV_OK; SKV_E_INVALID (params is NULL); SKV_E_STRUCT.
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_session_params_init(skv_session_params *params, uint32_t struct_size);

/**
 * Create a session on a model opened with weights.
 *
 * @param model         in, not NULL; kept alive by the session.
 * @param params        in, NULL for the defaults.
 * @param session_out   out, not NULL; owned by the caller, released by skv_session_destroy().
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_INVALID (message names the field and its range); SKV_E_STRUCT;
 *          SKV_E_UNSUPPORTED (message names what is supported); SKV_E_STATE (model is metadata only);
 *          SKV_E_NO_DEVICE; SKV_E_BUDGET; SKV_E_NOMEM.
 * @on_failure *session_out is NULL. @threads any. @blocks no.
 * @memory decode workspaces on the host tier; sequences take theirs as they grow. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_session_create(skv_model *model, const skv_session_params *params, skv_session **session_out,
                                      skv_error *err);

/**
 * Destroy a session and its sequences. A call in progress on another thread is interrupted first.
 *
 * @param session       in, NULL and stale handles are ignored.
 * @returns nothing.
 * @on_failure cannot fail. @threads any. @blocks until a call in progress has returned. @memory frees.
 * @since 0.1 @source none (API)
 */
SKV_API void skv_session_destroy(skv_session *session);

/**
 * Make the call in progress on this session return SKV_E_INTERRUPTED soon (between blocks of work). No effect if none is.
 *
 * @param session       in, NULL and stale handles are ignored.
 * @returns nothing.
 * @on_failure cannot fail. @threads any; also from a signal handler. @blocks no. @memory none.
 * @since 0.1 @source none (API)
 */
SKV_API void skv_session_interrupt(skv_session *session);

/**
 * Open an empty sequence.
 *
 * @param session       in/out, not NULL.
 * @param max_tokens    in, tokens: its length will never pass this; SKV_AUTO = the model's maximum. Bounds the budget of
 *                      chunks only; memory is taken as the sequence grows.
 * @param seq_out       out, not NULL.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY; SKV_E_INVALID; SKV_E_LIMIT (max_sequences are open, or max_tokens is beyond
 *          the model); SKV_E_BUDGET; SKV_E_NOMEM.
 * @on_failure the session is as before the call. @threads one per session. @blocks no. @memory a few KiB.
 * @since 0.1 @source none (API)
 */
SKV_API skv_status skv_sequence_open(skv_session *session, int64_t max_tokens, skv_seq *seq_out, skv_error *err);

/**
 * Close a sequence and free what it holds; a queue and a running prefill are dropped with it.
 *
 * @param session       in/out, not NULL.
 * @param seq           in, from skv_sequence_open().
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY.
 * @on_failure the sequence is as before the call. @threads one per session. @blocks no. @memory frees.
 * @since 0.1 @source none (API)
 */
SKV_API skv_status skv_sequence_close(skv_session *session, skv_seq seq, skv_error *err);

/**
 * Queue prompt tokens on one sequence.
 *
 * Nothing is computed here: skv_session_step() works the queue off in slices beside other sequences' decode rows, and
 * skv_session_prefill() is the loop over it with progress and cancel. May be called again at any length (next turn).
 * With policy full the result does not depend on how a prompt is cut; for others see skv_policy. Tokens appended while
 * the sequence's prefill is running are queued behind it.
 *
 * @param session       in/out, not NULL.
 * @param seq           in, from skv_sequence_open().
 * @param tokens        in, [n_tokens] token ids in [0, vocab_size), copied; NULL only if n_tokens is 0.
 * @param n_tokens      in, tokens.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY; SKV_E_INVALID (message names the index of the bad token); SKV_E_LIMIT (the
 *          sequence would pass max_tokens; message gives both numbers); SKV_E_BUDGET (the sequence at this length would
 *          pass a hard limit; message gives both numbers); SKV_E_NOMEM.
 * @on_failure the sequence is as before the call. @threads one per session. @blocks no.
 * @memory 4 bytes per token, host. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_sequence_append(skv_session *session, skv_seq seq, const int32_t *tokens, int64_t n_tokens,
                                       skv_error *err);

/**
 * Drop the queue and any prefill in progress: the sequence is as after its last finished prefill or decode.
 *
 * @param session       in/out, not NULL.
 * @param seq           in, from skv_sequence_open().
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY.
 * @on_failure the sequence is as before the call. @threads one per session. @blocks no. @memory frees.
 * @since 0.1 @source none (API)
 */
SKV_API skv_status skv_sequence_cancel(skv_session *session, skv_seq seq, skv_error *err);

/**
 * Lengths of a sequence.
 *
 * @param session       in, not NULL.
 * @param seq           in, from skv_sequence_open().
 * @param length_out    out, tokens in the sequence (prefilled or decoded); NULL if not wanted.
 * @param queued_out    out, tokens queued and not yet part of it; NULL if not wanted.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY.
 * @on_failure nothing is written. @threads one per session. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_sequence_length(skv_session *session, skv_seq seq, int64_t *length_out, int64_t *queued_out,
                                       skv_error *err);

/**
 * Cut a sequence back to its first length tokens. Its queue must be empty.
 *
 * Inside the exact window nothing else changes. Inside compressed history the chunk that holds the cut is rebuilt into
 * the window: its values as the slow tier holds them, its keys as the key store does (skv_kv_stats.n_lossy_tokens).
 * Policy STREAMING has forgotten what lies between its sinks' page of 64 tokens and the ring: no cut can be made there.
 * Kept logits are dropped unless length is the present one.
 *
 * @param session       in/out, not NULL.
 * @param seq           in, from skv_sequence_open().
 * @param length        in, tokens, [0, present length].
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY; SKV_E_INVALID; SKV_E_STATE (tokens are queued); SKV_E_BUDGET; SKV_E_NOMEM;
 *          SKV_E_UNSUPPORTED (the cut lies in what policy STREAMING has forgotten).
 * @on_failure the sequence is as before the call. @threads one per session. @blocks no. @memory frees.
 * @since 0.1 @source none (API)
 */
SKV_API skv_status skv_sequence_truncate(skv_session *session, skv_seq seq, int64_t length, skv_error *err);

/** How tokens are sampled. Defaults: greedy. Order: penalty, temperature, top_k, top_p, min_p, draw. */
typedef struct skv_sampler_params {
  uint32_t struct_size;     /* in: sizeof(skv_sampler_params) */
  float temperature;        /* in: >= 0; 0 = greedy. Default 0 */
  int32_t top_k;            /* in: >= 0; 0 = all. Default 0 */
  float top_p;              /* in: (0, 1]; 1 = all. Default 1 */
  float min_p;              /* in: [0, 1]; 0 = off. Default 0 */
  float repetition_penalty; /* in: > 0; 1 = off; over all tokens of the sequence. Default 1 */
  uint64_t seed;            /* in: same seed, same logits, same tokens. Default 0 */
} skv_sampler_params;

/**
 * Write the defaults.
 *
 * @param params        out, not NULL.
 * @param struct_size   in, bytes: sizeof *params as the caller compiled it.
 * @returns SKV_OK; SKV_E_INVALID (params is NULL); SKV_E_STRUCT.
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_sampler_params_init(skv_sampler_params *params, uint32_t struct_size);

/**
 * Set a sequence's sampler and restart its random counter.
 *
 * @param session       in/out, not NULL.
 * @param seq           in, from skv_sequence_open().
 * @param params        in, NULL for the defaults.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY; SKV_E_INVALID; SKV_E_STRUCT.
 * @on_failure the old sampler stays. @threads one per session. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_sequence_set_sampler(skv_session *session, skv_seq seq, const skv_sampler_params *params,
                                            skv_error *err);

/**
 * Sample the next token from the logits that the sequence keeps of its last token. It is not appended.
 * Logits are kept when a prefill ends and by decode rows with SKV_LOGITS_LAST, SKV_LOGITS_ALL or sample = 1.
 *
 * @param session       in/out, not NULL.
 * @param seq           in, from skv_sequence_open().
 * @param token_out     out, not NULL.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY; SKV_E_INVALID; SKV_E_STATE (no logits are kept); SKV_E_DATA (no finite logit).
 * @on_failure the sequence is as before the call. @threads one per session. @blocks no. @memory none.
 * @since 0.1 @source arXiv 1904.09751 (top-p), 2407.01082 (min-p)
 */
SKV_API skv_status skv_sequence_sample(skv_session *session, skv_seq seq, int32_t *token_out, skv_error *err);

/**
 * Copy the logits that the sequence keeps of its last token.
 *
 * @param session       in, not NULL.
 * @param seq           in, from skv_sequence_open().
 * @param logits        out, [vocab_size] f32, not NULL.
 * @param capacity      in, floats, at least vocab_size.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY; SKV_E_INVALID; SKV_E_SPACE; SKV_E_STATE (no logits are kept).
 * @on_failure nothing is written. @threads one per session. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_sequence_logits(skv_session *session, skv_seq seq, float *logits, int64_t capacity,
                                       skv_error *err);

typedef int32_t skv_logits_mode;
enum {
  SKV_LOGITS_NONE = 0, /* none are computed unless sample is 1 */
  SKV_LOGITS_LAST = 1, /* of the row's last token: kept, and copied to logits if that is not NULL */
  SKV_LOGITS_ALL = 2   /* of every token of the row, copied to logits; the last one's are kept */
};

/** One decode row of a step: 1..64 tokens of one sequence, each attending to those before it. */
typedef struct skv_row {
  skv_seq seq;                 /* in: a sequence with an empty queue, in one row only */
  const int32_t *tokens;       /* in: [n_tokens] ids */
  int32_t n_tokens;            /* in: 1..64 */
  skv_logits_mode logits_mode; /* in */
  float *logits;               /* out: [n_logits, vocab_size]; may be NULL with NONE and LAST */
  int64_t logits_capacity;     /* in: floats behind logits */
  int32_t sample;              /* in: 1 = sample the next token with the sequence's sampler */
  int32_t sampled_token;       /* out: with sample = 1, the next token (not appended); else -1 */
  skv_status status;           /* out: of this row alone */
  int32_t reserved;            /* in: 0 */
  skv_error *err;              /* out: details of this row's failure; NULL if not wanted */
} skv_row;

/** What one step may do for queued prompts. Fill with skv_step_params_init(). */
typedef struct skv_step_params {
  uint32_t struct_size;           /* in: sizeof(skv_step_params) */
  int32_t reserved;               /* in: 0 */
  uint64_t max_prefill_tokens;    /* in: tokens' worth of prefill work (tokens * layers / n_layers). Default unlimited */
  uint64_t max_prefill_ns;        /* in: stop starting prefill blocks after this long. Default unlimited */
} skv_step_params;

/** What one step did. */
typedef struct skv_step_result {
  uint32_t struct_size;       /* in: sizeof(skv_step_result) */
  int32_t n_rows_ok;          /* out: rows with status SKV_OK */
  int32_t n_prefills_done;    /* out: sequences whose queue was finished in this step */
  int32_t n_prefills_failed;  /* out: queues dropped for want of memory; see skv_sequence_prefill_status() */
  int64_t queued_tokens;      /* out: tokens still queued, all sequences */
  double prefill_progress;    /* out: done share of the prefill in progress, [0, 1]; 1 if none is */
} skv_step_result;

/**
 * Write the defaults.
 *
 * @param params        out, not NULL.
 * @param struct_size   in, bytes: sizeof *params as the caller compiled it.
 * @returns SKV_OK; SKV_E_INVALID (params is NULL); SKV_E_STRUCT.
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_step_params_init(skv_step_params *params, uint32_t struct_size);

/**
 * One step: decode all rows, then work off queued prompts (oldest first) within the allowance.
 *
 * A row's result does not depend on the other rows. A row that fails has its own status and changes nothing; the other
 * rows proceed. A prompt is processed layer by layer over all its blocks, so its memory is one layer's exact keys and
 * values plus hidden states; it becomes part of the sequence when its last layer is done.
 *
 * @param session       in/out, not NULL.
 * @param rows          in/out, [n_rows]; NULL only if n_rows is 0.
 * @param n_rows        in, rows, [0, 64]; their tokens add up to at most max_rows.
 * @param row_size      in, bytes: sizeof(skv_row) as the caller compiled it.
 * @param params        in, NULL for the defaults.
 * @param result        out, NULL if not wanted; struct_size set by the caller.
 * @param err           out, optional, written only on failure of the whole call.
 * @returns SKV_OK (rows have their own status: SKV_OK; SKV_E_HANDLE; SKV_E_INVALID; SKV_E_STATE (its queue is not empty);
 *          SKV_E_LIMIT; SKV_E_BUDGET; SKV_E_NOMEM; SKV_E_SPACE); SKV_E_HANDLE; SKV_E_BUSY; SKV_E_INVALID; SKV_E_STRUCT;
 *          SKV_E_INTERRUPTED (no row was decoded, or all were: see their status; prefill keeps what it has done and goes
 *          on in the next step); SKV_E_FORKED.
 * @on_failure rows that were not done have the call's status and changed nothing. @threads one per session.
 * @blocks for the computation. @memory grows with the sequences. @since 0.1 @source ShadowKV Alg. 1 and 2
 */
SKV_API skv_status skv_session_step(skv_session *session, skv_row *rows, int32_t n_rows, uint32_t row_size,
                                    const skv_step_params *params, skv_step_result *result, skv_error *err);

/** Called between blocks of prefill work. done and total count token-layers. Return 0 to go on, else cancel. */
typedef int32_t (*skv_progress_fn)(void *user, int64_t done, int64_t total);

/**
 * Work off all queues: the loop over skv_session_step() without rows.
 *
 * @param session       in/out, not NULL.
 * @param progress      in, NULL if not wanted; called on the calling thread; must not call into this session.
 * @param user          in, passed to progress.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY; SKV_E_INTERRUPTED (by skv_session_interrupt() or progress: queues stay,
 *          finished work is kept; go on later or call skv_sequence_cancel()); SKV_E_BUDGET, SKV_E_NOMEM (a queue was
 *          dropped, its sequence is as before it was appended); SKV_E_FORKED.
 * @on_failure as each code says. @threads one per session. @blocks for the computation.
 * @memory one layer's exact keys and values, hidden states, and what the sequences keep. @since 0.1
 * @source ShadowKV Alg. 1
 */
SKV_API skv_status skv_session_prefill(skv_session *session, skv_progress_fn progress, void *user, skv_error *err);

/**
 * How the last prefill of a sequence ended, and why if it was dropped.
 *
 * @param session       in, not NULL.
 * @param seq           in, from skv_sequence_open().
 * @param status_out    out, not NULL: SKV_OK (done, running, or none yet), SKV_E_BUDGET or SKV_E_NOMEM (dropped).
 * @param err           out, optional: the details of *status_out, and of a failure of this call.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY; SKV_E_INVALID.
 * @on_failure nothing is written. @threads one per session. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_sequence_prefill_status(skv_session *session, skv_seq seq, skv_status *status_out,
                                               skv_error *err);

/**
 * Statistics of one sequence's keys and values.
 *
 * @param session       in, not NULL.
 * @param seq           in, from skv_sequence_open().
 * @param stats         in/out, struct_size set by the caller.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY; SKV_E_INVALID; SKV_E_STRUCT.
 * @on_failure nothing is written. @threads one per session. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_sequence_stats(skv_session *session, skv_seq seq, skv_kv_stats *stats, skv_error *err);

/**
 * Memory and time of a session. On a GPU work is queued and waited for once a step: a stage's time is that of queueing it, and
 * what the device takes shows in logits_ns, where a step waits, and in compress_ns.
 */
typedef struct skv_session_usage {
  uint32_t struct_size;                  /* in: sizeof(skv_session_usage) */
  int32_t n_sequences;                   /* out: open */
  skv_memory_table used;                 /* out: bytes charged now */
  int64_t peak_bytes[SKV_TIER_SLOTS];    /* out: highest sum of each tier so far */
  uint64_t limit_bytes[SKV_TIER_SLOTS];  /* out: hard limits of this session */
  int64_t prefill_forward_ns;            /* out: prefill outside attention (GEMM, norms, RoPE) */
  int64_t prefill_attention_ns;          /* out: prefill attention */
  int64_t compress_ns;                   /* out: landmarks, outliers, factorisation, offload, flushes */
  int64_t decode_forward_ns;             /* out: decode outside attention */
  int64_t decode_select_ns;              /* out: landmark scoring, top-k, slot update */
  int64_t decode_fetch_ns;               /* out: value fetch, key fetch or rebuild */
  int64_t decode_attention_ns;           /* out: decode attention over the selected */
  int64_t logits_ns;                     /* out: final norm, LM head, sampling */
} skv_session_usage;

/**
 * Memory by tier and purpose, and time by stage, of a session.
 *
 * @param session       in, not NULL.
 * @param usage         in/out, struct_size set by the caller.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_BUSY; SKV_E_INVALID; SKV_E_STRUCT.
 * @on_failure nothing is written. @threads one per session. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_session_get_usage(skv_session *session, skv_session_usage *usage, skv_error *err);

#ifdef __cplusplus
}
#endif
#endif
