#include "tests/gpu/timing_frame.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

#include <nlohmann/json.hpp>

#include "kernels/common/dtype.h"
#include "lib/device/module_loader.h"

namespace skv::gpu {

namespace {

constexpr int64_t kNoiseBytes = int64_t{16} << 20;
constexpr int kSamples = 7;
constexpr double kSampleSeconds = 0.02;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string key_of(const std::string& op, const std::string& shape) { return op + " | " + shape; }

}  // namespace

Gpu::Gpu() {
  device::CudaDevices found = device::cuda_devices();
  if (found.devices.empty()) {
    std::fprintf(stderr, "no CUDA device: %s\n", found.missing.c_str());
    std::exit(2);
  }
  device_ = std::move(found.devices.front());
  account_.set_source(device_.memory);
  queue_ = device_.make_queue(account_);
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> host(kNoiseBytes / 2);
  for (uint16_t& x : host) x = f32_to_bf16(normal(engine));
  noise_ = filled(host);
}

Buffer Gpu::random(int64_t bytes, skv_tier tier) {
  Buffer data = empty(bytes, tier);
  for (int64_t at = 0; at < bytes; at += kNoiseBytes) {
    ops().copy(data.as<char>() + at, noise_.data(), std::min(kNoiseBytes, bytes - at));
  }
  return data;
}

void Gpu::check() const {
  if (*ops().failure() == '\0') return;
  std::fprintf(stderr, "device failure: %s\n", ops().failure());
  std::exit(3);
}

double Gpu::seconds(const std::function<void(int64_t)>& call) {
  int64_t i = 0;
  const auto run = [&](int64_t n) {
    const double start = now();
    for (int64_t end = i + n; i < end; ++i) call(i);
    ops().wait();
    return now() - start;
  };
  run(2);
  const auto n = std::clamp<int64_t>(static_cast<int64_t>(kSampleSeconds / std::max(run(3) / 3, 1e-6)), 1, 2000);
  std::vector<double> samples;
  for (int s = 0; s < kSamples; ++s) samples.push_back(run(n) / static_cast<double>(n));
  check();
  std::sort(samples.begin(), samples.end());
  return samples[kSamples / 2];
}

Report::Report(int argc, char** argv, std::string device) : device_(std::move(device)) {
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--out") == 0) out_ = argv[i + 1];
    if (std::strcmp(argv[i], "--have") != 0) continue;
    std::ifstream file(argv[i + 1]);
    for (std::string line; std::getline(file, line);) {
      const auto row = nlohmann::json::parse(line, nullptr, false);
      if (!row.is_object() || !row.contains("op") || row.value("device", "") != device_) continue;
      have_[key_of(row["op"], row["shape"])] = {row["seconds"].get<double>(), row.value("note", "")};
    }
  }
}

double Report::measure(const Row& row, const std::function<Measured()>& measure) {
  const auto known = have_.find(key_of(row.op, row.shape));
  const Measured measured = known != have_.end() ? known->second : measure();
  rows_.emplace_back(row, measured);
  const nlohmann::json json = {{"op", row.op},         {"shape", row.shape}, {"seconds", measured.seconds},
                               {"bytes", row.bytes},   {"flops", row.flops}, {"over_link", row.over_link},
                               {"note", measured.note}, {"device", device_}};
  std::printf("%s\n", json.dump().c_str());
  std::fflush(stdout);
  if (!out_.empty() && known == have_.end()) std::ofstream(out_, std::ios::app) << json.dump() << '\n';
  return measured.seconds;
}

double Report::floor_seconds(const Row& row) const {
  const double rate = row.over_link ? link_ : copy_;
  return std::max(rate > 0 ? row.bytes / rate : 0, flops_ > 0 ? row.flops / flops_ : 0);
}

// Columns that a row has nothing for stay empty.
void Report::print(const Row& row, const Measured& measured) const {
  const double seconds = measured.seconds;
  const auto cell = [](const char* format, double value) {
    char text[32] = "";
    if (value > 0) std::snprintf(text, sizeof text, format, value);
    return std::string(text);
  };
  if (seconds > 0) {
    std::printf("| %s | %s | %.1f | %s | %s | %s | %s |\n", row.op.c_str(), row.shape.c_str(), seconds * 1e6,
                cell("%.0f", row.bytes / seconds * 1e-9).c_str(), cell("%.1f", row.flops / seconds * 1e-12).c_str(),
                cell("%.2f", floor_seconds(row) / seconds).c_str(), measured.note.c_str());
  } else {
    std::printf("| %s | %s | does not fit | | | | %s |\n", row.op.c_str(), row.shape.c_str(), measured.note.c_str());
  }
}

void Report::table() const {
  std::printf("\n| op | shape | us | GB/s | TFLOP/s | floor / time | |\n");
  std::printf("| --- | --- | ---: | ---: | ---: | ---: | --- |\n");
  for (const auto& [row, measured] : rows_) print(row, measured);
}

}  // namespace skv::gpu
