// landmark_build: one digest and one outlier score per chunk.
//
// Computes   mean_j = (1/C) sum_t k_{j,t}; row j of the digest as digest_format.h says, int8 codes and variances
//            from the f32 mean; cos_j = min_t cosine(k_{j,t}, mean_j). With inverse_weights w the digest is that of
//            the keys k_d w_d, cos_j still that of k
// Shapes     per item (KV head, a run of n chunks): k chunk rows by span list: spans hold whole chunks, n * C rows in
//            all; digest rows, row (first_chunk + j); min_cosine [n] f32 or null; inverse_weights [D] f32 or null
// Types      k of format.dtype (bf16 or f32); sums f32
// Strides    keys and rows of digests 16-byte aligned, scales and variances 2-byte
// Preconditions  inverse_weights positive, k w within f32's range
// Edges      a zero key or zero mean: cosine = 0. A key that is not finite: cosine -1 (an outlier, kept exact), and
//            NaN in the elements it spoils (raw means; both ends of a box), in the scale (int8; 2-bit: that key's)
//            and in the variance. Finite keys of any size have finite means and true cosines; their variance ends at
//            65504; scales that f16 cannot hold are NaN (int8: max|mean| > 65504 * 127; 2-bit: about rms(k) > 58000,
//            squares that overflow f32 among them); a 2-bit scale that rounds to 0 makes its codes meaningless
// Determinism a chunk's bits depend on its own keys and the weights only, not on n, the spans, the thread count or
//            whether min_cosine is asked for; weights of powers of two round nothing: the bits of a digest of k w
// Tolerance  with m = max|k w| of the chunk: mean 1e-5 m f32, one rounding more bf16; int8 codes within
//            0.5 + 1e-5 m / scale of mean / scale; 2-bit codes those of the definition but for y within 1e-5 rms(y)
//            of a threshold, the scale 1e-3 relative to that of the stored codes; int8 scales and variances the
//            reference's or the next f16; box exact (weights that are no powers of two: one rounding); cosine 1e-4
// Cost       reads n C D elements once
// Source     ShadowKV Alg. 1; facts 1.1 items 3 and 4
#pragma once

#include <span>

#include "kernels/common/digest_format.h"

namespace skv::kernels {

struct LandmarkBuildItem {
  const KvSpan* spans = nullptr;  // only k and n are read; every n is a multiple of chunk
  int32_t n_spans = 0;
  DigestRows digest;
  int32_t first_chunk = 0;
  float* min_cosine = nullptr;
  const float* inverse_weights = nullptr;
};

// C up to 32; D multiples of 16 up to 256, for keys_2bit those of hadamard.h.
bool landmark_build_supports(const DigestFormat& format);
using LandmarkBuildFn = void (*)(const DigestFormat&, std::span<const LandmarkBuildItem>);
void landmark_build_ref(const DigestFormat&, std::span<const LandmarkBuildItem>);
void landmark_build_cpu(const DigestFormat&, std::span<const LandmarkBuildItem>);

}  // namespace skv::kernels
