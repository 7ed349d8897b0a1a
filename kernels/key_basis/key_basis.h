// basis_store, basis_load, gram_prior: the low-rank basis of one segment of keys, in the form that is kept and in the
// forms that factoring wants.
//
// Stored     B [kv_heads, r, D] and mu [m] of dtype, then eigenvalues [r] f32 (per token); m = kv_heads * D. With P =
//            V Q (V [m, r] the leading directions, Q [r, r] fixed and orthogonal): B_h[j, :] = round(P[h D : h D + D, j])
// Computes   basis_store: B from V and Q; mu = round(center + sum / n) (double, then f32, then dtype); eigenvalues
//            (of V's columns) * eigenvalue_scale
//            basis_load: p [m, r] and mu [m], f32, widened from the stored form
//            gram_prior: gram += weight * V diag(eigenvalues) V^T, V = P Q^T, from the stored form of a segment
// Shapes     all row-major and contiguous; gram [m, m] f32, both triangles
// Types      sums double (store, V of gram_prior) or f32 (the product of gram_prior), one rounding to dtype
// Edges      null center and sum: mu = 0 (keys that are not centred)
// Tolerance  store: one rounding of the reference; load exact; prior 1e-5 of the largest |gram| added
// Workspace  workspace_bytes(desc): of gram_prior, the largest need of any backend
// Cost       flops 2 m r^2 (store), 2 m r^2 + 2 m^2 r (prior)
// Source     shadowkv.md sections 2 and 3
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/dtype.h"

namespace skv::kernels {

struct KeyBasisDesc {
  DType dtype = DType::bf16;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t rank = 0;

  int32_t width() const { return kv_heads * head_dim; }
  int64_t mu_at() const { return int64_t{width()} * rank * dtype_bytes(dtype); }           // bytes
  int64_t eigenvalues_at() const { return mu_at() + int64_t{width()} * dtype_bytes(dtype); }
  int64_t bytes() const { return eigenvalues_at() + int64_t{rank} * 4; }
};

struct BasisStoreArgs {
  const float* vectors = nullptr;      // V
  const float* rotation = nullptr;     // Q
  const float* eigenvalues = nullptr;  // [r]
  float eigenvalue_scale = 1.0f;
  const float* center = nullptr;  // [m]
  const double* sum = nullptr;    // [m], about center
  int64_t n = 0;                  // tokens in sum
  void* basis = nullptr;
};

struct BasisLoadArgs {
  const void* basis = nullptr;
  float* p = nullptr;
  float* mu = nullptr;
};

struct GramPriorArgs {
  const void* basis = nullptr;
  const float* rotation = nullptr;
  float weight = 1.0f;
  float* gram = nullptr;
};

void basis_store_ref(const KeyBasisDesc&, const BasisStoreArgs&);
void basis_store_cpu(const KeyBasisDesc&, const BasisStoreArgs&);
void basis_load_ref(const KeyBasisDesc&, const BasisLoadArgs&);
void basis_load_cpu(const KeyBasisDesc&, const BasisLoadArgs&);
std::size_t gram_prior_workspace_bytes(const KeyBasisDesc&);
void gram_prior_ref(const KeyBasisDesc&, const GramPriorArgs&, void* workspace);
void gram_prior_cpu(const KeyBasisDesc&, const GramPriorArgs&, void* workspace);

}  // namespace skv::kernels
