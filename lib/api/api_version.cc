#include "shadowkv/version.h"

#define SKV_TEXT_OF(x) #x
#define SKV_TEXT(x) SKV_TEXT_OF(x)

uint32_t skv_version(void) { return SKV_VERSION_MAJOR << 16 | SKV_VERSION_MINOR << 8 | SKV_VERSION_PATCH; }

const char* skv_version_string(void) {
  return SKV_TEXT(SKV_VERSION_MAJOR) "." SKV_TEXT(SKV_VERSION_MINOR) "." SKV_TEXT(SKV_VERSION_PATCH)
#if SKV_HAVE_ONEDNN && SKV_HAVE_LAPACK
      " (onednn, lapack)";
#elif SKV_HAVE_ONEDNN
      " (onednn)";
#elif SKV_HAVE_LAPACK
      " (lapack)";
#else
      "";
#endif
}
