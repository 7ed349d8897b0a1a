#ifndef SHADOWKV_KV_H
#define SHADOWKV_KV_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * @file kv.h
 * How keys and values are kept: the policy and its numbers, the same for all sequences of a session.
 *
 * A policy is a row of choices: what is kept of a chunk's keys to score it (digest), where its keys come from when it is
 * selected (key store), in what codec each is kept, what happens to chunks not selected, how much is selected. FULL keeps
 * everything exact and attends to everything: the oracle. SHADOWKV keeps, per layer and KV head, a digest of each chunk,
 * keys as low-rank coordinates (or exact in the slow tier), values in the slow tier, a few outlier chunks and a recent
 * window exact; each decode step attends to outliers, window and the best-scored chunks. PUBLISHED is the ShadowKV paper's
 * code to the letter. QUEST scores pages by bounds of their keys. STREAMING forgets: it keeps the first tokens and a ring of
 * the newest. A sequence stays dense (all exact, all attended) until it is longer than dense_below_tokens.
 *
 * What a decode step is sure to need is taken before it starts, so it can be refused whole. New segments, and chunks kept
 * exact because their low-rank keys miss too much, are taken only where memory allows: at a hard limit a flush makes do
 * with the segments there are (n_forced_segments counts) and results may then depend on the limit.
 */

typedef int32_t skv_policy;
enum {
  SKV_POLICY_FULL = 0,      /* exact keys and values, dense attention */
  SKV_POLICY_PUBLISHED = 1, /* ShadowKV as published (arXiv 2410.21465 and its code) */
  SKV_POLICY_SHADOWKV = 2,  /* this library's: centred keys, flush, segments, any length and number of turns */
  SKV_POLICY_QUEST = 3,     /* Quest (arXiv 2406.10774): pages of 16, box digests, the largest bound over the query group */
  SKV_POLICY_STREAMING = 4  /* StreamingLLM (arXiv 2309.17453): sinks and the newest tokens, positions as in the cache */
};

typedef int32_t skv_key_store;
enum {
  SKV_KEYS_LOWRANK = 0, /* A, B, mu in the fast tier; selected keys are rebuilt */
  SKV_KEYS_EXACT = 1    /* key blocks in the slow tier beside the values; selected keys are fetched */
};

typedef int32_t skv_digest;
enum {
  SKV_DIGEST_MEAN = 0,          /* mean of a chunk's post-RoPE keys */
  SKV_DIGEST_MEAN_VARIANCE = 1, /* and their mean squared distance to it: scores estimate attention mass */
  SKV_DIGEST_BOX = 2,           /* element-wise largest and smallest key: scores bound every key's */
  SKV_DIGEST_KEYS_2BIT = 3      /* every key on its own, rotated, in 2 bits an element: nothing is averaged away */
};

typedef int32_t skv_codec;
enum {
  SKV_CODEC_RAW = 0,  /* the KV dtype as it is */
  SKV_CODEC_INT8 = 1, /* 8-bit codes and a 16-bit scale for each row of a token */
  SKV_CODEC_INT4 = 2  /* the same in 4 bits, after a Hadamard rotation of the head */
};

typedef int32_t skv_unselected;
enum {
  SKV_UNSELECTED_DROPPED = 0,  /* not attended to */
  SKV_UNSELECTED_ESTIMATED = 1 /* attended to as one mean value a chunk, weighted by the mass that its digest estimates */
};

typedef int32_t skv_turn_attention;
enum {
  SKV_TURN_DENSE = 0,   /* a further prompt attends to the whole history, tile by tile */
  SKV_TURN_SELECTED = 1 /* to the chunks selected for each block of 64 of its queries */
};

/** Fill with skv_kv_params_init() or skv_kv_params_preset(); then every field is taken literally, SKV_AUTO only where a
 * field names it. Rows with a NaN or an infinity, or too large for a codec's 16-bit scale (8.3e6 in int8, 5.2e5 in int4),
 * come back from int8 and int4 as NaN in every element: damage is carried, not hidden. */
