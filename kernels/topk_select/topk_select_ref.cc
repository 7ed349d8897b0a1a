#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/topk_select/topk_select.h"

namespace skv::kernels {

void topk_select_ref(std::span<const TopkSelectItem> items, void*) {
  for (const TopkSelectItem& item : items) {
    std::vector<int32_t> order;
    for (int32_t j = 0; j < item.n; ++j) {
      if (item.scores[j] != -std::numeric_limits<float>::infinity()) order.push_back(j);
    }
    // Nothing in the order is -inf, so NaN can stand there.
    const auto key = [&](int32_t j) {
      return std::isnan(item.scores[j]) ? -std::numeric_limits<float>::infinity() : item.scores[j];
    };
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return key(a) > key(b); });
    const int32_t count = std::min(std::max(item.k, 0), static_cast<int32_t>(order.size()));
    std::sort(order.begin(), order.begin() + count);
    std::copy(order.begin(), order.begin() + count, item.ids);
    *item.n_ids = count;
  }
}

}  // namespace skv::kernels
