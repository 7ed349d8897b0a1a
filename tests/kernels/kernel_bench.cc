#include "tests/kernels/kernel_bench.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include <omp.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/kernels/kernel_bench.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#if SKV_HAVE_ONEDNN
#include <oneapi/dnnl/dnnl.hpp>
#endif

HWY_BEFORE_NAMESPACE();
namespace skv::test {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Eight streams of loads in flight; the xor keeps the loads alive. n is a multiple of 8 vectors.
uint64_t read_all(const uint64_t* p, std::size_t n) {
  const hn::ScalableTag<uint64_t> d;
  const std::size_t lanes = hn::Lanes(d);
  auto a = hn::Zero(d), b = a, c = a, e = a;
  for (std::size_t i = 0; i + 8 * lanes <= n; i += 8 * lanes) {
    a = hn::Xor(a, hn::Xor(hn::LoadU(d, p + i), hn::LoadU(d, p + i + lanes)));
    b = hn::Xor(b, hn::Xor(hn::LoadU(d, p + i + 2 * lanes), hn::LoadU(d, p + i + 3 * lanes)));
    c = hn::Xor(c, hn::Xor(hn::LoadU(d, p + i + 4 * lanes), hn::LoadU(d, p + i + 5 * lanes)));
    e = hn::Xor(e, hn::Xor(hn::LoadU(d, p + i + 6 * lanes), hn::LoadU(d, p + i + 7 * lanes)));
  }
  return hn::GetLane(hn::Xor(hn::Xor(a, b), hn::Xor(c, e)));
}

// Twelve independent chains cover the FMA latency. Returns flops; sink keeps the sums alive.
double multiply_add(int64_t rounds, float* sink) {
  const hn::ScalableTag<float> d;
  auto x0 = hn::Set(d, *sink), x1 = x0, x2 = x0, x3 = x0, x4 = x0, x5 = x0;
  auto x6 = x0, x7 = x0, x8 = x0, x9 = x0, x10 = x0, x11 = x0;
  const auto m = hn::Set(d, 0.999f), c = hn::Set(d, 1e-3f);
  for (int64_t i = 0; i < rounds; ++i) {
    x0 = hn::MulAdd(x0, m, c), x1 = hn::MulAdd(x1, m, c), x2 = hn::MulAdd(x2, m, c), x3 = hn::MulAdd(x3, m, c);
    x4 = hn::MulAdd(x4, m, c), x5 = hn::MulAdd(x5, m, c), x6 = hn::MulAdd(x6, m, c), x7 = hn::MulAdd(x7, m, c);
    x8 = hn::MulAdd(x8, m, c), x9 = hn::MulAdd(x9, m, c), x10 = hn::MulAdd(x10, m, c), x11 = hn::MulAdd(x11, m, c);
  }
  const auto s = hn::Add(hn::Add(hn::Add(x0, x1), hn::Add(x2, x3)), hn::Add(hn::Add(x4, x5), hn::Add(x6, x7)));
  *sink = hn::GetLane(hn::Add(s, hn::Add(hn::Add(x8, x9), hn::Add(x10, x11))));
  return 2.0 * 12 * static_cast<double>(rounds) * static_cast<double>(hn::Lanes(d));
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::test
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::test {
namespace {

HWY_EXPORT(read_all);
HWY_EXPORT(multiply_add);

struct Flags {
  bool all_targets = false;
  bool small = false;
};
Flags flags;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x.size() % 2 ? x[x.size() / 2] : 0.5 * (x[x.size() / 2 - 1] + x[x.size() / 2]);
}

#if SKV_HAVE_ONEDNN
// Seconds of one n^3 matmul.
double time_matmul(dnnl::memory::data_type type, int64_t n) {
  using namespace dnnl;
  const engine cpu(engine::kind::cpu, 0);
  stream queue(cpu);
  const memory::desc in({n, n}, type, memory::format_tag::ab);
  const memory::desc out({n, n}, memory::data_type::f32, memory::format_tag::ab);
  memory a(in, cpu), b(in, cpu), c(out, cpu);
  std::memset(a.get_data_handle(), 0, in.get_size());
  std::memset(b.get_data_handle(), 0, in.get_size());
  const matmul op(matmul::primitive_desc(matmul::desc(in, in, out), cpu));
  double best = 1e30;
  for (int i = 0; i < 3; ++i) {
    const double start = now();
    op.execute(queue, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}});
    queue.wait();
    best = std::min(best, now() - start);
  }
  return best;
}
#endif

std::string device_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    std::string name = line.substr(line.find(':') + 2);
    std::erase_if(name, [](char c) { return c == '"' || c == '\\'; });
    return name + " x" + std::to_string(omp_get_max_threads());
  }
  return "unknown x" + std::to_string(omp_get_max_threads());
}

