// The ops of one backend, in the order of one stream. supports and workspace_bytes are pure host code in each op's header
// and hold for every backend; ops allocate nothing and, on a GPU, return before they are done. lib/device is the only
// includer in lib/.
#pragma once

#include "kernels/attn_decode/attn_decode.h"
#include "kernels/attn_prefill/attn_prefill.h"
#include "kernels/attn_remainder/attn_remainder.h"
#include "kernels/block_copy/block_copy.h"
#include "kernels/block_store/block_store.h"
#include "kernels/chunk_fetch/chunk_fetch.h"
#include "kernels/column_stats/column_stats.h"
#include "kernels/embed/embed.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gram/gram.h"
#include "kernels/guard_grow/guard_grow.h"
#include "kernels/guard_sample/guard_sample.h"
#include "kernels/key_basis/key_basis.h"
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

// X(name, result, (arguments of a call), parameters...) for every op.
#define SKV_KERNEL_OPS(X)                                                                                            \
  X(landmark_score, void, (desc, items, workspace), const LandmarkScoreDesc& desc,                                   \
    std::span<const LandmarkScoreItem> items, void* workspace)                                                       \
  X(topk_select, void, (items, workspace), std::span<const TopkSelectItem> items, void* workspace)                   \
  X(slot_update, void, (items, workspace), std::span<const SlotUpdateItem> items, void* workspace)                   \
  X(chunk_fetch, void, (format, items), const BlockFormat& format, std::span<const ChunkFetchItem> items)            \
  X(key_rebuild, void, (desc, items), const KeyRebuildDesc& desc, std::span<const KeyRebuildItem> items)             \
  X(attn_decode, void, (desc, items, workspace), const AttnDecodeDesc& desc, std::span<const AttnDecodeItem> items,  \
    void* workspace)                                                                                                 \
  X(attn_prefill, void, (desc, items, workspace), const AttnPrefillDesc& desc,                                       \
    std::span<const AttnPrefillItem> items, void* workspace)                                                         \
  X(attn_remainder, void, (desc, items, workspace), const AttnRemainderDesc& desc,                                   \
    std::span<const AttnRemainderItem> items, void* workspace)                                                       \
  X(landmark_build, void, (format, items), const DigestFormat& format, std::span<const LandmarkBuildItem> items)     \
  X(block_store, void, (format, items), const BlockFormat& format, std::span<const BlockStoreItem> items)            \
  X(block_copy, void, (items), std::span<const BlockCopyItem> items)                                                 \
  X(kv_append, void, (format, items), const KvPageFormat& format, std::span<const KvAppendItem> items)               \
  X(kv_gather, void, (args), const KvGatherArgs& args)                                                               \
  X(column_mean, void, (args), const ColumnMeanArgs& args)                                                           \
  X(column_energy, void, (args), const ColumnEnergyArgs& args)                                                       \
  X(gram, void, (args, workspace), const GramArgs& args, void* workspace)                                            \
  X(gram_center, void, (g, sum, n, m), float* g, const double* sum, int64_t n, int32_t m)                            \
  X(gram_prior, void, (desc, args, workspace), const KeyBasisDesc& desc, const GramPriorArgs& args, void* workspace) \
  X(subspace_basis, bool, (args, workspace), const SubspaceBasisArgs& args, void* workspace)                         \
  X(basis_store, void, (desc, args), const KeyBasisDesc& desc, const BasisStoreArgs& args)                           \
  X(basis_load, void, (desc, args), const KeyBasisDesc& desc, const BasisLoadArgs& args)                             \
  X(key_project, void, (desc, args, workspace), const KeyProjectDesc& desc, const KeyProjectArgs& args,              \
    void* workspace)                                                                                                 \
  X(guard_sample, void, (items, workspace), std::span<const GuardSampleItem> items, void* workspace)                 \
  X(guard_grow, void, (desc, items, workspace), const GuardGrowDesc& desc, std::span<const GuardGrowItem> items,     \
    void* workspace)                                                                                                 \
  X(rope, void, (view, items), const RopeView& view, std::span<const RopeItem> items)                                \
  X(gemm, void, (desc, args, workspace), const GemmDesc& desc, const GemmArgs& args, void* workspace)                \
  X(rms_norm, void, (x, w, eps, m, n, y), const float* x, const float* w, float eps, int64_t m, int64_t n, float* y) \
  X(swiglu, void, (gu, m, n, y), const float* gu, int64_t m, int64_t n, float* y)                                    \
  X(embed, void, (table, dtype, n, ids, m, y), const void* table, DType dtype, int64_t n, const int32_t* ids,        \
    int64_t m, float* y)                                                                                             \
  X(sample, void, (items, workspace), std::span<const SampleItem> items, void* workspace)

namespace skv::kernels {

class Ops {
 public:
  virtual ~Ops() = default;

#define SKV_OP_METHOD(name, result, call, ...) virtual result name(__VA_ARGS__) const = 0;
  SKV_KERNEL_OPS(SKV_OP_METHOD)
#undef SKV_OP_METHOD

  // What is called between the two may be kept back and handed to the device together: by end_record() at the latest, or
  // when something waits. No memory that it uses may be given back before.
  virtual void begin_record() const = 0;
  virtual void end_record() const = 0;
  // What is called between begin_aside() and end_aside() may run beside all that follows, until join() or wait(). Neither
  // may write what the other touches. No products or factorisations.
  virtual void begin_aside() const = 0;
  virtual void end_aside() const = 0;
  virtual void join() const = 0;

  // Data to data.
  virtual void copy(void* to, const void* from, int64_t bytes) const = 0;
  virtual void fill(void* to, uint8_t byte, int64_t bytes) const = 0;
  // The host's bytes may change as soon as the call returns.
  virtual void upload(void* to, const void* host, int64_t bytes) const = 0;
  // Waits for all before it that is not aside: the bytes are there when the call returns, or zeros if the device has failed.
  virtual void download(void* host, const void* from, int64_t bytes) const = 0;
  virtual void wait() const = 0;
  // Not empty once the device has failed, for good: what has been computed since is worthless.
  virtual const char* failure() const = 0;
};

class Recording {
 public:
  explicit Recording(const Ops& ops) : ops_(ops) { ops_.begin_record(); }
  ~Recording() { ops_.end_record(); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

 private:
  const Ops& ops_;
};

const Ops& cpu_ops();  // ops_cpu.cc
const Ops& ref_ops();  // ops_ref.cc: every op its double reference; slow, for tests

}  // namespace skv::kernels
