#ifndef SHADOWKV_RUNTIME_H
#define SHADOWKV_RUNTIME_H

#include "status.h"
#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * @file runtime.h
 * The runtime: worker threads, the log callback, devices, and hard memory limits over everything created from it.
 * A program normally has one. There is no global state: two runtimes do not know of each other.
 */

typedef int32_t skv_log_level;
enum { SKV_LOG_ERROR = 0, SKV_LOG_WARN = 1, SKV_LOG_INFO = 2, SKV_LOG_DEBUG = 3 };

/** Receives one line without a newline. Called from any thread of the library, one call at a time per runtime. */
typedef void (*skv_log_fn)(void *user, skv_log_level level, const char *line);

/** How a runtime is made. Fill with skv_runtime_params_init(), then change fields. */
typedef struct skv_runtime_params {
  uint32_t struct_size;    /* in: sizeof(skv_runtime_params) */
  int32_t threads;         /* in: CPU threads working on one call; 0 = the cores this process may use. Default 0 */
  int32_t max_concurrent;  /* in: calls that compute at the same time, each with its own threads; 1..64. Default 1 */
  skv_log_level log_level; /* in: lines up to this level are sent to log. Default SKV_LOG_WARN */
  skv_log_fn log;          /* in: NULL = no log. Default NULL */
  void *log_user;          /* in: passed to log */
} skv_runtime_params;

/**
 * Write the defaults.
 *
 * @param params        out, not NULL.
 * @param struct_size   in, bytes: sizeof *params as the caller compiled it.
 * @returns SKV_OK; SKV_E_INVALID (params is NULL); SKV_E_STRUCT.
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_runtime_params_init(skv_runtime_params *params, uint32_t struct_size);

/**
 * Create a runtime: starts max_concurrent dispatcher threads, looks for devices, allocates nothing else.
 *
 * CUDA devices need libshadowkv_cuda.so of the same build, beside this library or in the library path, an NVIDIA
 * driver, and compute capability 8.0. What is missing is logged (SKV_LOG_INFO) and said where such a device is named;
 * it is no error here. The environment variable SHADOWKV_CUDA=0 turns the search off; SHADOWKV_CUDA_GRAPHS=0 makes
 * decode steps launch kernel by kernel instead of as CUDA graphs (the same results, slower; for profilers). Calls on
 * such a device may leave it the calling thread's current CUDA device.
 *
 * @param params        in, NULL for the defaults.
 * @param runtime_out   out, not NULL; owned by the caller, released by skv_runtime_destroy().
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_INVALID; SKV_E_STRUCT; SKV_E_NOMEM (threads or memory refused).
 * @on_failure *runtime_out is NULL. @threads any. @blocks for the start of the NVIDIA driver, if there is one.
 * @memory a few KiB, and what the driver takes. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_runtime_create(const skv_runtime_params *params, skv_runtime **runtime_out, skv_error *err);

/**
 * Give the handle back. What was created from the runtime keeps working and keeps its threads until destroyed too.
 *
 * @param runtime       in, NULL and stale handles are ignored.
 * @returns nothing.
 * @on_failure cannot fail. @threads any. @blocks no, but with the last user its threads are joined.
 * @memory frees with the last user. @since 0.1 @source none (API)
 */
SKV_API void skv_runtime_destroy(skv_runtime *runtime);

typedef int32_t skv_device_kind;
enum { SKV_DEVICE_CPU = 0, SKV_DEVICE_CUDA = 1 };

/** One device. Fast and slow tier of a CPU are both RAM; those of a GPU its own memory and pinned host memory. */
typedef struct skv_device_info {
  uint32_t struct_size;                  /* in: sizeof(skv_device_info) */
  skv_device_kind kind;                  /* out */
  char name[128];                        /* out: "cpu: 2 threads, AVX3_DL, onednn, mimalloc 2.0.9" */
  int64_t total_bytes[SKV_TIER_SLOTS];   /* out: physical memory behind each tier; 0 for unused entries */
  uint64_t limit_bytes[SKV_TIER_SLOTS];  /* out: hard limits in force; SKV_UNLIMITED = none */
  int64_t used_bytes[SKV_TIER_SLOTS];    /* out: charged now, over all models and sessions */
  int64_t peak_bytes[SKV_TIER_SLOTS];    /* out: highest so far */
} skv_device_info;

/**
 * Number of devices. Device 0 is always the CPU; CUDA devices follow.
 *
 * @param runtime       in, not NULL.
 * @param count_out     out, not NULL.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_INVALID.
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_runtime_device_count(skv_runtime *runtime, int32_t *count_out, skv_error *err);

/**
 * Describe one device.
 *
 * @param runtime       in, not NULL.
 * @param device        in, [0, count).
 * @param info          in/out, struct_size set by the caller.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_INVALID; SKV_E_STRUCT; SKV_E_NO_DEVICE.
 * @on_failure nothing is written. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_runtime_device_info(skv_runtime *runtime, int32_t device, skv_device_info *info, skv_error *err);

/**
 * Set the hard limit of one tier of one device, over all models and sessions of this runtime.
 * Mapped weight files are not charged. A limit below what is in use stops growth and frees nothing.
 *
 * @param runtime       in, not NULL.
 * @param device        in, [0, count).
 * @param tier          in, skv_tier.
 * @param bytes         in, bytes; SKV_UNLIMITED = none.
 * @param err           out, optional, written only on failure.
 * @returns SKV_OK; SKV_E_HANDLE; SKV_E_INVALID; SKV_E_NO_DEVICE.
 * @on_failure the old limit stays. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_runtime_set_limit(skv_runtime *runtime, int32_t device, skv_tier tier, uint64_t bytes,
                                         skv_error *err);

#ifdef __cplusplus
}
#endif
#endif
