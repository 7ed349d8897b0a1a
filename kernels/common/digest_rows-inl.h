// Digest rows and their f16 scales, walked across pages. Per target, as simd-inl.h.
#if defined(SKV_KERNELS_COMMON_DIGEST_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SKV_KERNELS_COMMON_DIGEST_ROWS_INL_H_
#undef SKV_KERNELS_COMMON_DIGEST_ROWS_INL_H_
#else
#define SKV_KERNELS_COMMON_DIGEST_ROWS_INL_H_
#endif

#include <algorithm>

#include "kernels/common/paged.h"
#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

// Digest rows from first on, across pages.
template <class T>
class DigestCursor {
 public:
  DigestCursor(const PagedRows& rows, int32_t first, int32_t n)
      : rows_(rows), page_(first / rows.rows_per_page), row_(first % rows.rows_per_page), left_(n) {}

  // The next rows, at most limit of them; how many.
  int fill(const T** out, int limit) {
    int n = 0;
    for (; left_ > 0 && n < limit; ++n, --left_, ++row_) {
      if (row_ == rows_.rows_per_page) row_ = 0, ++page_;
      const int64_t at = rows_.offset_bytes + int64_t{row_} * rows_.row_bytes;
      out[n] = static_cast<const T*>(offset_bytes(rows_.pages[page_], at));
    }
    return n;
  }

 private:
  const PagedRows& rows_;
  int32_t page_, row_, left_;
};

inline constexpr std::size_t kHalfPad = 16;  // load_halves writes whole vectors

// out[i] = element i of rows [first, first + n) of `width` f16 elements each. out has room for kHalfPad more.
HWY_INLINE void load_halves(const PagedRows& rows, int32_t first, int32_t n, int32_t width, float* out) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d);
  for (int32_t done = 0; done < n;) {
    const int32_t row = first + done, run = std::min(n - done, rows.rows_per_page - row % rows.rows_per_page);
    const F16* from = static_cast<const F16*>(rows.row(row));
    const auto size = static_cast<std::size_t>(run) * static_cast<std::size_t>(width);
    std::size_t i = 0;
    for (; i + lanes <= size; i += lanes) hn::StoreU(load(d, from + i), d, out + i);
    if (i < size) hn::StoreU(load_n(d, from + i, size - i), d, out + i);
    out += size;
    done += run;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();
#endif
