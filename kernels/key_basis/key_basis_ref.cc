#include <vector>

#include "kernels/key_basis/key_basis.h"

namespace skv::kernels {
namespace {

int64_t stored_at(const KeyBasisDesc& desc, int64_t i, int64_t j) {  // of P[i, j], in elements
  return (i / desc.head_dim * desc.rank + j) * desc.head_dim + i % desc.head_dim;
}

const float* eigenvalues_of(const KeyBasisDesc& desc, const void* basis) {
  return static_cast<const float*>(offset_bytes(basis, desc.eigenvalues_at()));
}

}  // namespace

void basis_store_ref(const KeyBasisDesc& desc, const BasisStoreArgs& args) {
  const int64_t m = desc.width(), r = desc.rank;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < r; ++j) {
      double p = 0.0;
      for (int64_t l = 0; l < r; ++l) p += double{args.vectors[i * r + l]} * args.rotation[l * r + j];
      store_f32(args.basis, desc.dtype, stored_at(desc, i, j), static_cast<float>(p));
    }
    const double mu = args.center && args.sum ? args.center[i] + args.sum[i] / static_cast<double>(args.n) : 0.0;
    store_f32(args.basis, desc.dtype, m * r + i, static_cast<float>(mu));
  }
  auto* eigenvalues = static_cast<float*>(offset_bytes(args.basis, desc.eigenvalues_at()));
  for (int64_t j = 0; j < r; ++j) eigenvalues[j] = args.eigenvalues[j] * args.eigenvalue_scale;
}

void basis_load_ref(const KeyBasisDesc& desc, const BasisLoadArgs& args) {
  const int64_t m = desc.width(), r = desc.rank;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < r; ++j) args.p[i * r + j] = load_f32(args.basis, desc.dtype, stored_at(desc, i, j));
    args.mu[i] = load_f32(args.basis, desc.dtype, m * r + i);
  }
}

void gram_prior_ref(const KeyBasisDesc& desc, const GramPriorArgs& args, void*) {
  const int64_t m = desc.width(), r = desc.rank;
  const float* eigenvalues = eigenvalues_of(desc, args.basis);
  std::vector<double> v(static_cast<std::size_t>(m * r), 0.0);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < r; ++j)
      for (int64_t l = 0; l < r; ++l)
        v[i * r + j] += double{load_f32(args.basis, desc.dtype, stored_at(desc, i, l))} * args.rotation[j * r + l];
  for (int64_t i = 0; i < m; ++i)
    for (int64_t k = 0; k < m; ++k) {
      double sum = 0.0;
      for (int64_t j = 0; j < r; ++j) sum += v[i * r + j] * eigenvalues[j] * v[k * r + j];
      args.gram[i * m + k] = static_cast<float>(args.gram[i * m + k] + args.weight * sum);
    }
}

}  // namespace skv::kernels
