#include "lib/kv/seal_scratch.h"

#include <algorithm>

#include "lib/kv/seal.h"
#include "lib/kv/views.h"

namespace skv::kv {
namespace {

void carve_low_rank(Arena* arena, const Layout& layout, int64_t n_chunks, SealScratch* s) {
  const int64_t m = layout.geometry.key_width(), r = layout.policy.rank, heads = layout.geometry.kv_heads;
  s->gram = arena->take<float>(m * m);
  s->sum = arena->take<double>(m);
  s->center = arena->take<float>(m);
  s->mu = arena->take<float>(m);
  s->vectors = arena->take<float>(m * r);
  s->weighted = arena->take<float>(m * r);
  s->p = arena->take<float>(m * r);
  s->rotation = arena->take<float>(r * r);
  s->eigenvalues = arena->take<float>(r);
  s->residual = arena->take<float>(n_chunks * heads);
  s->energy = arena->take<float>(n_chunks * heads);
  const auto method = layout.policy.full_factorization ? kernels::BasisMethod::full
                                                       : kernels::BasisMethod::subspace_iteration;
  const kernels::KeyProjectDesc desc = {layout.policy.dtype, layout.geometry.kv_heads, layout.geometry.head_dim,
                                        layout.policy.rank, layout.policy.chunk, layout.policy.key_codec};
  const std::size_t bytes =
      std::max({kernels::gram_workspace_bytes(kFactorBlock, static_cast<int32_t>(m)),
                kernels::subspace_basis_workspace_bytes(static_cast<int32_t>(m), layout.policy.rank, method),
                kernels::key_project_workspace_bytes(desc, kFactorBlock)});
  s->workspace = arena->take<char>(static_cast<int64_t>(bytes));
}

}  // namespace

SealScratch carve_seal(Arena* arena, const Layout& layout, int64_t n_tokens) {
  const int64_t heads = layout.geometry.kv_heads;
  const int64_t n_chunks = ceil_div(n_tokens, layout.policy.chunk);
  const int64_t n_outliers = layout.policy.outlier_count(static_cast<int32_t>(n_chunks));
  SealScratch s = {};
  s.min_cosine = arena->take<float>(heads * n_chunks);
  s.outlier_score = arena->take<float>(heads * n_chunks);
  s.outlier_ids = arena->take<int32_t>(heads * n_outliers);
  s.n_outlier_ids = arena->take<int32_t>(heads);
  s.key_spans = arena->take<kernels::KvSpan>(heads * exact_span_bound(n_tokens));
  s.value_spans = arena->take<kernels::KvSpan>(heads * exact_span_bound(n_tokens));
  s.landmark_items = arena->take<kernels::LandmarkBuildItem>(heads);
  s.topk_items = arena->take<kernels::TopkSelectItem>(heads);
  s.store_items = arena->take<kernels::BlockStoreItem>(heads);
  s.topk_workspace = arena->take<char>(static_cast<int64_t>(kernels::topk_select_workspace_bytes(heads * n_chunks)));
  if (layout.policy.low_rank || layout.policy.weighs_channels()) {
    s.x = arena->take<float>(kFactorBlock * layout.geometry.key_width());
  }
  if (layout.policy.weighs_channels()) s.channel_energy = arena->take<double>(layout.geometry.key_width());
  if (layout.policy.low_rank) carve_low_rank(arena, layout, n_chunks, &s);
  return s;
}

int64_t seal_scratch_bytes(const Layout& layout, int64_t n_tokens) {
  Arena counter;
  carve_seal(&counter, layout, n_tokens);
  return counter.used();
}

}  // namespace skv::kv
