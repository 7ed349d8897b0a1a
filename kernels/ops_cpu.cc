#include "kernels/ops.h"

namespace skv::kernels {

const Ops& cpu_ops() {
  static constexpr Ops ops = {
      landmark_score_cpu, topk_select_cpu, slot_update_cpu, chunk_fetch_cpu, key_rebuild_cpu, attn_decode_cpu,
      attn_prefill_cpu,   landmark_build_cpu, rope_cpu,     gemm_cpu,        rms_norm_cpu,    swiglu_cpu,
      embed_cpu,          gram_cpu,        subspace_basis_cpu, key_project_cpu, sample_cpu,
      kv_append_cpu,      kv_gather_cpu,   block_store_cpu, guard_sample_cpu, guard_grow_cpu,
      attn_remainder_cpu};
  return ops;
}

}  // namespace skv::kernels
