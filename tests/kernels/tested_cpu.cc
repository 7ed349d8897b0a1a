#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "tests/kernels/tested_ops.h"

namespace skv::test {

const kernels::Ops& tested_ops() { return kernels::cpu_ops(); }

bool tested_slowly() { return false; }

bool tested_rounds_products() { return false; }

void show_to_ops(void*, std::size_t) {}

void hide_from_ops(void*) noexcept {}

bool ops_see_all_memory() { return true; }

void for_each_variant(const std::function<void(const char* name)>& fn) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    fn(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(0);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace skv::test
