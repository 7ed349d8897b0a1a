#ifndef SHADOWKV_VERSION_H
#define SHADOWKV_VERSION_H

#include <stdint.h>

#if defined(_WIN32)
#define SKV_API
#elif defined(__GNUC__)
#define SKV_API __attribute__((visibility("default")))
#else
#define SKV_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/**
 * @file version.h
 * Version of the library and of its ABI.
 *
 * Within one major version the ABI only grows: functions and trailing struct fields are added, nothing changes meaning.
 */

#define SKV_VERSION_MAJOR 0
#define SKV_VERSION_MINOR 1
#define SKV_VERSION_PATCH 0

/**
 * Version of the library that is loaded, which may be newer than the headers.
 *
 * @returns (major << 16) | (minor << 8) | patch.
 * @on_failure cannot fail. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API uint32_t skv_version(void);

/**
 * The same as text, with the build's features: "0.1.0 (onednn, lapack)".
 *
 * @returns static text, never NULL; owned by the library.
 * @on_failure cannot fail. @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API const char *skv_version_string(void);

#ifdef __cplusplus
}
#endif
#endif
