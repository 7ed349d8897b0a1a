// The calls that compute. Each hands its work to a dispatcher itself, so a host thread may make them: interrupted_ is
// then cleared when the call begins, and an interrupt that comes while it waits for a dispatcher is kept. One that
// comes before the call begins is lost: there was no call to stop.
#include <algorithm>

#include "lib/engine/session_impl.h"

namespace skv::engine {

namespace {

// How much prefill work a step may still start. One unit is always allowed, or a small allowance would never get on.
class Allowance {
 public:
  Allowance(const StepAllowance& step, int32_t layers)
      : token_layers_(step.max_prefill_tokens > UINT64_MAX / static_cast<uint64_t>(layers)
                          ? UINT64_MAX
                          : step.max_prefill_tokens * static_cast<uint64_t>(layers)),
        ns_(step.max_prefill_ns),
        start_(std::chrono::steady_clock::now()) {}

  bool take(int64_t unit) {
    const auto cost = static_cast<uint64_t>(unit);
    if (token_layers_ == 0 || ns_ == 0) return false;
    if (taken_ > 0 && (taken_ >= token_layers_ || cost > token_layers_ - taken_ || elapsed_ns() >= ns_)) return false;
    taken_ += cost;
    return true;
  }

 private:
  uint64_t elapsed_ns() const {
    return static_cast<uint64_t>(std::chrono::nanoseconds(std::chrono::steady_clock::now() - start_).count());
  }

  const uint64_t token_layers_;
  const uint64_t ns_;
  const std::chrono::steady_clock::time_point start_;
  uint64_t taken_ = 0;
};

}  // namespace

void Session::Impl::check_interrupt() const {
  if (core.interrupted.load(std::memory_order_relaxed)) {
    fail(SKV_E_INTERRUPTED, "interrupted; queued prompts are kept");
  }
}

void Session::Impl::write_result(int32_t rows_ok, const PrefillQueue::Counts& counts, skv_step_result* result) const {
  if (result == nullptr) return;
  const PrefillJob* job = queue.running();
  result->n_rows_ok = rows_ok;
  result->n_prefills_done = counts.done;
  result->n_prefills_failed = counts.failed;
  result->queued_tokens = queued_tokens();
  result->prefill_progress =
      job == nullptr ? 1.0 : static_cast<double>(job->done()) / static_cast<double>(job->total());
}

void Session::Impl::step(std::span<skv_row> rows, const StepAllowance& limits, skv_step_result* result) {
  PrefillQueue::Counts counts;
  int32_t rows_ok = 0;
  try {
    rows_ok = decode.run(table, rows);
    Allowance allowance(limits, core.model.layers);
    while (!queue.idle()) {
      check_interrupt();
      if (!allowance.take(queue.next_unit())) break;
      queue.run_unit(counts);
    }
  } catch (...) {
    write_result(rows_ok, counts, result);
    throw;
  }
  write_result(rows_ok, counts, result);
}

void Session::step(std::span<skv_row> rows, const StepAllowance& allowance, skv_step_result* result) {
  interrupted_.store(false, std::memory_order_relaxed);
  runtime_->executor().run([&] { impl_->step(rows, allowance, result); });
}

void Session::prefill(const std::function<bool(int64_t, int64_t)>& progress) {
  interrupted_.store(false, std::memory_order_relaxed);
  PrefillQueue::Counts counts;
  const int64_t total = impl_->queued_work();
  while (!impl_->queue.idle()) {
    impl_->check_interrupt();
    runtime_->executor().run([&] { impl_->queue.run_unit(counts); });
    if (progress && !progress(total - impl_->queued_work(), total)) {
      fail(SKV_E_INTERRUPTED, "stopped by the progress callback; queued prompts are kept");
    }
  }
  if (counts.failed > 0) raise(counts.first_failure);
}

}  // namespace skv::engine