typedef struct skv_kv_params {
  uint32_t struct_size;          /* in: sizeof(skv_kv_params) */
  skv_policy policy;             /* in: default SKV_POLICY_SHADOWKV */
  skv_dtype dtype;               /* in: of keys, values, raw digests, A, B: SKV_DTYPE_BF16 (default) or SKV_DTYPE_F32 */
  skv_key_store keys;            /* in: default SKV_KEYS_LOWRANK */
  skv_codec key_codec;           /* in: of A (RAW or INT8), or of exact keys (RAW, INT8, INT4). Default RAW */
  skv_codec value_codec;         /* in: RAW (default), INT8 or INT4 */
  skv_digest digest;             /* in: default SKV_DIGEST_MEAN */
  skv_codec digest_codec;        /* in: of the means: RAW (default) or INT8; RAW with the other digests */
  skv_unselected unselected;     /* in: of decode steps; default SKV_UNSELECTED_DROPPED. ESTIMATED not with BOX. Mean values
                                    are kept in int8 where the digest is in int8 or 2 bits, else in the KV dtype */
  int32_t chunk_tokens;          /* in: C, tokens per chunk: 4, 8, 16 or 32. Default 8 */
  int32_t rank;                  /* in: r, [1, M / 2], M = n_kv_heads * head_dim; SKV_AUTO (default) = round(160 M / 1024) */
  int32_t reserved0;             /* in: 0 */
  double budget_fraction;        /* in: share of the context selected per step, [0, 1]. Default 0.015625 (1.56 %) */
  int32_t budget_min_tokens;     /* in: at least this many tokens, >= C. Default 256 */
  int32_t budget_tokens;         /* in: a fixed budget instead of fraction and minimum, >= C; SKV_AUTO (default) = those */
  double outlier_fraction;       /* in: share of chunks kept exact per KV head, [0, 0.05]. Default 0.0029296875 */
  int32_t window_tokens;         /* in: W, newest tokens always exact, >= 0. Default 32 */
  int32_t flush_tokens;          /* in: F, tokens compressed at a time, rounded up to chunks, >= C. Default 256 */
  int64_t dense_below_tokens;    /* in: stay dense up to here; SKV_AUTO (default) = max(4096, 2 (budget + outliers + W)) */
  double residual_factor;        /* in: tau, a flush worse than tau times its segment's residual opens a segment, >= 1.
                                    Default 1.5 */
  int32_t max_segments;          /* in: [1, 64]. Default 8 */
  int32_t slot_chunks;           /* in: slot cache capacity per layer and KV head, [selected chunks, 32767];
                                    SKV_AUTO (default) = the selected chunks */
  skv_turn_attention turn_attention; /* in: default SKV_TURN_DENSE */
  int32_t sink_tokens;           /* in: policy STREAMING: first tokens kept, [0, 64]. Default 4 */
  double max_missed_mass;        /* in: accuracy guard of decode steps: the exact keys of a sample of chunks outside the
                                    selection are read, and chunks are added until 2.5 times the share of attention mass that
                                    the sample finds outside is at most this, [0, 0.999]; 0 (default) = off. Costs the
                                    reading or rebuilding of 1024 keys a head and step. KEYS_2BIT draws the best samples;
                                    not with BOX */
  int32_t max_budget_tokens;     /* in: the guard selects at most this many, >= the budget; SKV_AUTO (default) = 4 budgets */
  int32_t n_budget_weights;      /* in: entries of budget_weights: 0 (default), n_layers or n_layers * n_kv_heads */
  const double *budget_weights;  /* in: each layer's, or each layer's KV heads', multiple of the budget, [0, 1000]; copied */
  const int32_t *dense_layers;   /* in: layers never compressed, each once; copied */
  int32_t n_dense_layers;        /* in: default 0 */
  int32_t reserved1;             /* in: 0 */
} skv_kv_params;

/**
 * Write the defaults: those of SKV_POLICY_SHADOWKV.
 *
 * @param params        out, not NULL.
 * @param struct_size   in, bytes: sizeof *params as the caller compiled it.
 * @returns SKV_OK; SKV_E_INVALID (params is NULL); SKV_E_STRUCT.
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_kv_params_init(skv_kv_params *params, uint32_t struct_size);

/**
 * Write a policy's own row of choices, to be changed field by field.
 *
 * QUEST: pages (chunks) of 16, box digests, exact keys, 1,024 tokens of which one page is the last one, no outliers, no
 * window beyond the last page, layers 0 and 1 dense. STREAMING: 4 sinks, window_tokens 512; flush_tokens more are kept, not
 * attended to, so that as many can be truncated without shortening the window; of the other fields only dtype matters.
 * FULL, PUBLISHED and SHADOWKV: as skv_kv_params_init() with the policy set.
 *
 * @param params        out, not NULL. Its dense_layers may point to constant memory of the library.
 * @param struct_size   in, bytes: sizeof *params as the caller compiled it.
 * @param policy        in.
 * @returns SKV_OK; SKV_E_INVALID (params is NULL); SKV_E_STRUCT; SKV_E_UNSUPPORTED (no such policy).
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source kv.h, skv_policy
 */
SKV_API skv_status skv_kv_params_preset(skv_kv_params *params, uint32_t struct_size, skv_policy policy);

/** What a sequence's keys and values did so far. Counters start at 0 when the sequence is opened. */
typedef struct skv_kv_stats {
  uint32_t struct_size;           /* in: sizeof(skv_kv_stats) */
  int32_t is_dense;               /* out: 1 while nothing is compressed or forgotten */
  int64_t n_tokens;               /* out: length */
  int64_t n_compressed;           /* out: tokens in compressed chunks */
  int64_t n_exact;                /* out: tokens in the exact window */
  int32_t n_segments;             /* out: basis segments, highest of the layers */
  int32_t budget_tokens;          /* out: tokens selected per step at this length */
  int64_t n_outlier_chunks;       /* out: over layers and KV heads */
  int64_t n_flushes;              /* out: flushes so far */
  int64_t n_forced_segments;      /* out: flushes that wanted a segment beyond max_segments or memory */
  int64_t n_lossy_tokens;         /* out: tokens rebuilt into the window by truncate, as their codecs keep them */
  int64_t decode_tokens;          /* out: tokens decoded by steps */
  int64_t selected_chunks;        /* out: sum over decode tokens, layers and KV heads */
  int64_t slot_hits;              /* out: of those, already in their slot */
  int64_t attended_tokens;        /* out: sum over decode tokens, layers and KV heads of tokens attended to */
  int64_t attention_calls;        /* out: decode tokens * layers * KV heads: the divisor of the two above */
  int64_t bytes_read;             /* out: KV bytes that decode had to read: digests, A rows, blocks, attended K and V */
  double key_energy;              /* out: share of the centred keys' energy that the low-rank form keeps, mean of layers;
                                     1 with exact keys */
  int64_t n_dropped;              /* out: tokens forgotten (policy STREAMING) */
  int64_t guard_calls;            /* out: attention calls under the accuracy guard */
  int64_t guard_capped;           /* out: of those, that wanted more than max_budget_tokens */
  double missed_mass;             /* out: mean over them of the estimated share of attention mass left out in the end, the
                                     highest of each query group */
} skv_kv_stats;

#ifdef __cplusplus
}
#endif
#endif
