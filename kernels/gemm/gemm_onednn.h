// The oneDNN side of gemm, for many rows. Internal to kernels/gemm.
#pragma once

#include "kernels/gemm/gemm.h"

namespace skv::kernels {

#ifdef SKV_HAVE_ONEDNN
// Bytes that gemm_onednn may use at any m; 0 where it would not be used.
std::size_t gemm_onednn_workspace_bytes(const GemmDesc& desc);

// False, with c untouched: no fast oneDNN kernel for this weight type, shape or CPU; the caller has another way.
bool gemm_onednn(const GemmDesc& desc, const GemmArgs& args, void* workspace);
#else
inline std::size_t gemm_onednn_workspace_bytes(const GemmDesc&) { return 0; }
inline bool gemm_onednn(const GemmDesc&, const GemmArgs&, void*) { return false; }
#endif

}  // namespace skv::kernels
