// Decode steps per second of a model of Llama-3.1-8B's shape over long contexts: full attention and ShadowKV in
// several codecs and batches; and the time of a prefill and of its compression. Weights and KV are random, so what is
// selected is what random queries select: rows with forced hits have the share of hits that the paper sees on text.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "lib/base/status.h"
#include "tests/gpu/decode_workload.h"
#include "tests/gpu/pinned_pages.h"

namespace skv::gpu {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kPinnedMiB = 100 * 1024;   // of 128 GiB of host memory
constexpr int64_t kLibraryMiB = 2 * 1024;    // device memory of the driver, kernels and NVIDIA's libraries
constexpr int32_t kMostBatch = 64;
constexpr int kSamples = 15, kRehearsalSamples = 3;
constexpr double kHitRate = 0.60, kHitRateTolerance = 0.03;

constexpr Setup kFull = {"full attention", SKV_POLICY_FULL, SKV_CODEC_RAW, SKV_CODEC_RAW};
constexpr Setup kRaw = {"ShadowKV 16-bit", SKV_POLICY_SHADOWKV, SKV_CODEC_RAW, SKV_CODEC_RAW};
constexpr Setup kInt8 = {"ShadowKV int8", SKV_POLICY_SHADOWKV, SKV_CODEC_INT8, SKV_CODEC_INT8};
constexpr Setup kInt4 = {"ShadowKV int8, values int4", SKV_POLICY_SHADOWKV, SKV_CODEC_INT4, SKV_CODEC_INT8};

std::string text(const char* format, double value) {
  char line[64];
  std::snprintf(line, sizeof line, format, value);
  return line;
}

struct Options {
  int32_t scale = 1;
  int64_t fast_mib = 0, pinned_mib = kPinnedMiB;  // fast_mib 0: what the device has, less kLibraryMiB
};

// A row of decode steps that fitted.
struct Speed {
  bool full;
  int64_t tokens;
  int32_t batch;
  std::string shape;
  double tokens_per_second;
};

struct Prefill {
  int64_t tokens;
  double seconds, compression, factorisation;
};

struct Case {
  const Setup& setup;
  int64_t tokens;
  int32_t batch;
};

// What fn measures, or why it does not fit.
template <class Fn>
Measured if_it_fits(Fn&& fn) {
  try {
    return fn();
  } catch (const Error& error) {
    return {0, error.what()};
  }
}

class Timings {
 public:
  Timings(Gpu& gpu, Report& report, const SyntheticLlama& llama, const Options& options)
      : gpu_(gpu), report_(report), llama_(llama), pages_(*gpu.device().memory, options.pinned_mib * kMiB),
        limits_{pages_, options.fast_mib > 0 ? options.fast_mib * kMiB
                                             : gpu.device().total_bytes[SKV_TIER_FAST] - kLibraryMiB * kMiB,
                options.scale > 1 ? kRehearsalSamples : kSamples} {}

  // One row a batch until one does not fit.
  void measure_full(int64_t tokens);
  // With the hits that there are, and with forced ones. Larger batches go on from the sequences of smaller ones.
  void measure_shadowkv(const Setup& setup, int64_t tokens, std::initializer_list<int32_t> batches);
  void measure_prefill(int64_t tokens);
  void print_ratios() const;

 private:
  using Load = std::unique_ptr<Workload>;
  bool aliased(const Case& c) const;
  std::string shape_of(const Case& c) const;
  Load make_load(const Setup& setup, int64_t tokens) {
    return std::make_unique<Workload>(gpu_, limits_, llama_, setup, tokens);
  }
  // False where it does not fit.
  bool measure_decode(const Case& c, bool forced, Load* load);
  Measured decode(const Case& c, bool forced, Load* load);
  double best_full(int64_t tokens, std::optional<int32_t> batch) const;

