#include "lib/kv/seal_scratch.h"

#include <algorithm>

#include "lib/kv/seal.h"
#include "lib/kv/views.h"

namespace skv::kv {
namespace {

void carve_low_rank(Arenas* arenas, const Layout& layout, int64_t n_chunks, SealScratch* s) {
  const int64_t m = layout.geometry.key_width(), r = layout.policy.rank, heads = layout.geometry.kv_heads;
  s->host_rotation = arenas->lists.take<float>(r * r);
  s->host_axes = arenas->lists.take<float>(m * r);
  s->residual = arenas->lists.take<float>(n_chunks * heads);
  s->energy = arenas->lists.take<float>(n_chunks * heads);
  Arena& data = arenas->data;
  s->gram = data.take<float>(m * m);
  s->sum = data.take<double>(m);
  s->center = data.take<float>(m);
  s->mu = data.take<float>(m);
  s->vectors = data.take<float>(m * r);
  s->p = data.take<float>(m * r);
  s->rotation = data.take<float>(r * r);
  s->eigenvalues = data.take<float>(r);
  s->residual_data = data.take<float>(n_chunks * heads);
  s->energy_data = data.take<float>(n_chunks * heads);
  const auto method = layout.policy.full_factorization ? kernels::BasisMethod::full
                                                       : kernels::BasisMethod::subspace_iteration;
  const kernels::KeyProjectDesc desc = {layout.policy.dtype, layout.geometry.kv_heads, layout.geometry.head_dim,
                                        layout.policy.rank, layout.policy.chunk, layout.policy.key_codec};
  const std::size_t bytes =
      std::max({kernels::gram_workspace_bytes(factor_block(layout.policy), static_cast<int32_t>(m)),
                kernels::subspace_basis_workspace_bytes(static_cast<int32_t>(m), layout.policy.rank, method),
                kernels::gram_prior_workspace_bytes(layout.basis()),
                kernels::key_project_workspace_bytes(desc, factor_block(layout.policy))});
  s->workspace = data.take<char>(static_cast<int64_t>(bytes));
}

}  // namespace

SealScratch carve_seal(Arenas* arenas, const Layout& layout, int64_t n_tokens) {
  const int64_t heads = layout.geometry.kv_heads, m = layout.geometry.key_width();
  const int64_t n_chunks = ceil_div(n_tokens, layout.policy.chunk);
  const int64_t n_outliers = layout.policy.outlier_count(static_cast<int32_t>(n_chunks));
  Arena &lists = arenas->lists, &data = arenas->data;
  SealScratch s = {};
  s.score = lists.take<float>(heads * n_chunks);
  s.ids = lists.take<int32_t>(heads * n_outliers);
  s.n_ids = lists.take<int32_t>(heads);
  s.copies = lists.take<kernels::BlockCopyItem>(2 * heads);
  s.key_spans = lists.take<kernels::KvSpan>(heads * exact_span_bound(n_tokens));
  s.value_spans = lists.take<kernels::KvSpan>(heads * exact_span_bound(n_tokens));
  s.landmark_items = lists.take<kernels::LandmarkBuildItem>(heads);
  s.topk_items = lists.take<kernels::TopkSelectItem>(heads);
  s.store_items = lists.take<kernels::BlockStoreItem>(heads);
  s.score_data = data.take<float>(heads * n_chunks);
  s.ids_data = data.take<int32_t>(heads * n_outliers);
  s.n_ids_data = data.take<int32_t>(heads);
  s.topk_workspace = data.take<char>(static_cast<int64_t>(kernels::topk_select_workspace_bytes(heads * n_chunks)));
  if (layout.policy.low_rank || layout.policy.weighs_channels()) s.x = data.take<float>(factor_block(layout.policy) * m);
  if (layout.policy.weighs_channels()) {
    s.key_energy = lists.take<double>(m);
    s.query_energy = lists.take<double>(m);
    s.weights = lists.take<float>(2 * m);
    s.channel_energy = data.take<double>(m);
  }
  if (layout.policy.low_rank) carve_low_rank(arenas, layout, n_chunks, &s);
  return s;
}

ScratchBytes seal_scratch_bytes(const Layout& layout, int64_t n_tokens) {
  Arenas counter;
  carve_seal(&counter, layout, n_tokens);
  return used(counter);
}

}  // namespace skv::kv