void print_row(const BenchRow& row, double seconds, double spread, double fastest, double share,
               double probe, int samples) {
  const char* commit = std::getenv("SKV_COMMIT");
  const bool warm = row.working_set_bytes < 4 * last_level_cache_bytes();
  std::printf("{\"bench\": \"kernel\", \"op\": \"%s\", \"variant\": \"%s\", \"shape\": \"%s\", \"tokens\": %lld, "
              "\"layers\": %d, \"working_set_bytes\": %lld, \"seconds\": %.9g, \"seconds_min\": %.9g, "
              "\"seconds_spread\": %.3g, "
              "\"samples\": %d, \"bytes\": %.0f, ",
              row.op.c_str(), row.variant.c_str(), row.shape.c_str(), static_cast<long long>(row.tokens), row.layers,
              static_cast<long long>(row.working_set_bytes), seconds, fastest, spread, samples,
              row.bytes);
  if (row.flops > 0) {
    std::printf("\"flops\": %.0f, \"flop_share\": %.3f, \"machine_gflops\": %.1f, \"bandwidth_share\": null, ",
                row.flops, share, probe * 1e-9);
  } else {
    std::printf("\"bandwidth_share\": %.3f, \"machine_read_gb_per_s\": %.1f, ", share, probe * 1e-9);
  }
  std::printf("\"warm\": %s, \"device\": \"%s\", \"commit\": \"%s\"}\n", warm ? "true" : "false",
              device_name().c_str(), commit ? commit : "unknown");
  std::fflush(stdout);
}

}  // namespace

bool parse_bench_flags(int argc, char** argv) {
  bool wanted = false;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    flags.all_targets |= flag == "--bench-all-targets";
    flags.small |= flag == "--bench-small";
    wanted |= flag.rfind("--bench", 0) == 0;
  }
  return wanted;
}

bool bench_small() { return flags.small; }

int64_t last_level_cache_bytes() {
  // sysconf may report a whole package's cache to a virtual machine that sees a part of it; the kernel's table first.
  for (const char* level : {"3", "2"}) {
    std::ifstream file(std::string("/sys/devices/system/cpu/cpu0/cache/index") + level + "/size");
    int64_t kib = 0;
    if (file >> kib && kib > 0) return kib << 10;
  }
  const int64_t l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return l3 > 0 ? l3 : int64_t{32} << 20;
}

int32_t bench_layers(int64_t layer_bytes, int32_t min_layers) {
  if (flags.small) return 1;
  const int64_t needed = 4 * last_level_cache_bytes() / std::max<int64_t>(layer_bytes, 1) + 1;
  return static_cast<int32_t>(std::max<int64_t>(needed, min_layers));
}

double probe_read_bytes_per_second() {
  static const std::size_t words = static_cast<std::size_t>(
      flags.small ? int64_t{1} << 20 : std::max<int64_t>(4 * last_level_cache_bytes(), int64_t{256} << 20) / 8);
  static const std::unique_ptr<uint64_t[]> data = [] {
    std::unique_ptr<uint64_t[]> p(new uint64_t[words]);
    std::memset(p.get(), 1, words * 8);
    return p;
  }();
  static uint64_t sink = 0;
  const std::size_t piece = std::size_t{1} << 16;
  const double start = now();
  uint64_t folded = 0;
#pragma omp parallel for schedule(static) reduction(^ : folded)
  for (std::size_t i = 0; i < words; i += piece) folded ^= HWY_DYNAMIC_DISPATCH(read_all)(data.get() + i, piece);
  const double seconds = now() - start;
  sink ^= folded;
  return static_cast<double>(words) * 8 / seconds;
}

double probe_gemm_flops_per_second(bool bf16) {
#if SKV_HAVE_ONEDNN
  const int64_t n = flags.small ? 128 : 1024;
  try {
    const auto type = bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
    return 2.0 * static_cast<double>(n * n * n) / time_matmul(type, n);
  } catch (const dnnl::error&) {  // no bf16 on this CPU: the f32 rate below is what there is
  }
#endif
  (void)bf16;
  double flops = 0;
  const double start = now();
#pragma omp parallel reduction(+ : flops)
  {
    float sink = 1.0f;
    flops += HWY_DYNAMIC_DISPATCH(multiply_add)(flags.small ? 10000 : 2000000, &sink);
    if (sink == 12345.0f) std::fputs(" ", stderr);
  }
  return flops / (now() - start);
}

void run_bench(const BenchRow& row, const std::function<void(int64_t)>& call) {
  const int samples = flags.small ? 7 : 9;
  int64_t count = 0;
  double start = now();
  call(count++);
  // Short calls are repeated within a sample until the clock's grain and the thread start-up do not matter.
  const int repeat = static_cast<int>(std::clamp(0.05 / (now() - start), 1.0, flags.small ? 3.0 : 1e5));
  std::vector<double> seconds, shares, probes;
  for (int s = 0; s < samples; ++s) {
    start = now();
    for (int i = 0; i < repeat; ++i) call(count++);
    seconds.push_back((now() - start) / repeat);
    probes.push_back(row.flops > 0 ? probe_gemm_flops_per_second(row.bf16_flops) : probe_read_bytes_per_second());
    shares.push_back((row.flops > 0 ? row.flops : row.bytes) / seconds.back() / probes.back());
  }
  const auto [low, high] = std::minmax_element(seconds.begin(), seconds.end());
  const double mid = median(seconds);
  print_row(row, mid, (*high - *low) / mid, *low, median(shares), median(probes), samples);
}

void for_each_bench_target(const std::function<void(const char*)>& fn) {
  const auto targets = hwy::SupportedAndGeneratedTargets();  // best first
  for (const int64_t target : targets) {
    hwy::SetSupportedTargetsForTest(target);
    fn(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(0);
    if (!flags.all_targets) return;
  }
}

}  // namespace skv::test
#endif  // HWY_ONCE
