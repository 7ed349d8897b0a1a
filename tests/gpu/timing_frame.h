// What the GPU timings share: the device, memory on it with random contents, timing of queued calls, rows of results.
//
// A row is printed as JSON when it is measured and appended to --out FILE; rows of the same device that stand in
// --have FILE are not measured again, so that a stage that was stopped goes on where it was. The table comes last.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/memory.h"
#include "lib/device/device.h"

namespace skv::gpu {

// Exits with status 2 and the reason where there is no device.
class Gpu {
 public:
  Gpu();
  const kernels::Ops& ops() const { return queue_->ops(); }
  MemoryAccount& account() { return account_; }
  const device::Device& device() const { return device_; }

  // Random bf16 of magnitude about 1 (any bytes are valid codes too). tier: fast or slow.
  Buffer random(int64_t bytes, skv_tier tier = SKV_TIER_FAST);
  Buffer empty(int64_t bytes, skv_tier tier = SKV_TIER_FAST) { return {account_, tier, SKV_PURPOSE_OTHER, bytes}; }
  template <class T>
  Buffer filled(const std::vector<T>& host) {
    Buffer data = empty(std::ssize(host) * static_cast<int64_t>(sizeof(T)));
    ops().upload(data.data(), host.data(), data.bytes());
    return data;
  }
  // Median of 7 samples of many calls each; call(i) queues the i-th. Exits with status 3 if the device fails.
  double seconds(const std::function<void(int64_t)>& call);
  void check() const;

 private:
  device::Device device_;
  MemoryAccount account_;
  std::unique_ptr<device::Queue> queue_;
  Buffer noise_;
};

struct Row {
  std::string op, shape;
  double bytes = 0;  // of the floor, through device memory or the host link
  double flops = 0;
  bool over_link = false;
};

struct Measured {
  Measured(double s = 0, std::string text = "") : seconds(s), note(std::move(text)) {}
  double seconds;    // 0: it does not fit
  std::string note;  // on one line
};

class Report {
 public:
  Report(int argc, char** argv, std::string device);  // --out FILE, --have FILE
  // Measures and prints the row, or takes what is there already; returns its seconds.
  double measure(const Row& row, const std::function<Measured()>& measure);
  void set_ceilings(double copy, double link, double flops) { copy_ = copy, link_ = link, flops_ = flops; }
  void table() const;

 private:
  double floor_seconds(const Row& row) const;
  void print(const Row& row, const Measured& measured) const;
  std::string out_, device_;
  std::map<std::string, Measured> have_;
  std::vector<std::pair<Row, Measured>> rows_;
  double copy_ = 0, link_ = 0, flops_ = 0;
};

}  // namespace skv::gpu
