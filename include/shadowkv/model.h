#ifndef SHADOWKV_MODEL_H
#define SHADOWKV_MODEL_H

#include "runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * @file model.h
 * Models and their tokenizers. A model is immutable once open: any number of sessions and threads share it.
 *
 * A model is a Hugging Face directory: config.json, generation_config.json (optional), model.safetensors or its shards,
 * tokenizer.json (optional: hosts that bring token ids need none). 0.1 runs the Llama family.
 */

/** How a model is opened. Fill with skv_model_params_init(). */
typedef struct skv_model_params {
  uint32_t struct_size;  /* in: sizeof(skv_model_params) */
  int32_t metadata_only; /* in: 1 = no weights: info, tokenizer and budget queries only. Default 0 */
} skv_model_params;

/** What a model says of itself. */
typedef struct skv_model_info {
  uint32_t struct_size;       /* in: sizeof(skv_model_info) */
  int32_t n_layers;           /* out */
  int32_t hidden_size;        /* out */
  int32_t n_q_heads;          /* out */
  int32_t n_kv_heads;         /* out */
  int32_t head_dim;           /* out */
  int32_t vocab_size;         /* out */
  int32_t has_tokenizer;      /* out: 1 if text functions work */
  int64_t max_positions;      /* out: longest context in tokens */
  int64_t weight_bytes;       /* out: bytes of the mapped weight files; 0 when metadata only */
  int32_t bos_token;          /* out: -1 if none */
  int32_t n_end_tokens;       /* out: entries of end_tokens that are set */
  int32_t end_tokens[16];     /* out: ids that end generation */
  char architecture[64];      /* out: "LlamaForCausalLM" */
  char chat_format[32];       /* out: "llama3", "chatml", or "" if the model has none that is known */
} skv_model_info;

/**
 * Write the defaults.
 *
 * @param params        out, not NULL.
 * @param struct_size   in, bytes: sizeof *params as the caller compiled it.
 * @returns SKV_OK; SKV_E_INVALID (params is NULL); SKV_E_STRUCT.
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_model_params_init(skv_model_params *params, uint32_t struct_size);

/**
 * Open a model directory. Weight files are mapped, not read: pages come in as they are used.
 *
 * @param runtime       in, not NULL; kept alive by the model.
 * @param path          in, NUL-terminated path of the directory, not NULL.
 * @param params        in, NULL for the defaults.
 * @param model_out     out, not NULL; owned by the caller, released by skv_model_destroy().
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_INVALID; SKV_E_STRUCT; SKV_E_IO (a file is missing or unreadable); SKV_E_DATA (a
 *          file is damaged: the message names file and place); SKV_E_MODEL (well-formed, and not runnable here: the
 *          message names the field); SKV_E_BUDGET; SKV_E_NOMEM.
 * @on_failure *model_out is NULL. @threads any. @blocks reads metadata files.
 * @memory maps the weight files; norms and rotary tables on the host tier. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_model_open(skv_runtime *runtime, const char *path, const skv_model_params *params,
                                  skv_model **model_out, skv_error *err);

/**
 * Give the handle back; sessions made from the model keep it alive.
 *
 * @param model         in, NULL and stale handles are ignored.
 * @returns nothing.
 * @on_failure cannot fail. @threads any. @blocks no. @memory unmaps with the last user. @since 0.1 @source none (API)
 */
SKV_API void skv_model_destroy(skv_model *model);

/**
 * Describe a model.
 *
 * @param model         in, not NULL.
 * @param info          in/out, struct_size set by the caller.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_INVALID; SKV_E_STRUCT.
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_model_get_info(skv_model *model, skv_model_info *info, skv_error *err);

/** Flags of skv_model_tokenize(). */
enum {
  SKV_TOKENIZE_ADD_SPECIAL = 1,  /* add what the tokenizer adds by itself, usually the begin token */
  SKV_TOKENIZE_PARSE_SPECIAL = 2 /* text that spells a special token becomes that token; never for untrusted text */
};

