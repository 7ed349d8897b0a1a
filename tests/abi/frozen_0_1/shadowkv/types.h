#ifndef SHADOWKV_TYPES_H
#define SHADOWKV_TYPES_H

#include <stdint.h>

#include "version.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * @file types.h
 * Handles and enums that several headers share.
 *
 * Handles are opaque values, never dereferenced by the host: a stale or foreign one gives SKV_E_HANDLE.
 * Children keep their parents alive, so any destroy order is safe.
 */

typedef struct skv_runtime skv_runtime; /* threads, devices, memory limits */
typedef struct skv_model skv_model;     /* weights and tokenizer, shared by sessions */
typedef struct skv_session skv_session; /* sequences that step together */

/** A sequence of one session: a value with a generation, so a closed one is recognised. 0 is never valid. */
typedef uint64_t skv_seq;

/** "Choose for me" in the signed fields that name it. Everything else is taken literally. */
#define SKV_AUTO (-1)

/** "No limit" in limit fields. */
#define SKV_UNLIMITED UINT64_MAX

/** Where bytes live. On a GPU: device memory and pinned host memory. On a CPU: both are RAM. */
typedef int32_t skv_tier;
enum {
  SKV_TIER_FAST = 0, /* what every decode step reads in full: landmarks, low-rank keys, slots, exact window */
  SKV_TIER_SLOW = 1, /* what is fetched by chunk: values, exact keys of the exact-key store */
  SKV_TIER_HOST = 2, /* activations, logits, queues, workspaces: bounded, not grown by context except hidden states */
  SKV_TIER_COUNT = 3
};

/** What bytes are for. */
typedef int32_t skv_purpose;
enum {
  SKV_PURPOSE_WEIGHTS = 0,    /* model weights (mapped files are listed, not charged to limits) */
  SKV_PURPOSE_EXACT_KV = 1,   /* exact keys and values: policy full, the window, one layer of a running prefill */
  SKV_PURPOSE_LANDMARKS = 2,  /* chunk digests, mean values of chunks */
  SKV_PURPOSE_LOWRANK = 3,    /* A: low-rank key coordinates */
  SKV_PURPOSE_BASIS = 4,      /* B and mu of each segment, weights of key channels */
  SKV_PURPOSE_CHUNK_TABLE = 5,/* chunk to slot map, flags */
  SKV_PURPOSE_OUTLIERS = 6,   /* exact outlier chunks */
  SKV_PURPOSE_SLOTS = 7,      /* slot cache of selected chunks */
  SKV_PURPOSE_VALUES = 8,     /* value blocks of the slow tier */
  SKV_PURPOSE_KEYS = 9,       /* exact key blocks of the slow tier */
  SKV_PURPOSE_HIDDEN = 10,    /* hidden states of a running prefill */
  SKV_PURPOSE_WORKSPACE = 11, /* scratch of kernels and libraries */
  SKV_PURPOSE_LOGITS = 12,    /* logits kept per sequence */
  SKV_PURPOSE_TOKENS = 13,    /* token ids and queues */
  SKV_PURPOSE_OTHER = 14,     /* handles, tokenizer, tables */
  SKV_PURPOSE_COUNT = 15
};

/** Room in the tables below, larger than the counts so that tiers and purposes can be added without a new layout. */
#define SKV_TIER_SLOTS 4
#define SKV_PURPOSE_ROOM 24

/** Bytes by tier and purpose; see skv_budget_query() and skv_session_get_usage(). */
typedef struct skv_memory_table {
  int64_t bytes[SKV_TIER_SLOTS][SKV_PURPOSE_ROOM];
} skv_memory_table;

/** Element types. */
typedef int32_t skv_dtype;
enum { SKV_DTYPE_F32 = 0, SKV_DTYPE_BF16 = 1, SKV_DTYPE_F16 = 2 };

#ifdef __cplusplus
}
#endif
#endif
