#ifndef SHADOWKV_SHADOWKV_H
#define SHADOWKV_SHADOWKV_H

/**
 * @file shadowkv.h
 * libshadowkv: large language models over very long contexts in bounded memory. Include this one header.
 *
 * A program has one runtime (threads, devices, limits), opens a model, makes a session, and opens sequences in it:
 *
 *     skv_runtime *rt;  skv_model *model;  skv_session *session;  skv_seq seq;  int32_t token;
 *     skv_runtime_create(NULL, &rt, NULL);
 *     skv_model_open(rt, "path/of/model", NULL, &model, NULL);
 *     skv_session_create(model, NULL, &session, NULL);        // policy ShadowKV by default, see kv.h
 *     skv_sequence_open(session, SKV_AUTO, &seq, NULL);
 *     skv_sequence_append(session, seq, prompt, n_prompt, NULL);
 *     skv_session_prefill(session, NULL, NULL, NULL);          // the prompt, with progress and cancel if wanted
 *     skv_sequence_sample(session, seq, &token, NULL);         // first token
 *     for (;;) {                                               // one row per sequence; many rows make a batch
 *       skv_row row = {0};
 *       row.seq = seq; row.tokens = &token; row.n_tokens = 1; row.sample = 1;
 *       skv_session_step(session, &row, 1, sizeof row, NULL, NULL, NULL);
 *       token = row.sampled_token;                             // until it is one of the model's end tokens
 *     }
 *
 * Every function returns a status and can describe a failure in an skv_error; examples/01_minimal.c does it properly.
 * The keys and values of a sequence live in two tiers. The fast one (GPU memory; RAM on a CPU) holds what every decode
 * step reads: landmarks, low-rank keys, a recent window and a cache of selected chunks. The slow one (pinned host memory;
 * RAM on a CPU) holds values. Limits set on runtime or session are hard: a row that would pass one fails alone with
 * SKV_E_BUDGET, and skv_budget_query() tells the bytes beforehand.
 *
 * Read on in this order: version.h, status.h, types.h, runtime.h, model.h, kv.h, session.h, budget.h.
 */

#include "version.h"
#include "status.h"
#include "types.h"
#include "runtime.h"
#include "model.h"
#include "kv.h"
#include "session.h"
#include "budget.h"

#endif
