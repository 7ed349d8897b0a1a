#include "lib/engine/prefill_queue.h"

#include <algorithm>

namespace skv::engine {

void PrefillQueue::push(SequenceState& sequence) {
  if (std::find(waiting_.begin(), waiting_.end(), &sequence) == waiting_.end()) waiting_.push_back(&sequence);
}

void PrefillQueue::drop(SequenceState& sequence) noexcept {
  if (job_ && &job_->sequence() == &sequence) job_.reset();
  std::erase(waiting_, &sequence);
  sequence.tokens.truncate(sequence.length);
}

int64_t PrefillQueue::next_unit() const {
  if (job_) return job_->next_unit();
  if (waiting_.empty()) return 0;
  return std::min<int64_t>(core_.session.prefill_block, waiting_.front()->queued());
}

void PrefillQueue::run_unit(Counts& counts) {
  if (idle()) return;
  SequenceState& sequence = job_ ? job_->sequence() : *waiting_.front();
  try {
    if (!job_) {
      job_ = std::make_unique<PrefillJob>(core_, sequence);
      waiting_.pop_front();
    }
    if (!job_->run_unit()) return;
    job_.reset();
    if (sequence.queued() == 0) ++counts.done;
  } catch (...) {
    drop_failed(sequence, counts);
  }
}

void PrefillQueue::drop_failed(SequenceState& sequence, Counts& counts) {
  sequence.prefill_failure = current_failure();
  drop(sequence);
  ++counts.failed;
  const skv_status status = sequence.prefill_failure.status;
  if (counts.first_failure.status == SKV_OK) counts.first_failure = sequence.prefill_failure;
  if (status != SKV_E_BUDGET && status != SKV_E_NOMEM) throw;
}

}  // namespace skv::engine
