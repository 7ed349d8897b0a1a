#include "kernels/block_copy/block_copy.h"

namespace skv::kernels {

void block_copy_ref(std::span<const BlockCopyItem> items) {
  for (const BlockCopyItem& item : items) {
    for (int64_t b = 0; b < item.bytes; ++b) static_cast<char*>(item.to)[b] = static_cast<const char*>(item.from)[b];
  }
}

}  // namespace skv::kernels
