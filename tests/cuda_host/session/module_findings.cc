// Kernels see what a GPU would: device memory and pinned memory. What the harness found in a whole run ends the program badly.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/cuda_host/cuda_host.h"

namespace skv::test {
namespace {

struct AtExit {
  AtExit() { cuda_host::set_device_memory_only(true); }
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
