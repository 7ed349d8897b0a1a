#include "kernels/host_ops.h"

namespace skv::kernels {
namespace {

class RefOps final : public HostOps {
 public:
#define SKV_OP_METHOD(name, result, call, ...) \
  result name(__VA_ARGS__) const override { return name##_ref call; }
  SKV_KERNEL_OPS(SKV_OP_METHOD)
#undef SKV_OP_METHOD
};

}  // namespace

const Ops& ref_ops() {
  static const RefOps ops;
  return ops;
}

}  // namespace skv::kernels
