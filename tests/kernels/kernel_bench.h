// Timing of kernels beside the machine's own rates, measured in the same run (kernel_bench.cc).
//
//   void bench() {
//     for_each_bench_target([&](const char* variant) {
//       BenchRow row{.op = "rope", .variant = variant, .shape = "32/8/128 bf16", .tokens = n, .layers = 16,
//                    .working_set_bytes = total, .bytes = per_call};
//       run_bench(row, [&](int sample) { ... one call, on the data of layer sample % layers ... });
//     });
//   }
// Flags: --bench (best target), --bench-all-targets, --bench-small (a smoke test of the benchmark itself: few bytes).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace skv::test {

struct BenchRow {
  std::string op;
  std::string variant;
  std::string shape;
  int64_t tokens = 0;
  int32_t layers = 1;             // distinct data sets that the calls cycle through
  int64_t working_set_bytes = 0;  // of all layers together; below 4 last-level caches the row is marked warm
  double bytes = 0;               // read and written by one call of the op
  double flops = 0;               // of one call; when set, the rate is also given as a share of a GEMM's
  bool bf16_flops = false;        // compare with a bf16 GEMM's rate instead of an f32 one's
};

bool parse_bench_flags(int argc, char** argv);  // true if timings are wanted
bool bench_small();
int64_t last_level_cache_bytes();
// Layers of layer_bytes needed to fill at least 4 last-level caches, and at least min_layers (1 layer if
// --bench-small).
int32_t bench_layers(int64_t layer_bytes, int32_t min_layers = 1);

// One warm-up, then at least 7 samples. Each is followed by a probe of the machine's read bandwidth (or GEMM rate),
// so that shares are ratios of neighbours in time. Prints one JSON line. call(i) runs the op once; i counts up.
void run_bench(const BenchRow& row, const std::function<void(int64_t)>& call);

void for_each_bench_target(const std::function<void(const char* variant)>& fn);

double probe_read_bytes_per_second();             // all workers, a buffer of at least 4 last-level caches
double probe_gemm_flops_per_second(bool bf16);    // oneDNN where present, else register-resident f32 FMAs

}  // namespace skv::test