  Gpu& gpu_;
  Report& report_;
  const SyntheticLlama& llama_;
  PinnedPages pages_;
  const Limits limits_;
  std::vector<Speed> speeds_;
  std::vector<Prefill> prefills_;
};

// Would its pages need more pinned memory than there is?
bool Timings::aliased(const Case& c) const {
  const kv::Geometry geometry = llama_.geometry();
  const std::vector<int64_t> lengths(static_cast<std::size_t>(c.batch), c.tokens);
  const kv::MemoryTable held = kv::held_bytes(geometry, Workload::policy_of(c.setup, geometry), lengths);
  int64_t bytes = 0;
  for (int32_t purpose = 0; purpose < kPurposeCount; ++purpose) bytes += held.bytes[SKV_TIER_SLOW][purpose];
  return bytes > pages_.limit_bytes();
}

std::string Timings::shape_of(const Case& c) const {
  return std::string(c.setup.name) + ", " + std::to_string(c.tokens) + " tokens, batch " + std::to_string(c.batch) +
         (aliased(c) ? ", host_aliased" : "");
}

Measured Timings::decode(const Case& c, bool forced, Load* load) {
  pages_.set_sharing(aliased(c));
  if (*load == nullptr) *load = make_load(c.setup, c.tokens);
  while ((*load)->batch() < c.batch) (*load)->add_synthetic();
  const Decoded decoded = forced ? (*load)->decode_with_hits(kHitRate) : (*load)->decode();
  std::string note = text("%.1f tokens/s", c.batch / decoded.seconds);
  if (c.setup.policy != SKV_POLICY_FULL) note += text(", hit rate %.3f", decoded.hit_rate());
  if (forced && std::abs(decoded.hit_rate() - kHitRate) > kHitRateTolerance) note += ", NOT as forced";
  if (const int64_t bytes = pages_.shared_bytes(); bytes > 0) note += text(", %.1f MiB shared", double(bytes) / kMiB);
  return {decoded.seconds, note};
}

bool Timings::measure_decode(const Case& c, bool forced, Load* load) {
  const std::string shape = shape_of(c) + (forced ? text(", forced %.2f hits", kHitRate) : "");
  const double seconds = report_.measure({"decode step", shape}, [&] {
    return if_it_fits([&] { return decode(c, forced, load); });
  });
  if (seconds == 0) return false;
  speeds_.push_back({c.setup.policy == SKV_POLICY_FULL, c.tokens, c.batch, shape, c.batch / seconds});
  return true;
}

void Timings::measure_full(int64_t tokens) {
  Load load;
  for (int32_t batch = 1; batch <= kMostBatch; ++batch) {
    if (!measure_decode({kFull, tokens, batch}, false, &load)) break;
  }
}

void Timings::measure_shadowkv(const Setup& setup, int64_t tokens, std::initializer_list<int32_t> batches) {
  Load load;
  for (const int32_t batch : batches) {
    const Case c = {setup, tokens, batch};
    if (!measure_decode(c, true, &load) || !measure_decode(c, false, &load)) break;
  }
}

// Compression is timed on random keys, apart, as waiting for it within a prefill would slow that down.
void Timings::measure_prefill(int64_t tokens) {
  const std::string shape = shape_of({kInt8, tokens, 1});
  const double prefill = report_.measure({"prefill", shape}, [&] {
    return if_it_fits([&] { return Measured(make_load(kInt8, tokens)->prefill_seconds()); });
  });
  Compressed compressed;
  const auto compress = [&](double Compressed::* part) {
    return if_it_fits([&] {
      if (compressed.seconds == 0) {
        const Load load = make_load(kInt8, tokens);
        load->add_synthetic();  // takes memory and loads kernels
        compressed = load->add_synthetic();
      }
      return Measured(compressed.*part);
    });
  };
  const double seal =
      report_.measure({"compression, all layers", shape}, [&] { return compress(&Compressed::seconds); });
  const double factor =
      report_.measure({"factorisation, all layers", shape}, [&] { return compress(&Compressed::factorisation); });
  if (prefill > 0) prefills_.push_back({tokens, prefill, seal, factor});
}

// Tokens per second of full attention at this length: at its best batch, or at one batch; 0 where there is no row.
double Timings::best_full(int64_t tokens, std::optional<int32_t> batch) const {
  double best = 0;
  for (const Speed& speed : speeds_) {
    if (!speed.full || speed.tokens != tokens || (batch && speed.batch != *batch)) continue;
    best = std::max(best, speed.tokens_per_second);
  }
  return best;
}

void Timings::print_ratios() const {
  std::printf("\n| decode | tokens/s | over full attention's best batch | over it at the same batch |\n"
              "| --- | ---: | ---: | ---: |\n");
  for (const Speed& speed : speeds_) {
    std::printf("| %s | %.1f |", speed.shape.c_str(), speed.tokens_per_second);
    for (const double full : {best_full(speed.tokens, {}), best_full(speed.tokens, speed.batch)}) {
      if (full > 0) std::printf(" %.2f |", speed.tokens_per_second / full);
      else std::printf(" |");
    }
    std::printf("\n");
  }
  std::printf("\n| prefill, tokens | seconds | share of compression | share of factorisation |\n"
              "| ---: | ---: | ---: | ---: |\n");
  for (const Prefill& p : prefills_) {
    std::printf("| %lld | %.2f | %.3f | %.3f |\n", static_cast<long long>(p.tokens), p.seconds,
                p.compression / p.seconds, p.factorisation / p.seconds);
  }
}

// What matters most first: the stage may be stopped and goes on later. Batches 13 and 26 at 122,880 tokens are the
// largest whose pages find room in pinned memory: with one more sequence 3 to 5 GiB are shared.
void measure_all(Timings& timings, int32_t scale) {
  const auto tokens = [&](int64_t n) { return n / scale; };
  timings.measure_full(tokens(122880));
  timings.measure_shadowkv(kInt8, tokens(122880), {4, 26, 27});
  timings.measure_shadowkv(kRaw, tokens(122880), {4, 13, 14});
  timings.measure_shadowkv(kInt4, tokens(122880), {4, 40});
  timings.measure_prefill(tokens(32768));
  timings.measure_prefill(tokens(122880));
  timings.measure_full(tokens(61440));
  timings.measure_shadowkv(kInt8, tokens(61440), {4, 52});
  timings.measure_shadowkv(kRaw, tokens(61440), {4, 26});
  timings.measure_full(tokens(245760));
  timings.measure_shadowkv(kInt8, tokens(245760), {1, 2, 13});
  timings.measure_shadowkv(kInt4, tokens(245760), {2, 20});
}

}  // namespace
}  // namespace skv::gpu

// --scale N: rehearse with a model and contexts divided by N. --fast-mib N: device memory to use in all; --pinned-mib
// N: pinned memory for pages, beyond which they share it.
int main(int argc, char** argv) {
  using namespace skv::gpu;
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const long value = std::max(std::atol(argv[i + 1]), 1L);
    if (std::strcmp(argv[i], "--scale") == 0) options.scale = static_cast<int32_t>(value);
    if (std::strcmp(argv[i], "--fast-mib") == 0) options.fast_mib = value;
    if (std::strcmp(argv[i], "--pinned-mib") == 0) options.pinned_mib = value;
  }
  Gpu gpu;
  Report report(argc, argv, gpu.device().name);
  std::printf("device: %s\n", gpu.device().name.c_str());
  const SyntheticLlama llama(gpu, options.scale);
  Timings timings(gpu, report, llama, options);
  measure_all(timings, options.scale);
  report.table();
  timings.print_ratios();
}