/**
 * Text to token ids. Any bytes are accepted; invalid UTF-8 is tokenized byte by byte.
 *
 * @param model         in, not NULL, with a tokenizer.
 * @param text          in, [n_bytes] bytes; NULL only if n_bytes is 0.
 * @param n_bytes       in, bytes.
 * @param flags         in, SKV_TOKENIZE_ bits.
 * @param tokens        out, [capacity] ids; NULL only if capacity is 0 (to ask for the count).
 * @param capacity      in, tokens.
 * @param n_tokens_out  out, not NULL: tokens of the whole text, also with SKV_E_SPACE.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_INVALID; SKV_E_UNSUPPORTED (no tokenizer); SKV_E_SPACE; SKV_E_NOMEM.
 * @on_failure tokens is not written. @threads any. @blocks no. @memory scratch in proportion to the text.
 * @since 0.1 @source byte-level BPE (GPT-2)
 */
SKV_API skv_status skv_model_tokenize(skv_model *model, const char *text, int64_t n_bytes, int32_t flags,
                                      int32_t *tokens, int64_t capacity, int64_t *n_tokens_out, skv_error *err);

/**
 * Token ids to bytes. The bytes of one token may end inside a character: a streaming host holds back an incomplete tail.
 *
 * @param model         in, not NULL, with a tokenizer.
 * @param tokens        in, [n_tokens] ids in [0, vocab_size); NULL only if n_tokens is 0.
 * @param n_tokens      in, tokens.
 * @param with_special  in, 1 = special tokens give their text, 0 = nothing.
 * @param bytes         out, [capacity] bytes, not NUL-terminated; NULL only if capacity is 0.
 * @param capacity      in, bytes.
 * @param n_bytes_out   out, not NULL: bytes of the whole text, also with SKV_E_SPACE.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_INVALID (message names the index of the bad id); SKV_E_UNSUPPORTED; SKV_E_SPACE.
 * @on_failure bytes is not written. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_model_detokenize(skv_model *model, const int32_t *tokens, int64_t n_tokens, int32_t with_special,
                                        char *bytes, int64_t capacity, int64_t *n_bytes_out, skv_error *err);

/** One message of a conversation. */
typedef struct skv_chat_message {
  const char *role;     /* in: "system", "user" or "assistant", NUL-terminated */
  const char *content;  /* in: [content_bytes] bytes of UTF-8 */
  int64_t content_bytes;
} skv_chat_message;

/**
 * A conversation to token ids, in the model's own chat format. A content that spells one of its control tokens
 * (<|...|>) is refused, so a user cannot forge one.
 *
 * @param model         in, not NULL, with a tokenizer and a known chat format.
 * @param messages      in, [n_messages], not NULL.
 * @param n_messages    in, at least 1.
 * @param message_size  in, bytes: sizeof(skv_chat_message) as the caller compiled it.
 * @param open_reply    in, 1 = end with the opening of the assistant's turn.
 * @param tokens        out, [capacity] ids; NULL only if capacity is 0.
 * @param capacity      in, tokens.
 * @param n_tokens_out  out, not NULL: tokens of the whole conversation, also with SKV_E_SPACE.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_INVALID (an unknown role or a control token; message names the index);
 *          SKV_E_STRUCT; SKV_E_UNSUPPORTED (no tokenizer or chat format); SKV_E_SPACE; SKV_E_NOMEM.
 * @on_failure tokens is not written. @threads any. @blocks no. @memory scratch in proportion to the text.
 * @since 0.1 @source the models' published templates
 */
SKV_API skv_status skv_model_tokenize_chat(skv_model *model, const skv_chat_message *messages, int32_t n_messages,
                                           uint32_t message_size, int32_t open_reply, int32_t *tokens,
                                           int64_t capacity, int64_t *n_tokens_out, skv_error *err);

#ifdef __cplusplus
}
#endif
#endif
