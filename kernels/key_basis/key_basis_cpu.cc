#include <algorithm>

#include "kernels/common/parallel.h"
#include "kernels/common/sgemm.h"
#include "kernels/common/workspace.h"
#include "kernels/key_basis/key_basis.h"
#include "kernels/key_basis/key_basis_cuda.h"

// Once a segment: the large product runs in sgemm, which chooses the SIMD target; the rest is O(m r^2) in double.
namespace skv::kernels {
namespace {

struct PriorScratch {
  float* p;         // [m, r]
  float* vectors;   // [m, r]
  float* weighted;  // [m, r]
  float* mu;        // [m]
  void* matmul;
};

PriorScratch prior_scratch(WorkspaceCursor& cursor, const KeyBasisDesc& desc) {
  const int64_t m = desc.width(), r = desc.rank;
  PriorScratch s;
  s.p = cursor.take<float>(m * r);
  s.vectors = cursor.take<float>(m * r);
  s.weighted = cursor.take<float>(m * r);
  s.mu = cursor.take<float>(m);
  s.matmul = cursor.take_bytes(matmul_workspace_bytes(m, m, sizeof(float)));
  return s;
}

}  // namespace

void basis_store_cpu(const KeyBasisDesc& desc, const BasisStoreArgs& args) {
  const int64_t m = desc.width(), r = desc.rank, dim = desc.head_dim;
  parallel_for(m, [&](int64_t i, int) {
    const int64_t head = i / dim, column = i % dim;
    for (int64_t j = 0; j < r; ++j) {
      double p = 0.0;
      for (int64_t l = 0; l < r; ++l) p += double{args.vectors[i * r + l]} * args.rotation[l * r + j];
      store_f32(args.basis, desc.dtype, (head * r + j) * dim + column, static_cast<float>(p));
    }
  });
  for (int64_t i = 0; i < m; ++i) {
    const double mu = args.center && args.sum ? args.center[i] + args.sum[i] / static_cast<double>(args.n) : 0.0;
    store_f32(args.basis, desc.dtype, m * r + i, static_cast<float>(mu));
  }
  auto* eigenvalues = static_cast<float*>(offset_bytes(args.basis, desc.eigenvalues_at()));
  for (int64_t j = 0; j < r; ++j) eigenvalues[j] = args.eigenvalues[j] * args.eigenvalue_scale;
}

void basis_load_cpu(const KeyBasisDesc& desc, const BasisLoadArgs& args) {
  const int64_t m = desc.width(), r = desc.rank, dim = desc.head_dim;
  parallel_for(m, [&](int64_t i, int) {
    const int64_t head = i / dim, column = i % dim;
    for (int64_t j = 0; j < r; ++j)
      args.p[i * r + j] = load_f32(args.basis, desc.dtype, (head * r + j) * dim + column);
    args.mu[i] = load_f32(args.basis, desc.dtype, m * r + i);
  });
}

std::size_t gram_prior_workspace_bytes(const KeyBasisDesc& desc) {
  WorkspaceCursor cpu(nullptr), cuda(nullptr);
  prior_scratch(cpu, desc);
  gram_prior_cuda_scratch(cuda, desc);
  return std::max(cpu.bytes(), cuda.bytes());
}

void gram_prior_cpu(const KeyBasisDesc& desc, const GramPriorArgs& args, void* workspace) {
  const int64_t m = desc.width(), r = desc.rank;
  WorkspaceCursor cursor(workspace);
  const PriorScratch s = prior_scratch(cursor, desc);
  basis_load_cpu(desc, {args.basis, s.p, s.mu});
  const auto* eigenvalues = static_cast<const float*>(offset_bytes(args.basis, desc.eigenvalues_at()));
  parallel_for(m, [&](int64_t i, int) {
    for (int64_t j = 0; j < r; ++j) {
      double v = 0.0;  // (P Q^T)[i, j]
      for (int64_t l = 0; l < r; ++l) v += double{s.p[i * r + l]} * args.rotation[j * r + l];
      s.vectors[i * r + j] = static_cast<float>(v);
      s.weighted[i * r + j] = static_cast<float>(v) * eigenvalues[j] * args.weight;
    }
  });
  MatmulArgs<float> product{.a = s.weighted,
                            .lda = r,
                            .b = s.vectors,
                            .ldb = r,
                            .trans_b = true,
                            .c = args.gram,
                            .ldc = m,
                            .m = m,
                            .n = m,
                            .k = r};
  product.accumulate = true;
  sgemm(product, s.matmul);
}

}  // namespace skv::kernels
