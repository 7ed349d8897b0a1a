// Linked into test programs that know nothing of the harness: what it found fails the test it was found in.
#include <gtest/gtest.h>

#include <string>

#include "tests/cuda_host/cuda_host.h"

namespace skv::test {
namespace {

class FindingsListener : public ::testing::EmptyTestEventListener {
  void OnTestStart(const ::testing::TestInfo&) override { cuda_host::take_findings(); }
  void OnTestEnd(const ::testing::TestInfo&) override {
    const std::string findings = cuda_host::take_findings();
    if (!findings.empty()) ADD_FAILURE() << findings;
  }
};

const bool listening = [] {
  ::testing::UnitTest::GetInstance()->listeners().Append(new FindingsListener);
  return true;
}();

}  // namespace
}  // namespace skv::test
