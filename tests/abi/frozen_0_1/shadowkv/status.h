#ifndef SHADOWKV_STATUS_H
#define SHADOWKV_STATUS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * @file status.h
 * Status codes and error details.
 *
 * Every fallible function returns an skv_status: SKV_OK (0) or a negative code whose value never changes. The band says
 * whose turn it is: -1..-99 the caller, -100..-199 resources, -200..-299 the device, -300..-399 data (files, models),
 * -900.. the library itself. A function that fails leaves its handle as it was before the call unless its doc says
 * otherwise.
 */

typedef int32_t skv_status;

enum {
  SKV_OK = 0,

  /* The caller. */
  SKV_E_INVALID = -1,     /* an argument is out of range or inconsistent; the message names it and what is allowed */
  SKV_E_HANDLE = -2,      /* a stale, foreign or NULL handle or sequence */
  SKV_E_BUSY = -3,        /* another thread is inside this session */
  SKV_E_STATE = -4,       /* valid arguments, wrong moment (decode on a sequence with a queue, sample before logits) */
  SKV_E_STRUCT = -5,      /* struct_size of 0, above 4096, or an unknown tail that is not zero */
  SKV_E_UNSUPPORTED = -6, /* understood and not available here; the message names what is */
  SKV_E_INTERRUPTED = -7, /* skv_session_interrupt() or a progress callback stopped the call */
  SKV_E_FORKED = -8,      /* the runtime was created before fork(); not usable in the child */
  SKV_E_SPACE = -9,       /* the caller's output array is too small; the needed count was written */

  /* Resources. */
  SKV_E_NOMEM = -100,  /* the operating system or the device refused memory */
  SKV_E_BUDGET = -101, /* a hard limit set by the caller would be passed; the message gives both numbers */
  SKV_E_LIMIT = -102,  /* a fixed limit of the model or the library (context length, open sequences) */

  /* Devices. */
  SKV_E_NO_DEVICE = -200,   /* no such device, or its backend module could not be loaded */
  SKV_E_DEVICE_LOST = -201, /* a sticky device error; destroy what lives on that device */

  /* Data. */
  SKV_E_IO = -300,          /* a file could not be opened, read or written; native holds errno */
  SKV_E_DATA = -301,        /* a file is damaged or contradicts itself */
  SKV_E_MODEL = -302,       /* a well-formed model that this library cannot run; the message names the field */
  SKV_E_ROPE_REGIME = -303, /* reserved: a LongRoPE sequence crossed its original length */

  /* The library. */
  SKV_E_INTERNAL = -900 /* a bug in libshadowkv; please report the message */
};

/** Bytes of message text in an skv_error, with its terminating NUL. */
#define SKV_ERROR_MESSAGE_BYTES 256

/**
 * Details of a failure: optional last argument of every fallible function, written only on failure; not at all if its
 * struct_size was not set. The message is UTF-8, cut between characters.
 * There is no thread-local error: goroutines and fibers change threads.
 */
typedef struct skv_error {
  uint32_t struct_size; /* in: sizeof(skv_error); set by the caller */
  skv_status status;    /* out: the code that was returned */
  int64_t native_code;  /* out: errno or a dependency's code; 0 if there is none */
  char message[SKV_ERROR_MESSAGE_BYTES]; /* out: one line, what was given and what is allowed */
} skv_error;

/** Initialiser for an skv_error on the stack: `skv_error err = SKV_ERROR_INIT;` */
#define SKV_ERROR_INIT { (uint32_t)sizeof(skv_error), 0, 0, {0} }

#ifdef __cplusplus
}
#endif
#endif
