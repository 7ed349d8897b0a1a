#include "kernels/gemm/gemm.h"

namespace skv::kernels {

void gemm_ref(const GemmDesc& desc, const GemmArgs& args, void*) {
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t j = 0; j < desc.n; ++j) {
      float* c = args.c + i * args.ldc + j;
      double sum = args.accumulate ? static_cast<double>(*c) : 0.0;
      if (args.bias != nullptr) sum += static_cast<double>(args.bias[j]);
      for (int64_t k = 0; k < desc.k; ++k) {
        sum += static_cast<double>(args.a[i * args.lda + k]) *
               static_cast<double>(load_f32(args.w, desc.w_dtype, j * desc.k + k));
      }
      *c = static_cast<float>(sum);
    }
  }
}

}  // namespace skv::kernels
