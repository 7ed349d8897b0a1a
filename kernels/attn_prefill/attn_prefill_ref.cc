#include "kernels/attn_prefill/attn_prefill.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace skv::kernels {
namespace {

constexpr double kMinusInf = -std::numeric_limits<double>::infinity();

// One score per visible key, in span order, and a pointer to its value row.
struct Visible {
  std::vector<double> scores;
  std::vector<const void*> values;
};

void collect(const AttnPrefillDesc& desc, const AttnPrefillItem& item, const float* q, int64_t pos, Visible& out) {
  out.scores.clear();
  out.values.clear();
  const int64_t row_bytes = desc.head_dim * dtype_bytes(desc.dtype);
  for (int32_t s = 0; s < item.n_spans; ++s) {
    const KvSpan& span = item.spans[s];
    for (int32_t i = 0; i < span.n && span.pos + i <= pos; ++i) {
      const void* k = offset_bytes(span.k, i * row_bytes);
      double dot = 0.0;
      for (int32_t d = 0; d < desc.head_dim; ++d) {
        dot += static_cast<double>(q[d]) * static_cast<double>(load_f32(k, desc.dtype, d));
      }
      out.scores.push_back(dot * static_cast<double>(desc.scale));
      out.values.push_back(offset_bytes(span.v, i * row_bytes));
    }
  }
}

void attend(const AttnPrefillDesc& desc, const Visible& visible, bool merge, float* out, float* lse) {
  const double old_lse = merge ? static_cast<double>(*lse) : kMinusInf;
  double max = old_lse;
  for (double s : visible.scores) max = s > max || std::isnan(s) ? s : max;
  const double shift = max == kMinusInf ? 0.0 : max;  // nothing visible, or every score -inf: weights are 0, not NaN
  const double old_weight = std::exp(old_lse - shift);
  double sum = old_weight;
  for (double s : visible.scores) sum += std::exp(s - shift);
  for (int32_t d = 0; d < desc.head_dim; ++d) {
    double value = old_weight == 0.0 ? 0.0 : old_weight * static_cast<double>(out[d]);
    for (std::size_t i = 0; i < visible.scores.size(); ++i) {
      value += std::exp(visible.scores[i] - shift) * static_cast<double>(load_f32(visible.values[i], desc.dtype, d));
    }
    out[d] = sum == 0.0 ? 0.0f : static_cast<float>(value / sum);
  }
  if (lse != nullptr) *lse = static_cast<float>(sum == 0.0 ? kMinusInf : shift + std::log(sum));
}

}  // namespace

void attn_prefill_ref(const AttnPrefillDesc& desc, std::span<const AttnPrefillItem> items, void*) {
  Visible visible;
  for (const AttnPrefillItem& item : items) {
    for (int64_t t = 0; t < item.n_q; ++t) {
      for (int32_t g = 0; g < desc.group; ++g) {
        const int64_t head = int64_t{g} * desc.head_dim;
        collect(desc, item, item.q + t * item.q_stride + head, item.pos + t, visible);
        if (item.merge && visible.scores.empty()) continue;
        float* lse = item.lse == nullptr ? nullptr : item.lse + t * item.lse_stride + g;
        attend(desc, visible, item.merge, item.out + t * item.out_stride + head, lse);
      }
    }
  }
}

}  // namespace skv::kernels
