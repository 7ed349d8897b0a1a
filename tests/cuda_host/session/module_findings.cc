// What the harness found in a whole run of the program ends it badly.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/cuda_host/cuda_host.h"

namespace skv::test {
namespace {

struct AtExit {
  ~AtExit() {
    const std::string findings = cuda_host::take_findings();
    if (findings.empty()) return;
    std::fprintf(stderr, "%s\n", findings.c_str());
    std::fflush(stderr);
    std::_Exit(70);
  }
} const at_exit;

}  // namespace
}  // namespace skv::test
