// What the tests of landmark_build run on: every digest format; heads with keys and digests in guarded pages.
#pragma once

#include <memory>

#include "kernels/landmark_build/landmark_build.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {

using kernels::BlockCodec;
using kernels::DigestFormat;
using kernels::DigestKind;
using kernels::KvSpan;
using kernels::LandmarkBuildItem;

struct Choice {
  DigestKind kind;
  BlockCodec codec;
  const char* name;
};
inline constexpr Choice kChoices[] = {
    {DigestKind::mean, BlockCodec::raw, "mean raw"},
    {DigestKind::mean, BlockCodec::int8, "mean int8"},
    {DigestKind::mean_variance, BlockCodec::raw, "mean_variance raw"},
    {DigestKind::mean_variance, BlockCodec::int8, "mean_variance int8"},
    {DigestKind::box, BlockCodec::raw, "box"},
    {DigestKind::keys_2bit, BlockCodec::raw, "keys_2bit"},
};

inline void tested_landmark_build(const DigestFormat& format, std::span<const LandmarkBuildItem> items) {
  tested_ops().landmark_build(format, items);
}

struct Digest {  // of a run of chunks, gathered from pages
  std::vector<unsigned char> rows;
  std::vector<uint16_t> scales, variances;
  std::vector<float> cosine;
};

// Rows in pages; the last page holds only the rows it must. Everything is 0x5a until written.
struct Pages {
  static constexpr unsigned char kUnwritten = 0x5a;
  std::vector<std::unique_ptr<Buffer<unsigned char>>> data;
  std::vector<void*> pointers;
  kernels::PagedRows view;

  Pages(int64_t n_rows, int32_t per_page, int64_t row_bytes) {
    for (int64_t at = 0; at < n_rows && row_bytes > 0; at += per_page) {
      const int64_t n = std::min<int64_t>(per_page, n_rows - at);
      data.push_back(std::make_unique<Buffer<unsigned char>>(32 + n * row_bytes));
      pointers.push_back(data.back()->data());
    }
    view = {pointers.data(), 32, per_page, static_cast<int32_t>(row_bytes), static_cast<int32_t>(pointers.size())};
  }
  void clear() {
    for (const auto& page : data) std::fill(page->span().begin(), page->span().end(), kUnwritten);
  }
  template <class T>
  void gather(int64_t first, int64_t n, std::vector<T>* out) const {
    if (pointers.empty()) return;
    for (int64_t j = 0; j < first + n; ++j) {
      const auto* row = static_cast<const unsigned char*>(view.row(j));
      const auto* end = row + view.row_bytes;
      if (j >= first) out->insert(out->end(), reinterpret_cast<const T*>(row), reinterpret_cast<const T*>(end));
      else EXPECT_TRUE(std::all_of(row, end, [](unsigned char c) { return c == kUnwritten; })) << "row " << j;
    }
  }
};

// One KV head.
struct Head {
  DigestFormat format;
  int64_t n_chunks = 0;
  int32_t first_chunk = 0;
  std::vector<std::unique_ptr<Buffer<unsigned char>>> keys;
  std::vector<KvSpan> spans;
  std::unique_ptr<Buffer<float>> weights;  // inverse_weights
  std::unique_ptr<Pages> rows, scales, variances;

  explicit Head(const DigestFormat& f, int32_t first = 0) : format(f), first_chunk(first) {}
  Head(Random& rng, const DigestFormat& f, Fill fill, int32_t n_spans, int32_t max_chunks, int32_t first, float size)
      : Head(f, first) {
    for (int32_t s = 0; s < n_spans; ++s) {
      const auto n = static_cast<int32_t>(rng.integer(0, max_chunks)) * f.chunk;
      fill_rows(rng, fill, f.dtype, add_span(n), n, f.head_dim, size);
    }
  }
  unsigned char* add_span(int32_t n) {
    keys.push_back(std::make_unique<Buffer<unsigned char>>(int64_t{n} * key_bytes()));
    spans.push_back({keys.back()->data(), nullptr, n, 0});
    n_chunks += n / format.chunk;
    return keys.back()->data();
  }
  void add_span(const std::vector<float>& x) {
    unsigned char* to = add_span(static_cast<int32_t>(x.size()) / format.head_dim);
    for (std::size_t i = 0; i < x.size(); ++i) store_f32(to, format.dtype, static_cast<int64_t>(i), x[i]);
  }
  int64_t key_bytes() const { return format.head_dim * dtype_bytes(format.dtype); }

  void add_weights(Random& rng, bool powers_of_two) {
    weights = std::make_unique<Buffer<float>>(format.head_dim, sizeof(float));
    for (float& w : weights->span()) {
      w = powers_of_two ? std::ldexp(1.0f, static_cast<int>(rng.integer(-5, 5))) : rng.uniform(0.1f, 3.0f);
    }
  }
  // All keys that the digest is of, [n_chunks, C, D].
  std::vector<double> weighted_keys() const {
    std::vector<double> k;
    for (const KvSpan& span : spans)
      for (int64_t i = 0; i < int64_t{span.n} * format.head_dim; ++i)
        k.push_back(load_f32(span.k, format.dtype, i) * (weights ? double{(*weights)[i % format.head_dim]} : 1.0));
    return k;
  }
  Digest run(kernels::LandmarkBuildFn op, bool cosine = true) {
    const int64_t n = first_chunk + n_chunks;
    rows = std::make_unique<Pages>(n, 5, format.row_bytes());
    scales = std::make_unique<Pages>(n, 7, format.scale_bytes());
    variances = std::make_unique<Pages>(n, 3, format.variance_bytes());
    for (Pages* pages : {rows.get(), scales.get(), variances.get()}) pages->clear();
    Buffer<float> lowest(n_chunks);
    const LandmarkBuildItem item{spans.data(), static_cast<int32_t>(spans.size()),
                                 {rows->view, scales->view, variances->view}, first_chunk,
                                 cosine ? lowest.data() : nullptr, weights ? weights->data() : nullptr};
    op(format, {&item, 1});
    Digest digest;
    rows->gather(first_chunk, n_chunks, &digest.rows);
    scales->gather(first_chunk, n_chunks, &digest.scales);
    variances->gather(first_chunk, n_chunks, &digest.variances);
    if (cosine) digest.cosine.assign(lowest.span().begin(), lowest.span().end());
    return digest;
  }
};

}  // namespace skv::test
