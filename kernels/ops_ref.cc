#include "kernels/ops.h"

namespace skv::kernels {

const Ops& ref_ops() {
  static constexpr Ops ops = {
      landmark_score_ref, topk_select_ref, slot_update_ref, chunk_fetch_ref, key_rebuild_ref, attn_decode_ref,
      attn_prefill_ref,   landmark_build_ref, rope_ref,     gemm_ref,        rms_norm_ref,    swiglu_ref,
      embed_ref,          gram_ref,        subspace_basis_ref, key_project_ref, sample_ref,
      kv_append_ref,      kv_gather_ref,   block_store_ref, guard_sample_ref, guard_grow_ref,
      attn_remainder_ref};
  return ops;
}

}  // namespace skv::kernels
