// The ops of one backend, as plain function pointers. supports and workspace_bytes are pure host code in each op's
// header; run functions allocate nothing and do not synchronise. lib/device is the only includer in lib/.
#pragma once

#include "kernels/attn_decode/attn_decode.h"
#include "kernels/attn_prefill/attn_prefill.h"
#include "kernels/attn_remainder/attn_remainder.h"
#include "kernels/block_store/block_store.h"
#include "kernels/chunk_fetch/chunk_fetch.h"
#include "kernels/embed/embed.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gram/gram.h"
#include "kernels/guard_grow/guard_grow.h"
#include "kernels/guard_sample/guard_sample.h"
#include "kernels/key_project/key_project.h"
#include "kernels/key_rebuild/key_rebuild.h"
#include "kernels/kv_append/kv_append.h"
#include "kernels/kv_gather/kv_gather.h"
#include "kernels/landmark_build/landmark_build.h"
#include "kernels/landmark_score/landmark_score.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "kernels/sample/sample.h"
#include "kernels/slot_update/slot_update.h"
#include "kernels/subspace_basis/subspace_basis.h"
#include "kernels/swiglu/swiglu.h"
#include "kernels/topk_select/topk_select.h"

namespace skv::kernels {

struct Ops {
  LandmarkScoreFn landmark_score;
  TopkSelectFn topk_select;
  SlotUpdateFn slot_update;
  ChunkFetchFn chunk_fetch;
  KeyRebuildFn key_rebuild;
  AttnDecodeFn attn_decode;
  AttnPrefillFn attn_prefill;
  LandmarkBuildFn landmark_build;
  RopeFn rope;
  GemmFn gemm;
  RmsNormFn rms_norm;
  SwigluFn swiglu;
  EmbedFn embed;
  GramFn gram;
  SubspaceBasisFn subspace_basis;
  KeyProjectFn key_project;
  SampleFn sample;
  KvAppendFn kv_append;
  KvGatherFn kv_gather;
  BlockStoreFn block_store;
  GuardSampleFn guard_sample;
  GuardGrowFn guard_grow;
  AttnRemainderFn attn_remainder;
};

const Ops& cpu_ops();  // ops_cpu.cc
const Ops& ref_ops();  // ops_ref.cc: every op its double reference; slow, for tests

}  // namespace skv::kernels
