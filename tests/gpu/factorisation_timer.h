// Ops that pass everything on and add up the time of factorising keys: Gram matrices and their leading directions.
#pragma once

#include <chrono>
#include <string_view>

#include "kernels/ops.h"

namespace skv::gpu {

using namespace kernels;  // the types in SKV_KERNEL_OPS

class FactorisationTimer final : public kernels::Ops {
 public:
  explicit FactorisationTimer(const kernels::Ops& ops) : ops_(ops) {}
  double seconds() const { return seconds_; }

#define SKV_OP_METHOD(name, result, call, ...) \
  result name(__VA_ARGS__) const override { return run(#name, [&] { return ops_.name call; }); }
  SKV_KERNEL_OPS(SKV_OP_METHOD)
#undef SKV_OP_METHOD

  void begin_record() const override { ops_.begin_record(); }
  void end_record() const override { ops_.end_record(); }
  void begin_aside() const override { ops_.begin_aside(); }
  void end_aside() const override { ops_.end_aside(); }
  void join() const override { ops_.join(); }
  void copy(void* to, const void* from, int64_t bytes) const override { ops_.copy(to, from, bytes); }
  void fill(void* to, uint8_t byte, int64_t bytes) const override { ops_.fill(to, byte, bytes); }
  void upload(void* to, const void* host, int64_t bytes) const override { ops_.upload(to, host, bytes); }
  void download(void* host, const void* from, int64_t bytes) const override { ops_.download(host, from, bytes); }
  void wait() const override { ops_.wait(); }
  const char* failure() const override { return ops_.failure(); }

 private:
  template <class Fn>
  auto run(std::string_view name, Fn&& fn) const -> decltype(fn()) {
    if (name != "gram" && name != "gram_center" && name != "gram_prior" && name != "subspace_basis") return fn();
    ops_.wait();
    struct Timed {
      const FactorisationTimer& timer;
      std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
      ~Timed() {
        timer.ops_.wait();
        timer.seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      }
    } const timed{*this};
    return fn();
  }

  const kernels::Ops& ops_;
  mutable double seconds_ = 0;
};

}  // namespace skv::gpu
